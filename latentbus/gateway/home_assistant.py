"""Tells Home Assistant what :class:`~latentbus.gateway.discovery.Discovery` finds, over the gateway's connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from latentbus import __version__
from latentbus.client.client import Client
from latentbus.gateway.discovery import Discovery
from latentbus.gateway.state import FleetState
from pipeline.config.home_assistant_settings import HomeAssistantSettings
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.node.containment import Containment
from schemas import topics
from schemas.errors import BusError

_log = get_logger(__name__)
LOOK_S: Final = 1.0
"""Between two looks: answers that come faster are told once."""


class HomeAssistant:
    """Publishes devices, entities and states, and takes back what is gone.

    Args:
        client: the gateway's.
        state: the latest answers.
        settings: of the discovery.
        now_s: monotonic time.

    Attributes:
        discovery: what is said.
        look_s: see :data:`LOOK_S`.
    """

    def __init__(
        self,
        client: Client,
        state: FleetState,
        settings: HomeAssistantSettings,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.discovery = Discovery(
            client.fleet,
            state,
            gateway_topic=topics.status_topic("gateway", client.name),
            version=__version__,
            prefix=settings.prefix,
            enabled=settings.enabled,
        )
        self.look_s = LOOK_S
        self._client = client
        self._now_s = now_s
        self._problems = OncePerKind(_log)
        self._containment = Containment(_log)
        client.read_beside(self.discovery.filters, self.discovery.found)

    async def run(self) -> None:
        """Look and tell, for ever."""
        while True:
            await asyncio.sleep(self.look_s)
            with self._containment.around("home assistant"):
                await self.tell()

    async def tell(self) -> None:
        """Publish what differs from what the broker has."""
        if not self._client.connected:
            self.discovery.deaf()
            return
        for message in self.discovery.due(self._now_s()):
            if message is None:
                await asyncio.sleep(0)
                continue
            try:
                await self._client.publish_beside(message.topic, message.payload)
            except BusError as error:
                self._problems.report("home assistant", str(error), topic=message.topic)
                return  # it is due again at the next look
            self.discovery.published(message)
        for camera, count in self.discovery.too_many.items():
            self._problems.report("home assistant/too many", "not all questions are shown", camera=camera, count=count)
        self.discovery.too_many.clear()
