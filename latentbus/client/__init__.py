"""The client side: :class:`Client` asks and watches cameras over one connection to the broker (docs/client.md)."""

from latentbus.client.client import Client as Client
from latentbus.client.mailbox import Told as Told
