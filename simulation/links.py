"""The wire between the broker and one client."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class LinkFaults:
    """What the wire does to deliveries at present.

    Attributes:
        delay_s: mean of the exponential part of a delivery's delay.
        extra_s: what comes on top of it.
        loss: chance that a QoS 0 message is lost.
        duplicate: chance that a QoS 1 message arrives twice.
        reorder: chance that a message is overtaken by later ones.
    """

    delay_s: float = 0.02
    extra_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0


@dataclass(slots=True)
class Link:
    """The wire to one client; its random numbers are its own, so that another client's traffic does not change them."""

    faults: LinkFaults
    draw: random.Random
