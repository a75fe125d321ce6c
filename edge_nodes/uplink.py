"""The one way out of a site: every publish passes here, is charged by its bytes on the wire, and leaves in turn."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.bus.base import Bus, Inbound, Qos
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.node.clock import Clock
from pipeline.node.containment import Containment
from pipeline.protocol.bucket import UplinkBucket
from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import Departure, Lane
from schemas import wire
from schemas.errors import BusError, ConnectionLostError, WireSizeError
from schemas.messages import Chunk, KeyFrame, Message, Open
from schemas.types import FrameId
from schemas.wire_cost import PUBACK_BYTES, publish_property_bytes, publish_wire_bytes, transport_wire_bytes

_log = get_logger(__name__)

CONCURRENT_PUBLISHES = 64
"""QoS 1 publishes that wait for their PUBACK at a time: 64 open messages of 400 bytes fill a satellite round trip of
0.6 s at 340 kbps, and a slower uplink needs fewer."""

ACKNOWLEDGE_SHARE = 0.5
"""Share of the uplink that acknowledgements may take, whatever comes: who has more to acknowledge lets the broker wait,
whose queue is bounded."""
ACKNOWLEDGE_TOGETHER = 128
"""Acknowledgements that wait for one another at most. One by itself costs 78 bytes, of 128 each one costs less than
five: headers weigh more than 4 bytes of MQTT."""
ACKNOWLEDGE_WAIT_S = 0.25
"""Wait of the first of several that came close together."""

CHARGE_TLS = True
"""Bytes are charged as on a TLS connection even when this one is not: production links are, so numbers compare."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One publish that left.

    Attributes:
        camera: camera that it is about, None for what concerns the site.
        label: kind of message.
        frame: frame that it is about.
        latent_bytes: coded latents in it.
        wire_bytes: bytes on the wire with all headers.
        at_s: when, on the edge's monotonic clock.
        lane: line that it waited in, None when it left without waiting.
        waited_s: how long.
    """

    camera: str | None
    label: str
    frame: FrameId | None
    latent_bytes: int
    wire_bytes: int
    at_s: float
    lane: Lane | None = None
    waited_s: float = 0.0


class Uplink:
    """Queue, bucket and publisher of a site.

    Args:
        bus: the connection.
        rate_kbps: rate in 1000 bits a second; None has no limit.
        clock: the edge's clock.
        on_sent: told about each publish that left.
        containment: takes what nobody else has handled.

    Attributes:
        counters: what did not go as planned, by reason; what the queue withdrew or merged is among them.
    """

    def __init__(
        self,
        bus: Bus,
        rate_kbps: float | None,
        clock: Clock,
        *,
        on_sent: Callable[[Sent], None],
        containment: Containment | None = None,
    ) -> None:
        self._bus = bus
        self._bucket = UplinkBucket(rate_kbps)
        self._clock = clock
        self._on_sent = on_sent
        self._queue = DepartureQueue(rate_kbps)
        self.counters: Counter[str] = self._queue.counters
        self._slots = asyncio.Semaphore(CONCURRENT_PUBLISHES)
        self._in_flight = 0
        self._unacknowledged: list[Inbound] = []
        self._acknowledge_s = self._acknowledge_many_s = -math.inf
        self._acknowledging: asyncio.Task[None] | None = None
        self._connected = False
        self._work = asyncio.Event()
        self._moved = asyncio.Event()
        self._problems = OncePerKind(_log)
        self._containment = containment or Containment(_log, sleep=clock.sleep)

    @property
    def unsent(self) -> int:
        """Messages that wait, or wait for the broker's word."""
        return len(self._queue) + self._in_flight

    def send(self, departure: Departure) -> None:
        """Queue a message. When its lane is full it is counted and dropped; ``done`` is told."""
        if self._queue.put(departure, self._clock.now_s()):
            self._wake()
            return
        self.counters[f"dropped_{departure.label}"] += 1
        self._problems.report(f"uplink/{departure.label}", "the uplink's queue is full", camera=departure.camera)
        if departure.done is not None:
            departure.done(BusError("the queue of the uplink is full"))

    def connection(self, connected: bool) -> None:
        """The connection came or went; without one everything waits."""
        self._connected = connected
        if not connected:
            self._unacknowledged.clear()  # the next connection brings them again
        self._wake()

    def acknowledge(self, inbound: Inbound) -> None:
        """Acknowledge a message to the broker; its PUBACK is charged.

        Under a flood acknowledgements wait and leave together, so that they never take the whole uplink.
        """
        if not inbound.qos:
            self._bus.acknowledge(inbound)
            return
        self._unacknowledged.append(inbound)
        many = len(self._unacknowledged) >= ACKNOWLEDGE_TOGETHER
        if self._clock.now_s() >= (self._acknowledge_many_s if many else self._acknowledge_s):
            self._acknowledge_all()
        elif self._acknowledging is None:
            self._acknowledging = asyncio.get_running_loop().create_task(self._acknowledge_later(), name="acknowledge")

    async def _acknowledge_later(self) -> None:
        try:
            while self._unacknowledged:
                now_s = self._clock.now_s()
                if now_s >= self._acknowledge_s:
                    self._acknowledge_all()
                else:
                    await self._clock.sleep(self._acknowledge_s - now_s)
        finally:
            self._acknowledging = None

    def _acknowledge_all(self) -> None:
        """Acknowledge what waits, and say when the next ones may leave."""
        due, self._unacknowledged = self._unacknowledged, []
        # Acknowledgements leave in the order of arrival: all of them together with the first, which is settled last.
        sent = sum(self._bus.acknowledge(inbound) for inbound in reversed(due))
        if not sent:
            return
        now_s = self._clock.now_s()
        wire_bytes = transport_wire_bytes(sent * PUBACK_BYTES, tls=CHARGE_TLS)
        self._left(Sent(None, "puback", None, 0, wire_bytes, now_s))
        takes_s = self._bucket.time_s(wire_bytes)
        self._acknowledge_many_s = self._acknowledge_s = now_s + takes_s / ACKNOWLEDGE_SHARE
        if sent > 1 and takes_s:
            self._acknowledge_s = max(self._acknowledge_s, now_s + ACKNOWLEDGE_WAIT_S)

    async def room(self, camera: str) -> None:
        """Wait until no open message of this camera waits: a frame taken then is fresh when it leaves."""
        while self._queue.opens_waiting(camera):
            await self._next_move()

    async def idle(self) -> None:
        """Wait until nothing waits and the broker has had its word on everything."""
        self._acknowledge_all()
        while self.unsent:
            await self._next_move()

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        try:
            await self._send_in_turn()
        finally:
            if self._acknowledging is not None:
                self._acknowledging.cancel()

    async def _send_in_turn(self) -> None:
        async with asyncio.TaskGroup() as publishes:
            while True:
                await self._work.wait()
                if not (self._connected and len(self._queue)):
                    self._work.clear()
                    continue
                wait_s = self._bucket.wait_s(self._clock.now_s())
                if wait_s > 0:
                    await self._clock.sleep(wait_s)
                    continue
                await self._slots.acquire()
                departure = self._queue.pop(self._clock.now_s()) if self._connected else None
                if departure is None:
                    self._slots.release()
                    self._moved.set()  # the last ones may have been withdrawn
                    continue
                self._in_flight += 1
                payload = self._stamped(departure)
                if payload is None:
                    self._ended()
                elif departure.qos:
                    publishes.create_task(self._publish(departure, payload), name=f"publish {departure.label}")
                else:
                    # In line: what follows about the same frame must not overtake it.
                    await self._publish(departure, payload)

    def _stamped(self, departure: Departure) -> bytes | None:
        """The message as it leaves, None when there is none; one that cannot be made ends alone."""
        try:
            return self._stamp(departure)
        except Exception as error:  # noqa: BLE001 - the queue must go on
            with self._containment.around("departure"):
                self._failed(departure, error)
            self._containment.note("departure", error)
            return None

    def _stamp(self, departure: Departure) -> bytes | None:
        now_s = self._clock.now_s()
        message = departure.stamp(now_s)
        if message is None:
            self.counters[f"withdrawn_{departure.label}_decided"] += 1
            return None
        try:
            payload = b"" if departure.clears else wire.encode(message)
        except WireSizeError as error:
            self._failed(departure, error)
            return None
        properties = publish_property_bytes(correlation_data=departure.correlation_data)
        wire_bytes = publish_wire_bytes(
            departure.topic, len(payload), departure.qos, tls=CHARGE_TLS, property_bytes=properties
        )
        self._left(
            Sent(
                departure.camera,
                departure.label,
                departure.frame,
                _latent_bytes(message),
                wire_bytes,
                now_s,
                departure.lane,
                now_s - departure.queued_s,
            )
        )
        return payload

    async def _publish(self, departure: Departure, payload: bytes) -> None:
        qos: Qos = 1 if departure.qos else 0
        try:
            result = await self._bus.publish(
                departure.topic,
                payload,
                qos=qos,
                retain=departure.retain,
                correlation_data=departure.correlation_data,
            )
        except ConnectionLostError as error:
            if departure.until_sent and self._queue.put(departure, self._clock.now_s()):
                self.counters[f"again_{departure.label}"] += 1
                self._wake()
            else:
                self._failed(departure, error)
        except BusError as error:
            self._failed(departure, error)
        except Exception as error:  # noqa: BLE001 - the queue must go on
            self._failed(departure, error)
            self._containment.note("publish", error)
        else:
            if departure.done is not None:
                with self._containment.around("published"):
                    departure.done(result.no_subscribers)
        finally:
            self._ended()

    def _failed(self, departure: Departure, error: Exception) -> None:
        kind = type(error).__name__
        self.counters[f"failed_{kind}"] += 1
        self._problems.report(f"uplink/{departure.label}/{kind}", str(error), camera=departure.camera)
        if departure.done is not None:
            departure.done(error)

    def _left(self, sent: Sent) -> None:
        self._bucket.charge(sent.wire_bytes, sent.at_s)
        self._on_sent(sent)

    def _ended(self) -> None:
        self._in_flight -= 1
        self._slots.release()
        self._moved.set()

    async def _next_move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _wake(self) -> None:
        self._work.set()
        self._moved.set()


def _latent_bytes(message: Message) -> int:
    return len(message.payload) if isinstance(message, Open | Chunk | KeyFrame) else 0
