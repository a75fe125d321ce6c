"""A simulated edge process: the real edge session behind a thin uplink, with a disk that outlives it."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from pipeline.bus.wire_cost import publish_wire_bytes
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, SendOpen, SendToWorker, Terminal
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.simulation.broker import NO_SUBSCRIBERS, BrokerModel
from pipeline.simulation.clock import VirtualClock
from pipeline.simulation.content import FINGERPRINT, LADDER, SimulatedLatent
from schemas import topics
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    Chunk,
    Message,
    NeedText,
    Open,
    QueryOutcome,
    Refine,
    Reject,
    Status,
)
from schemas.types import AnswerType, FrameId

_HEADER_BYTES = {Open: 30, Chunk: 32}
"""Message fields around the latents: close enough for the uplink's time, and far cheaper than encoding each message."""


@dataclass(slots=True)
class Disk:
    """What an edge's journal holds: ad-hoc questions without an outcome, with their deadlines."""

    asks: dict[str, tuple[str, AskedQuery]] = field(default_factory=dict)


class EdgeActor:
    """One edge process at a time under a site's name; a restart makes a new session with a new boot id.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        site: name of the process.
        pool: worker pool that it asks.
        cameras: cameras of the site.
        uplink_kbps: budget of the site.
        settings: of the protocol machine.
        on_terminal: called with each terminal of the session.
        on_query: called with each query id that the session took on.
        on_problem: called with what breaks a rule at this edge.
    """

    def __init__(
        self,
        clock: VirtualClock,
        broker: BrokerModel,
        *,
        site: str,
        pool: str,
        cameras: tuple[str, ...],
        uplink_kbps: float,
        settings: EdgeProtocolSettings,
        on_terminal: Callable[[str, Terminal], None],
        on_query: Callable[[str, str, float, bool], None],
        on_problem: Callable[[str, str], None],
    ) -> None:
        self.site = site
        self.alive = False
        self.frozen = False
        self._linked = False
        self.linked_since_s = math.inf
        self.disk = Disk()
        self.counters: Counter[str] = Counter()
        self.sends: Counter[tuple[str, FrameId, int]] = Counter()
        self.wire_bytes = 0
        self.boots = 0
        self.session: EdgeSession
        self._clock = clock
        self._broker = broker
        self._pool = pool
        self.cameras = cameras
        self._bytes_a_second = uplink_kbps * 1000 / 8
        self._settings = settings
        self._on_terminal = on_terminal
        self._on_query = on_query
        self._on_problem = on_problem
        self._chunk_owner: dict[tuple[str, FrameId, int], str] = {}
        self._queue: deque[SendOpen | SendToWorker | QueryOutcome] = deque()
        self._unacknowledged: list[QueryOutcome] = []
        self._sending = False
        self._wake_at_s: float | None = None

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The process starts and connects; ad-hoc questions come back from disk."""
        self.alive, self.frozen = True, False
        self.boots += 1
        self._queue.clear()
        self._unacknowledged.clear()
        self._sending = False
        self._wake_at_s = None
        self.counters["latents_sent_again_before"] = self.counters["latents_sent_again"]
        self.session = EdgeSession(self._settings, pool=self._pool, boot=self.boots, fingerprint=FINGERPRINT)
        self._connect()
        for camera, query in list(self.disk.asks.values()):
            # One whose deadline is over expires at once, and is said to have.
            self.session.offer(camera, SimulatedLatent(), LADDER[0], [query], self._clock.now_s)
            self.counters["asks_from_disk"] += 1
        self._after()

    def crash(self) -> list[str]:
        """SIGKILL: everything in memory is gone. Returns the standing queries that die with it."""
        self.alive = self._linked = False
        self.linked_since_s = math.inf
        self.counters["crashes"] += 1
        undecided = [query_id for frame in self.session.frames() for query_id in frame.queries]
        unsaid = [item.query_id for item in (*self._queue, *self._unacknowledged) if isinstance(item, QueryOutcome)]
        return [query_id for query_id in (*undecided, *unsaid) if query_id not in self.disk.asks]

    def connection(self, connected: bool) -> None:
        """The process notices that its connection came or went; it reconnects by itself."""
        if not self.alive:
            return
        self.session.connection(connected, self._clock.now_s)
        self._linked = connected
        self.linked_since_s = self._clock.now_s if connected else math.inf
        if connected:
            self._pump()
        else:
            self._clock.after(0.5, self._reconnect)
        self._after()

    def _reconnect(self) -> None:
        if self.alive and not self._linked and self._connect():
            self.connection(True)

    def _connect(self) -> bool:
        self._linked = self._broker.reachable(self.site)
        self.linked_since_s = self._clock.now_s if self._linked else math.inf
        if self._linked:
            self._broker.connect_edge(self.site, self, self.cameras)
        else:
            self.session.connection(False, self._clock.now_s)
            self._clock.after(0.5, self._reconnect)
        return self._linked

    def backlog(self) -> int:
        """Messages that wait for the uplink."""
        return len(self._queue)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def capture(self, camera: str, queries: Sequence[AskedQuery]) -> None:
        """A frame of a camera was encoded; standing questions are asked of it."""
        if not self.alive or self.frozen:
            return
        now_s = self._clock.now_s
        frame = self.session.offer(camera, SimulatedLatent(), LADDER[0], queries, now_s)
        self._clock.handled += 1
        for query in queries:
            self._on_query(self.site, f"{camera}/{frame}/{query.question_id}", query.deadline_s, False)
        self._after()

    def receive(self, topic: str, message: Message, token: int | None) -> None:
        """A message arrives."""
        if not self.alive:
            return
        now_s = self._clock.now_s
        match message:
            case Answer():
                self.session.receive_answer(message, now_s)
            case Status():
                self.session.receive_worker_status(message, now_s)
            case Ask():
                self._asked(topic.rsplit("/", 1)[1], message)
            case Accept() | Refine() | Busy() | Reject() | NeedText():
                self.session.receive_control(topic.rsplit("/", 1)[1], message, now_s)
        if token is not None:
            self._broker.acknowledge(self.site, token)
        self._after()

    def _asked(self, camera: str, ask: Ask) -> None:
        """An ad-hoc question: to disk first, then acknowledged."""
        if ask.query_id in self.disk.asks or self.session.ad_hoc_state(ask.query_id) is not None:
            self.counters["asked_again"] += 1
            return
        query = AskedQuery(
            ask.query_id, self._clock.now_s + ask.deadline_ms / 1000, ask.text, AnswerType.TEXT, ad_hoc=True
        )
        self.disk.asks[ask.query_id] = (camera, query)
        self._on_query(self.site, ask.query_id, query.deadline_s, True)
        self.session.offer(camera, SimulatedLatent(), LADDER[0], [query], self._clock.now_s)

    # ---- effects ----------------------------------------------------------------------------------------------------

    def _after(self) -> None:
        for effect in self.session.take_effects():
            if isinstance(effect, Terminal):
                self._on_terminal(self.site, effect)
                if effect.publish is not None:
                    self._queue.append(effect.publish)
                else:
                    self.disk.asks.pop(effect.query_id, None)
            else:
                self._queue.append(effect)
        self._pump()
        due_s = self.session.next_wake_s()
        if due_s is not None and (self._wake_at_s is None or due_s < self._wake_at_s):
            self._wake_at_s = due_s
            self._clock.at(due_s, partial(self._wake, self.boots))

    def _wake(self, boot: int) -> None:
        if boot != self.boots or not self.alive:
            return
        self._wake_at_s = None
        self._clock.handled += 1
        self.session.tick(self._clock.now_s)
        self._after()

    def _pump(self) -> None:
        """Send what waits, one after another at the uplink's rate, while the connection is up."""
        if self._sending or not self._linked or not self._broker.is_up(self.site):
            return
        while self._queue:
            item = self._queue.popleft()
            size_bytes = self._send(item)
            if size_bytes:
                self.wire_bytes += size_bytes
                self._sending = True
                self._clock.after(size_bytes / self._bytes_a_second, partial(self._sent, self.boots))
                return

    def _sent(self, boot: int) -> None:
        if boot == self.boots and self.alive:
            self._sending = False
            self._pump()

    def _send(self, item: SendOpen | SendToWorker | QueryOutcome) -> int:
        now_s = self._clock.now_s
        message: Message
        if isinstance(item, QueryOutcome):
            topic, message, qos = topics.outcome_topic(item.camera), item, 1
            size_bytes = publish_wire_bytes(topic, 160, 1)
            self._unacknowledged.append(item)
        elif isinstance(item, SendOpen):
            opened = item.message(now_s)
            if opened is None:
                return 0
            self._count_latents(item.camera, opened.frame, 0, opened.stop)
            self._clock.at(now_s + 0.01, partial(self._arrive_open, self.boots, item, opened))
            return publish_wire_bytes(item.topic, len(opened.payload) + _HEADER_BYTES[Open], 1)
        else:
            topic, message, qos = item.topic, item.message, item.qos
            payload_bytes = 40
            if isinstance(message, Chunk):
                self._count_latents(message.camera, message.frame, message.start, message.stop)
                self._check_owner(item.topic, message)
                payload_bytes = len(message.payload) + _HEADER_BYTES[Chunk]
            size_bytes = publish_wire_bytes(topic, payload_bytes, qos)
        self._clock.at(now_s + 0.01, partial(self._arrive, self.boots, item, topic, message, qos))
        return size_bytes

    def _count_latents(self, camera: str, frame: FrameId, start: int, stop: int) -> None:
        for latent in range(start, stop):
            key = (camera, frame, latent)
            self.counters["latents_sent_again"] += key in self.sends
            self.sends[key] += 1

    def _check_owner(self, topic: str, chunk: Chunk) -> None:
        key = (chunk.camera, chunk.frame, chunk.attempt)
        worker = self._chunk_owner.setdefault(key, topic.split("/")[3])
        if worker != topic.split("/")[3]:
            self._on_problem("one attempt, two owners", f"{key} to {worker} and by {topic}")

    def _arrive(
        self, boot: int, item: SendOpen | SendToWorker | QueryOutcome, topic: str, message: Message, qos: int
    ) -> None:
        if isinstance(item, QueryOutcome) and item in self._unacknowledged:
            self._unacknowledged.remove(item)
        if self._broker.is_up(self.site):
            self._broker.publish(self.site, topic, message, qos=qos)
            if isinstance(item, QueryOutcome):
                self.disk.asks.pop(item.query_id, None)  # only now is the question done with
        elif qos and boot == self.boots and self.alive and not isinstance(item, SendOpen):
            # No PUBACK came: a terminal is said again after the reconnect.
            self._queue.appendleft(item)

    def _arrive_open(self, boot: int, item: SendOpen, message: Open) -> None:
        if not self._broker.is_up(self.site):
            return
        reason = self._broker.publish(self.site, item.topic, message, qos=1)
        if boot == self.boots and self.alive:
            self.session.left_uplink(item, self._clock.now_s, no_subscribers=reason == NO_SUBSCRIBERS)
            self._after()
