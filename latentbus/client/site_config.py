"""What operators say about a site: read it, change it, and hear what the edge did with it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from latentbus.client.bus_client import BusClient
from pipeline.bus.base import Inbound, Subscription
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.errors import RemoteError, SiteConfigError
from schemas.messages import Message, Receipt, SiteConfig, Status

PATIENCE_S: Final = 20.0
"""Longest wait for the edge: its uplink may be thin and busy."""
READ_S: Final = 5.0
"""Longest wait for what the broker retains."""


class SiteConfigClient(BusClient):
    """Reads and writes the configuration of sites on the bus, as an async context manager.

    Args:
        broker: where the broker is, and who this client is to it.
        name: below which the receipts come; the broker's user name, or a drawn one, unless given.
        patience_s: longest wait for a receipt.
    """

    def __init__(self, broker: BrokerSettings, *, name: str | None = None, patience_s: float = PATIENCE_S) -> None:
        super().__init__(broker, name=name, option="--id")
        self._patience_s = patience_s

    async def read(self, site: str) -> SiteConfig:
        """What the broker retains about a site; without anything what says nothing.

        Raises:
            SiteConfigError: no edge of that name was ever on this broker, or what is retained cannot be read.
        """
        found = SiteConfig(site=site)
        await self._bus.subscribe(Subscription(topics.config_topic(site), qos=1))
        # A broker sends what it retains with each subscription: what comes of the second is behind all of the first.
        await self._bus.subscribe(Subscription(topics.status_topic("edge", site), qos=1))
        try:
            async with asyncio.timeout(READ_S):
                while True:
                    match await self._next():
                        case SiteConfig() as config if config.site == site:
                            found = config
                        case Status() as status if status.id == site:
                            return found
                        case _:
                            pass
        except TimeoutError:
            raise SiteConfigError(site, "no edge of that name is known to this broker") from None
        finally:
            await self._bus.unsubscribe(topics.config_topic(site))
            await self._bus.unsubscribe(topics.status_topic("edge", site))

    async def change(self, site: str, change: Callable[[SiteConfig], SiteConfig]) -> str:
        """Change what is retained about a site; what holds now, in the words of the edge.

        Args:
            site: the site.
            change: makes what shall hold from what does.

        Raises:
            SiteConfigError: the edge refuses it, or does not answer.
            NotAuthorizedError: the broker does not let this client configure sites.
        """
        config = change(await self.read(site))
        reply = topics.receipt_topic(self.name, site, f"config-{secrets.token_hex(4)}")
        await self._bus.subscribe(Subscription(reply, qos=1))
        says_nothing = config == SiteConfig(site=site)
        await self._bus.publish(
            topics.config_topic(site),
            b"" if says_nothing else wire.encode(config),
            qos=1,
            retain=True,
            response_topic=reply,
        )
        try:
            async with asyncio.timeout(self._patience_s):
                while not isinstance(receipt := await self._next(), Receipt):
                    pass
        except TimeoutError:
            waits = "the edge did not answer; it does what the broker retains as soon as it is online"
            raise SiteConfigError(site, waits) from None
        if not receipt.accepted:
            raise SiteConfigError(site, receipt.reason)
        return receipt.reason

    async def _next(self) -> Message | None:
        while True:
            for event in await self._bus.receive_batch(1):
                if not isinstance(event, Inbound):
                    continue
                if event.qos:
                    self._bus.acknowledge(event)
                try:
                    return wire.decode_publish(event.topic, event.payload)[1]
                except RemoteError:
                    continue
