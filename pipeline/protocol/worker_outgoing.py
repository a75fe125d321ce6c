"""What a worker publishes: in order, bounded, and again where a lost connection may have cost it."""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.protocol.effects import SendAnswer, WorkerEffect
from pipeline.protocol.ports import Delivery, Problem, Publish, Qos
from schemas import topics, wire
from schemas.errors import StateError, WireSizeError
from schemas.messages import Message

MAX_MESSAGES: Final = 4_096
"""Answers of some minutes at full load; a worker that cannot publish for longer is of no use to its edges anyway."""
MAX_BYTES: Final = 8 * 1024 * 1024
MAX_UNDER_WAY: Final = 64
"""Publishes under way at once, for QoS 0 and 1 each: what a link with a round trip of 100 ms needs for 600 answers a
second."""
RETRIES: Final = 2
RETRY_S: Final = 1.0
"""After a loss that may be the first sign of a broken connection."""
CONNECTION_WAIT_S: Final = 10.0
"""Time that a QoS 1 message waits for a connection."""
JSON_CONTENT_TYPE: Final = "application/json"


@dataclass(order=True, slots=True)
class _Waiting:
    """A publish that waits for its turn, for the first time or again."""

    order: int
    publish: Publish = field(compare=False)
    since_s: float = field(compare=False)
    tries: int = field(default=0, compare=False)
    not_before_s: float = field(default=0.0, compare=False)


class WorkerOutgoing:
    """Takes messages at once and gives them out in order.

    QoS 0 is sent once: what it carries is repeated by whoever misses it. QoS 1 is sent again after a loss, because a
    terminal answer that gets lost costs its edge a lease and another open; receivers drop repeats. A status is sent
    once and at once: a new connection brings a new one.

    Args:
        max_messages: messages that wait; beyond it new ones are dropped and counted.
        max_bytes: their payloads.

    Attributes:
        counters: what was published, repeated, dropped, failed and oversize.
    """

    def __init__(self, *, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self.counters: Counter[str] = Counter()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._connected = False
        self._changed_s = 0.0
        self._tokens = 0
        self._statuses: list[Publish] = []
        self._statuses_under_way: set[int] = set()
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._again: list[_Waiting] = []
        self._under_way: dict[int, _Waiting] = {}
        self._by_qos: Counter[Qos] = Counter()
        self._problems: list[Problem] = []

    def __len__(self) -> int:
        """Messages that wait or are under way, without statuses."""
        return len(self._waiting) + len(self._again) + len(self._under_way)

    def sizes(self) -> tuple[int, int]:
        """Messages that wait for their turn, and their bytes."""
        return len(self._waiting), self._waiting_bytes

    def take_problems(self) -> list[Problem]:
        """What could not be sent, since the last call."""
        problems, self._problems = self._problems, []
        return problems

    # ---- in ---------------------------------------------------------------------------------------------------------

    def put(self, effect: WorkerEffect, now_s: float) -> None:
        """Encode a message and take it, or drop it when the bounds are reached."""
        try:
            payload = wire.encode(effect.message)
        except WireSizeError as error:
            self.counters["oversize"] += 1
            self._problems.append(Problem("outgoing/oversize", str(error), error=error))
            return
        qos: Qos = 1 if effect.qos else 0
        if not isinstance(effect, SendAnswer):
            self._put(effect.topic, effect.message, payload, qos, now_s)
            return
        self._put(effect.topic, effect.message, payload, qos, now_s, content_type=JSON_CONTENT_TYPE)
        if (reply := effect.reply_to) is not None:
            self._put(
                reply.topic,
                effect.message,
                payload,
                qos,
                now_s,
                content_type=JSON_CONTENT_TYPE,
                correlation_data=reply.correlation_data,
            )

    def put_status(
        self,
        topic: str,
        message: Message,
        *,
        qos: Qos = 0,
        retain: bool = False,
        expiry_s: int | None = None,
        delete: bool = False,
    ) -> int:
        """A status, before everything that waits.

        Args:
            topic: where.
            message: the status.
            qos: MQTT quality of service.
            retain: retain it.
            expiry_s: time after which the broker forgets it.
            delete: delete what is retained there.

        Returns:
            Its token.
        """
        payload = b"" if delete else wire.encode(message)
        token = self._next_token()
        label = topics.label_of(topic)
        self._statuses.append(Publish(topic, message, payload, qos, token, label, retain=retain, expiry_s=expiry_s))
        return token

    def _put(
        self,
        topic: str,
        message: Message,
        payload: bytes,
        qos: Qos,
        now_s: float,
        *,
        content_type: str | None = None,
        correlation_data: bytes | None = None,
    ) -> None:
        if not self._connected and not qos:
            self.counters["failed"] += 1
            return
        if len(self._waiting) >= self._max_messages or self._waiting_bytes + len(payload) > self._max_bytes:
            self.counters["dropped"] += 1
            problem = f"{len(self._waiting)} messages wait for the broker: it is slow, or too far away for this load"
            self._problems.append(Problem("outgoing/full", problem))
            return
        token = self._next_token()
        publish = Publish(
            topic,
            message,
            payload,
            qos,
            token,
            topic.split("/", 3)[2],
            correlation_data=correlation_data,
            content_type=content_type,
        )
        self._waiting.append(_Waiting(token, publish, now_s))
        self._waiting_bytes += len(payload)

    def _next_token(self) -> int:
        self._tokens += 1
        return self._tokens

    # ---- connection -------------------------------------------------------------------------------------------------

    def connection(self, connected: bool, now_s: float) -> None:
        """The connection came up or went down."""
        self._connected, self._changed_s = connected, now_s
        for waiting in self._again:
            waiting.not_before_s = now_s
        if not connected:
            self._statuses.clear()
            for waiting in self._waiting:
                if not waiting.publish.qos:
                    self.counters["failed"] += 1
                    self._waiting_bytes -= len(waiting.publish.payload)
            self._waiting = deque(waiting for waiting in self._waiting if waiting.publish.qos)

    # ---- out --------------------------------------------------------------------------------------------------------

    def take(self, now_s: float) -> list[Publish]:
        """What leaves now, in order."""
        if not (self._statuses or self._waiting or self._again):
            return []
        if not self._connected:
            self._give_up(now_s)
            return []
        taken, self._statuses = self._statuses, []
        self._statuses_under_way.update(publish.token for publish in taken)
        while (waiting := self._next(now_s)) is not None:
            waiting.tries += 1
            self._under_way[waiting.publish.token] = waiting
            self._by_qos[waiting.publish.qos] += 1
            taken.append(waiting.publish)
        return taken

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        """What became of a publish.

        Raises:
            StateError: none of this token is under way.
        """
        if token in self._statuses_under_way:
            self._statuses_under_way.remove(token)
            self.counters["published" if delivery.arrived else "failed"] += 1
            return
        waiting = self._under_way.pop(token, None)
        if waiting is None:
            raise StateError(f"publish {token} is not under way")
        self._by_qos[waiting.publish.qos] -= 1
        if delivery.arrived:
            self.counters["published"] += 1
        elif delivery is Delivery.CONNECTION_LOST and waiting.publish.qos and waiting.tries <= RETRIES:
            self.counters["repeated"] += 1
            waiting.publish = replace(waiting.publish, token=self._next_token())
            waiting.since_s, waiting.not_before_s = now_s, now_s + RETRY_S
            insort(self._again, waiting)
        else:
            self._fail(waiting, f"given up after {waiting.tries} tries: {delivery}")

    def next_s(self) -> float | None:
        """When time changes something about what waits; None while only an answer or a connection can."""
        if not self._connected:
            first = next(iter((*self._again[:1], *self._waiting)), None)
            return None if first is None else self._give_up_s(first)
        return min((waiting.not_before_s for waiting in self._again), default=None)

    def _next(self, now_s: float) -> _Waiting | None:
        """The next message whose turn it is, taken out; None while it has to wait."""
        if self._again and self._again[0].not_before_s <= now_s:
            return self._again.pop(0) if self._by_qos[1] < MAX_UNDER_WAY else None
        if not self._waiting or self._by_qos[self._waiting[0].publish.qos] >= MAX_UNDER_WAY:
            return None
        waiting = self._waiting.popleft()
        self._waiting_bytes -= len(waiting.publish.payload)
        return waiting

    def _give_up(self, now_s: float) -> None:
        for waiting in [waiting for waiting in self._again if self._give_up_s(waiting) <= now_s]:
            self._again.remove(waiting)
            self._fail(waiting, f"no connection for {CONNECTION_WAIT_S:g} s")
        while self._waiting and self._give_up_s(self._waiting[0]) <= now_s:
            waiting = self._waiting.popleft()
            self._waiting_bytes -= len(waiting.publish.payload)
            self._fail(waiting, f"no connection for {CONNECTION_WAIT_S:g} s")

    def _give_up_s(self, waiting: _Waiting) -> float:
        return max(waiting.since_s, self._changed_s) + CONNECTION_WAIT_S

    def _fail(self, waiting: _Waiting, problem: str) -> None:
        self.counters["failed"] += 1
        context = {"topic": waiting.publish.topic}
        self._problems.append(Problem("outgoing/failed", problem, context=context))
