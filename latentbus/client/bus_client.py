"""A client with a name and one connection to the broker, for those that ask edges for what they keep."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from latentbus.client.client import CONNECT_TIMEOUT_S
from latentbus.client.questions import client_name
from latentbus.options.arguments import checked_name
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings


class BusClient:
    """Connects to a broker, as an async context manager.

    Args:
        broker: where the broker is, and who this client is to it.
        name: below which replies come; the broker's user name, or a drawn one, unless given.
        option: what the user calls the name.

    Raises:
        ConfigError: the name cannot stand in a topic.
    """

    def __init__(self, broker: BrokerSettings, *, name: str | None = None, option: str = "name") -> None:
        self.name = checked_name(option, name) or client_name(broker.username)
        self._bus = MqttBus(broker, client_id=f"{self.name}-{secrets.token_hex(4)}")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectionLostError: the broker cannot be reached.
        """
        await self._stack.enter_async_context(self._bus)
        try:
            await self._bus.wait_connected(CONNECT_TIMEOUT_S)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._stack.__aexit__(kind, error, traceback)
