"""Somebody with a valid certificate and bad intentions, and a tally of what the broker let through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from latentbus.attack.bystanders import Bystander, Watcher
from latentbus.attack.fleet import SecuredFleet
from latentbus.attack.ledger import BystanderLedger
from latentbus.attack.options import AttackOptions
from pipeline.bus.base import Inbound, Qos, Subscription
from pipeline.bus.mqtt import MqttBus
from schemas import wire
from schemas.errors import BusError, NotAuthorizedError, WireError
from schemas.messages import Answer, QueryOutcome
from schemas.topics import Family

CONNECT_TIMEOUT_S: Final = 20.0
_PUBLISH_TIMEOUT_S: Final = 10.0
_AT_ONCE: Final = 200
"""Publishes under way at a time."""


@dataclass(slots=True)
class Tally:
    """What became of what an attacker sent.

    Attributes:
        taken: publishes and subscriptions that the broker took.
        refused: those that it refused.
        broken: those that met a broken connection.
        forbidden: those that it took though they must be refused.
        notes: what else is worth a word in the report.
        failed: what else got through, in words.
    """

    taken: int = 0
    refused: int = 0
    broken: int = 0
    forbidden: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Stage:
    """What an attack has to work with.

    Attributes:
        options: of the run.
        fleet: what is attacked.
        watcher: the observer of the run.
        bystanders: who asks meanwhile.
        ledger: of the bystanders.
        tally: of this attack.
    """

    options: AttackOptions
    fleet: SecuredFleet
    watcher: Watcher
    bystanders: Sequence[Bystander]
    ledger: BystanderLedger
    tally: Tally

    @asynccontextmanager
    async def attacker(self, device: str, filters: Sequence[str] = ()) -> AsyncIterator[Attacker]:
        """A connection with the certificate of a device.

        Args:
            device: whose.
            filters: what it reads; its own replies in any case, for a client.
        """
        bus = MqttBus(
            self.fleet.broker_settings(device),
            client_id=device,
            subscriptions=[Subscription(entry, qos=1) for entry in filters],
            receive_maximum=1024,
        )
        async with bus:
            await bus.wait_connected(CONNECT_TIMEOUT_S)
            attacker = Attacker(device, bus, self.tally, self.ledger)
            reading = asyncio.create_task(attacker.read(), name=f"{device} reads")
            try:
                yield attacker
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


class Attacker:
    """A connection of an attacker.

    Args:
        name: of the device.
        bus: connected.
        tally: where everything is counted.
        ledger: where foreign messages are.

    Attributes:
        terminals: keys of the queries whose end it saw.
    """

    def __init__(self, name: str, bus: MqttBus, tally: Tally, ledger: BystanderLedger) -> None:
        self.name = name
        self.terminals: set[str] = set()
        self._bus = bus
        self._tally = tally
        self._ledger = ledger
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 1,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
        forbidden: bool = False,
    ) -> None:
        """Publish and count what became of it.

        Args:
            topic: where.
            payload: what.
            qos: 1 has the broker say whether it takes it.
            retain: with the retain flag.
            response_topic: where a reply shall go.
            correlation_data: with the reply.
            user_properties: further ballast.
            forbidden: the broker must refuse it.
        """
        async with self._room:
            try:
                await self._bus.publish(
                    topic,
                    payload,
                    qos=qos,
                    retain=retain,
                    response_topic=response_topic,
                    correlation_data=correlation_data,
                    user_properties=user_properties,
                    timeout_s=_PUBLISH_TIMEOUT_S,
                )
            except NotAuthorizedError:
                self._tally.refused += 1
            except BusError:
                self._tally.broken += 1
            else:
                self._took(f"publish {topic}", forbidden)

    async def subscribe(self, topic_filter: str, *, forbidden: bool = True) -> None:
        """Subscribe and count what became of it."""
        try:
            await self._bus.subscribe(Subscription(topic_filter, qos=1))
        except NotAuthorizedError:
            self._tally.refused += 1
        except BusError:
            self._tally.broken += 1
        else:
            self._took(f"subscribe {topic_filter}", forbidden)

    async def read(self) -> None:
        """Read until cancelled; a reply that belongs to somebody else is foreign."""
        while True:
            for event in await self._bus.receive_batch():
                if not isinstance(event, Inbound):
                    continue
                self._bus.acknowledge(event)
                with contextlib.suppress(WireError):
                    self._take(event)

    def _take(self, inbound: Inbound) -> None:
        topic, message = wire.decode_publish(inbound.topic, inbound.payload)
        if not isinstance(message, Answer | QueryOutcome):
            return
        if topic.family is Family.REPLY:
            self._ledger.replied(self.name, message)
        if message.outcome is not None:
            self.terminals.add(message.query_id)

    def _took(self, what: str, forbidden: bool) -> None:
        self._tally.taken += 1
        if forbidden:
            self._tally.forbidden.append(what)


async def at_rate(rate_per_s: float, duration_s: float, send: Callable[[int], asyncio.Task[None]]) -> None:
    """Send so many a second for so long, whatever becomes of each."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    tasks: set[asyncio.Task[None]] = set()
    for number in range(round(rate_per_s * duration_s)):
        task = send(number)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(max(0.0, began_s + (number + 1) / rate_per_s - loop.time()))
    await asyncio.gather(*tasks)
