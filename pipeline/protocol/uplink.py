"""The one way out of a site: every publish passes here, is charged by its bytes on the wire, and leaves in turn.

Pure: :class:`Uplink` holds what waits, what the rate allows, and what is under way; the shell does the publishing.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Final

from pipeline.protocol.bucket import UplinkBucket
from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import Departure, DepartureOrder
from pipeline.protocol.ports import Acknowledge, Contained, Delivery, Problem, Publish, Sent
from pipeline.protocol.topic_aliases import TopicAliases
from pipeline.protocol.uplink_budget import UplinkBudget
from pipeline.protocol.uplink_shares import UplinkShares
from schemas import wire
from schemas.errors import StateError, WireSizeError
from schemas.messages import Chunk, KeyFrame, Message, Open
from schemas.trace_context import trace_properties
from schemas.wire_cost import (
    PUBACK_BYTES,
    TCP_SEGMENT_PAYLOAD_BYTES,
    TLS_RECORD_BYTES,
    publish_packet_bytes,
    publish_property_bytes,
    transport_wire_bytes,
)

MAX_UNDER_WAY: Final = 64
"""Publishes that the shell has not answered at a time: 64 open messages of 400 bytes fill a satellite round trip of
0.6 s at 340 kbps, and a slower uplink needs fewer."""

ACKNOWLEDGE_SHARE: Final = 0.5
"""Share of the uplink that acknowledgements may take, whatever comes: who has more to acknowledge lets the broker wait,
whose queue is bounded."""
ACKNOWLEDGE_TOGETHER: Final = 128
"""Acknowledgements that wait for one another at most. One by itself costs 78 bytes, of 128 each one costs less than
five: headers weigh more than 4 bytes of MQTT."""
ACKNOWLEDGE_WAIT_S: Final = 0.25
"""Wait of the first of several that came close together."""

CHARGE_TLS: Final = True
"""Bytes are charged as on a TLS connection even when this one is not: production links are, so numbers compare."""

SEGMENT_BYTES: Final = TCP_SEGMENT_PAYLOAD_BYTES - TLS_RECORD_BYTES
"""Packets that leave together, until they fill one segment."""
TOGETHER_S: Final = 0.05
"""Nor shall they take longer than this at the rate: the first of them arrives with the last."""

_TICK_S: Final = 1e-9
"""A shorter wait does not move a clock on."""

UplinkOutput = Publish | Acknowledge | Sent | Problem | Contained


class Uplink:
    """Queue, rate and publishes under way of one process.

    Messages that leave at one moment share the headers of TLS and TCP. With ``gather_s`` those that nobody waits for by
    the second stay until the others are there, so that they do.

    Args:
        rate_kbps: rate in 1000 bits a second; None has no limit.
        order: makes what decides which message leaves next, from the rate.
        gather_s: longest wait of a patient message for others.
        company: patient messages that need not wait any longer once there are so many; 0 for any number.
        budget: of a day and a month; charged with all that leaves. While it is closed everything waits.
        shares: of cameras; charged with what leaves for them.
        traced: mark messages of questions with their trace, which costs bytes.

    Attributes:
        counters: what did not go as planned, by reason; what the queue withdrew or merged is among them.
    """

    def __init__(
        self,
        rate_kbps: float | None,
        *,
        order: Callable[[float | None], DepartureOrder] = DepartureQueue,
        gather_s: float = 0.0,
        company: int = 0,
        budget: UplinkBudget | None = None,
        shares: UplinkShares | None = None,
        traced: bool = False,
    ) -> None:
        self._bucket = UplinkBucket(rate_kbps)
        self._budget = budget or UplinkBudget()
        self._shares = shares or UplinkShares(None, {})
        self._traced = traced
        self._queue = order(rate_kbps)
        self.counters: Counter[str] = self._queue.counters
        self._tokens = itertools.count(1)
        self._under_way: dict[int, Departure] = {}
        self._connected = False
        self._unacknowledged: list[int] = []
        self._acknowledge_s = self._acknowledge_many_s = -math.inf
        self._outputs: list[UplinkOutput] = []
        self._aliases = TopicAliases()
        self._together_bytes, self._together_s = 0, -math.inf
        self._gather_s, self._company = gather_s, company
        self._gathers_until_s = -math.inf
        self._last_words: dict[str, Departure] = {}

    # ---- reading ----------------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Messages that wait, or wait for the broker's word."""
        return len(self._queue) + len(self._last_words) + len(self._under_way)

    @property
    def waiting(self) -> int:
        """Messages that wait for their turn."""
        return len(self._queue)

    @property
    def under_way(self) -> int:
        """Publishes that the shell has not answered."""
        return len(self._under_way)

    def busy_s(self, now_s: float) -> float:
        """How long the uplink is busy with what has left."""
        return self._bucket.backlog_s(now_s)

    def take_outputs(self) -> list[UplinkOutput]:
        """What the shell must do, since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def next_wake_s(self) -> float | None:
        """When :meth:`send_next` or :meth:`acknowledge_due` has something to do."""
        due_s = []
        if self._may_send():
            due_s.append(max(self._bucket.free_s, self._gathers_until_s))
        if self._unacknowledged and not self._budget.is_closed:
            due_s.append(self._acknowledge_due_s())
        return min(due_s, default=None)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def put(self, departure: Departure, now_s: float) -> None:
        """Queue a message. When its traffic class is full it is counted and dropped."""
        alone = not len(self._queue)
        if departure.last_word and self._budget.is_empty:
            self.counters[f"dropped_{departure.label}"] += 1
            self._done(departure, Delivery.REFUSED, now_s)
        elif departure.last_word and self._budget.is_closed:
            self._last_words[departure.topic] = departure
        elif self._queue.put(departure, now_s):
            self._gather(departure, alone, now_s)
        else:
            self.counters[f"dropped_{departure.label}"] += 1
            self._problem(departure, "the uplink's queue is full")
            self._done(departure, Delivery.REFUSED, now_s)

    def connection(self, connected: bool, topic_aliases: int = 0) -> None:
        """The connection came or went; without one everything waits.

        Args:
            connected: it came.
            topic_aliases: that the broker grants on it.
        """
        self._connected = connected
        self._aliases = TopicAliases(topic_aliases)
        if not connected:
            self._unacknowledged.clear()  # the next connection brings them again

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        """What became of a publish.

        Raises:
            StateError: the token is not under way: the shell has answered twice.
        """
        departure = self._under_way.pop(token, None)
        if departure is None:
            raise StateError(f"publish {token} has no answer to come")
        if delivery is Delivery.CONNECTION_LOST and departure.until_sent and self._queue.put(departure, now_s):
            self.counters[f"again_{departure.label}"] += 1
            return
        if not delivery.arrived:
            self.counters[f"failed_{delivery.name.lower()}"] += 1
        self._done(departure, delivery, now_s)

    def acknowledge(self, token: int) -> None:
        """A received message is done with; its acknowledgement waits for its turn."""
        self._unacknowledged.append(token)

    def acknowledged(self, count: int, now_s: float) -> None:
        """So many acknowledgements have left; the next ones wait.

        Under a flood they wait and leave together, so that they never take the whole uplink.
        """
        if not count:
            return
        wire_bytes = transport_wire_bytes(count * PUBACK_BYTES, tls=CHARGE_TLS)
        self._left(Sent(None, "puback", None, 0, wire_bytes, now_s))
        takes_s = self._bucket.time_s(wire_bytes)
        self._acknowledge_many_s = self._acknowledge_s = now_s + takes_s / ACKNOWLEDGE_SHARE
        if count > 1 and takes_s:
            self._acknowledge_s = max(self._acknowledge_s, now_s + ACKNOWLEDGE_WAIT_S)

    # ---- what leaves ------------------------------------------------------------------------------------------------

    def acknowledge_due(self, now_s: float, *, at_once: bool = False) -> None:
        """Acknowledge what waits, if it is time."""
        if self._budget.is_closed:
            return  # the broker waits, whose queue is bounded
        if self._unacknowledged and (at_once or now_s >= self._acknowledge_due_s()):
            due, self._unacknowledged = self._unacknowledged, []
            self._outputs.append(Acknowledge(tuple(due)))

    def send_next(self, now_s: float) -> bool:
        """Let the next message leave, if one may; whether there may be another one."""
        if self._last_words and self._connected:
            self._send(self._last_words.pop(next(iter(self._last_words))), now_s)
            return True
        if not self._may_send() or now_s < self._gathers_until_s:
            return False
        if self._bucket.wait_s(now_s) > _TICK_S and not self._joins(now_s):
            return False
        departure = self._queue.pop(now_s)
        if departure is None:
            return False  # all that waited was withdrawn
        try:
            self._send(departure, now_s)
        except Exception as error:  # noqa: BLE001 - one that cannot be made ends alone
            self._outputs.append(Contained("departure", error))
        return True

    def _may_send(self) -> bool:
        open_ = self._connected and not self._budget.is_closed
        return open_ and len(self._queue) > 0 and len(self._under_way) < MAX_UNDER_WAY

    def _gather(self, departure: Departure, alone: bool, now_s: float) -> None:
        """Whether what waits goes on waiting for company, now that one more message does."""
        if not departure.patient or 0 < self._company <= len(self._queue):
            self._gathers_until_s = -math.inf
        elif alone:
            self._gathers_until_s = now_s + self._gather_s

    def _joins(self, now_s: float) -> bool:
        """Whether the next message may leave with those that leave at this moment, ahead of the rate."""
        joined = self._together_bytes if now_s == self._together_s else 0
        return 0 < joined < SEGMENT_BYTES and self._bucket.time_s(joined) < TOGETHER_S

    def _wire_bytes(self, packet_bytes: int, now_s: float) -> int:
        """What a packet adds to what leaves at this moment; the first one pays the headers."""
        if now_s != self._together_s:
            self._together_bytes, self._together_s = 0, now_s
        before_bytes = transport_wire_bytes(self._together_bytes, tls=CHARGE_TLS)
        self._together_bytes += packet_bytes
        return transport_wire_bytes(self._together_bytes, tls=CHARGE_TLS) - before_bytes

    def _send(self, departure: Departure, now_s: float) -> None:
        message = departure.stamp(now_s)
        if message is None:
            self.counters[f"withdrawn_{departure.label}_decided"] += 1
            return
        try:
            payload = b"" if departure.clears else wire.encode(message)
        except WireSizeError as error:
            self.counters["failed_too_large"] += 1
            self._problem(departure, str(error))
            self._done(departure, Delivery.REFUSED, now_s)
            return
        name, alias = self._aliases.spell(departure.topic)
        marks = trace_properties(departure.topic, message) if self._traced and not departure.clears else ()
        property_bytes = publish_property_bytes(
            correlation_data=departure.correlation_data, topic_alias=alias, user_properties=marks
        )
        packet_bytes = publish_packet_bytes(name, len(payload), departure.qos, property_bytes=property_bytes)
        wire_bytes = self._wire_bytes(packet_bytes, now_s)
        self._left(
            Sent(
                departure.camera,
                departure.label,
                departure.frame,
                _latent_bytes(message),
                wire_bytes,
                now_s,
                departure.traffic_class,
                now_s - departure.queued_s,
            )
        )
        token = next(self._tokens)
        self._under_way[token] = departure
        self._outputs.append(
            Publish(
                departure.topic,
                message,
                payload,
                departure.qos,
                token,
                departure.label,
                retain=departure.retain,
                correlation_data=departure.correlation_data,
                user_properties=marks,
            )
        )

    def _acknowledge_due_s(self) -> float:
        many = len(self._unacknowledged) >= ACKNOWLEDGE_TOGETHER
        return self._acknowledge_many_s if many else self._acknowledge_s

    def _left(self, sent: Sent) -> None:
        self._bucket.charge(sent.wire_bytes, sent.at_s)
        self._budget.charge(sent.wire_bytes)
        self._shares.charge(sent.camera, sent.wire_bytes, sent.at_s)
        self._outputs.append(sent)

    def _done(self, departure: Departure, delivery: Delivery, now_s: float) -> None:
        if departure.done is not None:
            departure.done(delivery, now_s)

    def _problem(self, departure: Departure, text: str) -> None:
        context = {} if departure.camera is None else {"camera": departure.camera}
        self._outputs.append(Problem(f"uplink/{departure.label}", text, context=context))


def _latent_bytes(message: Message) -> int:
    return len(message.payload) if isinstance(message, Open | Chunk | KeyFrame) else 0
