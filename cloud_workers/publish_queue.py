"""What a worker publishes, in order and bounded. The session never waits for the broker."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from pipeline.bus.base import Bus, Qos
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.node.containment import Containment
from pipeline.protocol.effects import SendAnswer, WorkerEffect
from schemas import wire
from schemas.errors import BusError, ConnectionLostError, WireSizeError

_log = get_logger(__name__)

MAX_MESSAGES: Final = 4_096
"""Answers of some minutes at full load; a worker that cannot publish for longer is of no use to its edges anyway."""
MAX_BYTES: Final = 8 * 1024 * 1024
MAX_UNACKNOWLEDGED: Final = 64
"""QoS 1 publishes under way at once: what a link with a round trip of 100 ms needs for 600 answers a second."""
RETRIES: Final = 2
RECONNECT_WAIT_S: Final = 10.0
JSON_CONTENT_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One publish."""

    topic: str
    payload: bytes
    qos: Qos
    content_type: str | None = None
    correlation_data: bytes | None = None


class PublishQueue:
    """Takes effects at once, publishes them in order.

    QoS 0 is sent once: what it carries is repeated by whoever misses it. QoS 1 is sent again after a reconnect,
    because a terminal answer that gets lost costs its edge a lease and another open; receivers drop repeats.

    Args:
        bus: where to.
        problems: log of what could not be published.
        max_messages: publishes that wait; beyond it new ones are dropped and counted.
        max_bytes: their payloads.
        containment: takes what nobody else has handled.

    Attributes:
        counters: what was sent, repeated, dropped and refused.
    """

    def __init__(
        self,
        bus: Bus,
        problems: OncePerKind,
        containment: Containment | None = None,
        *,
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._bus = bus
        self._problems = problems
        self._containment = containment or Containment(_log)
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[Outgoing] = deque()
        self._waiting_bytes = 0
        self._under_way = 0
        self._filled = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()

    def __len__(self) -> int:
        return len(self._waiting) + self._under_way

    def put_effect(self, effect: WorkerEffect) -> None:
        """Encode an effect of the session and take it."""
        try:
            payload = wire.encode(effect.message)
        except WireSizeError as error:
            self._problems.report("publish/oversize", str(error))
            self.counters["oversize"] += 1
            return
        qos: Qos = 1 if effect.qos else 0
        if isinstance(effect, SendAnswer):
            self.put(Outgoing(effect.topic, payload, qos, JSON_CONTENT_TYPE))
            if effect.reply_to is not None:
                reply = effect.reply_to
                self.put(Outgoing(reply.topic, payload, qos, JSON_CONTENT_TYPE, reply.correlation_data))
        else:
            self.put(Outgoing(effect.topic, payload, qos))

    def put(self, message: Outgoing) -> None:
        """Take a message, or drop it when the bounds are reached."""
        if len(self._waiting) >= self._max_messages or self._waiting_bytes + len(message.payload) > self._max_bytes:
            self.counters["dropped"] += 1
            self._problems.report("publish/full", f"{len(self._waiting)} messages wait for the broker")
            return
        self._waiting.append(message)
        self._waiting_bytes += len(message.payload)
        self._settled.clear()
        self._filled.set()

    async def flush(self) -> None:
        """Wait until everything taken so far is sent, refused or given up."""
        await self._settled.wait()

    async def run(self) -> None:
        """Publish until cancelled."""
        slots = asyncio.Semaphore(MAX_UNACKNOWLEDGED)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._filled.wait()
                while self._waiting:
                    if self._waiting[0].qos:
                        await slots.acquire()
                    message = self._waiting.popleft()
                    self._waiting_bytes -= len(message.payload)
                    self._under_way += 1
                    if message.qos:
                        # Not awaited: the next message must not wait for this one's round trip, only for its turn.
                        group.create_task(self._publish_slot(message, slots), name=f"publish[{message.topic}]")
                        await asyncio.sleep(0)
                    else:
                        await self._publish(message)
                self._filled.clear()

    async def _publish_slot(self, message: Outgoing, slots: asyncio.Semaphore) -> None:
        try:
            await self._publish(message)
        finally:
            slots.release()

    async def _publish(self, message: Outgoing) -> None:
        try:
            for tries_left in reversed(range(1 + RETRIES if message.qos else 1)):
                try:
                    await self._bus.publish(
                        message.topic,
                        message.payload,
                        qos=message.qos,
                        content_type=message.content_type,
                        correlation_data=message.correlation_data,
                    )
                    self.counters["published"] += 1
                    return
                except ConnectionLostError:
                    if not tries_left:
                        raise
                    self.counters["repeated"] += 1
                    await self._bus.wait_connected(RECONNECT_WAIT_S)
        except BusError as error:
            self.counters["failed"] += 1
            self._problems.report(f"publish/{type(error).__name__}", str(error), topic=message.topic)
        except Exception as error:  # noqa: BLE001 - it ends this message, not the worker
            self.counters["failed"] += 1
            self._containment.note("publish", error)
        finally:
            self._under_way -= 1
            if not len(self):
                self._settled.set()
