"""A simulated edge process: the real edge session behind a thin uplink, with a disk that outlives it."""

from __future__ import annotations

import math
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import Departure, DepartureOrder
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, Latent, SendKeyFrame, SendOpen, Terminal
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.thinning import Thinning, ThinningSettings
from schemas import topics
from schemas.errors import RemoteError
from schemas.identity import ad_hoc_query_id
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    KeyFrame,
    Message,
    NeedText,
    QueryOutcome,
    Question,
    Refine,
    Reject,
    Status,
)
from simulation.broker import BrokerModel, Deleted
from simulation.clock import VirtualClock
from simulation.content import FINGERPRINT, LADDER
from simulation.desk import Disk
from simulation.edge_books import EdgeBooks
from simulation.edge_uplink import LatentBooks, SimulatedUplink
from simulation.encoder import SimulatedEncoder
from simulation.site_questions import SiteQuestions

_SETTLE_S = 0.3
"""After a connection was made: what is retained has come."""


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
        on_reply: called with the terminal that a client is told when it asks again.
        thinning: how it gives way to an overloaded pool.
        priorities: weight of cameras on the uplink.
        order: makes what decides which message leaves the uplink next, from its rate in kbps.
        on_departure: called with each message that leaves.
        key_every: frames of a camera from one key frame to the next; 0 has no key frames.
        questions: standing questions of its settings.
        publishes: it publishes them; else workers have to ask for their texts.
        join_s: an ad-hoc question waits so long for a frame of its camera, then one is taken for it.
        books: of the site, where it is judged.

    Attributes:
        uplink: way out of the running process.
        longest_wait_s: longest wait for the uplink, of what competed for it and left.
        boot: id of the running process, another one for each start on any site.
        awake_since_s: since when the process runs without a break, infinite while it is dead or frozen.
        linked_since_s: since when it takes its connection for one that works, infinite while it knows of none.
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
        on_reply: Callable[[Answer | QueryOutcome], None] | None = None,
        thinning: ThinningSettings | None = None,
        priorities: Mapping[str, float] | None = None,
        order: Callable[[float], DepartureOrder] = DepartureQueue,
        on_departure: Callable[[Departure], None] | None = None,
        key_every: int = 0,
        questions: Iterable[Question] = (),
        publishes: bool = True,
        join_s: float = 0.0,
        books: EdgeBooks | None = None,
    ) -> None:
        self.site = site
        self.alive = False
        self.frozen = False
        self.draining = False
        self._linked = False
        self.awake_since_s = math.inf
        self.linked_since_s = math.inf
        self.disk = Disk()
        self.counters: Counter[str] = Counter()
        self.wire_bytes = 0
        self.longest_wait_s = 0.0
        self.boots = 0
        self.boot = 0
        self.session: EdgeSession
        self.uplink: SimulatedUplink
        self.thinning: Thinning
        self._thinning_settings = thinning
        self._clock = clock
        self._broker = broker
        self._pool = pool
        self.cameras = cameras
        self._uplink_kbps = uplink_kbps
        self._priorities = priorities
        self._order = order
        self._on_departure = on_departure
        self._key_every = key_every
        self._questions = tuple(questions)
        self._publishes = publishes
        self._join_s = join_s
        self._books = books
        self._asks: SiteQuestions
        self._encoder: SimulatedEncoder
        self._settings = settings
        self._on_terminal = on_terminal
        self._on_query = on_query
        self._on_problem = on_problem
        self._on_reply = on_reply
        self._socket: deque[tuple[str, Message, int | None]] = deque()
        self._latents = LatentBooks(on_problem)
        self._wake_at_s: float | None = None

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The process starts and connects; ad-hoc questions come back from disk."""
        self.alive, self.frozen, self.draining = True, False, False
        self.awake_since_s = self._clock.now_s
        self.boots += 1
        self.boot = zlib.crc32(f"{self.site}/{self.boots}".encode())
        self._socket.clear()
        self.uplink = SimulatedUplink(
            self._clock,
            self._broker,
            site=self.site,
            rate_kbps=self._uplink_kbps,
            order=self._order(self._uplink_kbps),
            may_send=self._may_send,
            on_answered=self._open_answered,
            on_lost=self._open_lost,
            on_key_lost=self._key_frame_lost,
            on_told=self.disk.told,
            on_sent=self._sent,
        )
        self._wake_at_s = None
        self.counters["latents_sent_again_before"] = self.counters["latents_sent_again"]
        self.thinning = Thinning(self._thinning_settings)
        self.session = EdgeSession(
            self._settings,
            site=self.site,
            pool=self._pool,
            boot=self.boot,
            fingerprint=FINGERPRINT,
            priorities=self._priorities,
        )
        self._encoder = SimulatedEncoder(self.session, f"{self.site}/{self.boots}", self._key_every)
        self._asks = SiteQuestions(self.session, self._encoder, self.disk, self._questions, self._books)
        if self._books is not None:
            self._books.started()
        self._connect()
        self.counters["asks_from_disk"] += self._asks.desk.restore()
        # One whose deadline is over expires at once, and is said to have.
        self._asks.offer_waiting(self._clock.now_s)
        for outcome in self._asks.desk.untold():
            self.counters["told_again"] += 1
            self.uplink.report(outcome)
        self._after()

    def crash(self) -> list[str]:
        """SIGKILL: everything in memory is gone. Returns the standing queries that die with it."""
        self.counters["crashes"] += 1
        return self._end()

    def freeze(self) -> None:
        """SIGSTOP: the socket stays open, nothing is read and no timer runs."""
        self.frozen = True
        self.awake_since_s = math.inf

    def wake(self) -> None:
        """SIGCONT: what has piled up is handled, late."""
        if not self.alive or not self.frozen:
            return
        self.frozen = False
        self.awake_since_s = self._clock.now_s
        self._asks.offer_waiting(self._clock.now_s)
        self.session.tick(self._clock.now_s)
        self._after()
        while self._socket:
            self._handle(*self._socket.popleft())
            self._after()
        if not self._linked or not self._broker.is_up(self.site):
            self.connection(False)
        self._after()

    def drain(self) -> None:
        """SIGTERM: nothing new is taken on, what is under way goes on."""
        self._asks.offer_waiting(self._clock.now_s)
        self.draining = True
        self.session.drain()
        self._after()

    def abandon(self) -> None:
        """The time to drain is over: the rest is decided as failed."""
        if self.alive and not self.frozen:
            self.session.abandon("the edge was stopped")
            self._after()

    def drained(self) -> bool:
        """Whether everything is decided, and everybody told."""
        return not (self.session.unfinished() or self.uplink.backlog() or self.uplink.untold())

    def stop(self) -> list[str]:
        """The end of a drain. Returns the standing queries whose outcome nobody was told."""
        if self._linked and self._broker.is_up(self.site):
            status = self._status(online=False)
            self._broker.publish(self.site, topics.status_topic("edge", self.site), status, qos=1, retain=True)
            self._broker.disconnect(self.site)
        return self._end()

    def _end(self) -> list[str]:
        self.alive = self._linked = False
        self.uplink.close()
        self.awake_since_s = self.linked_since_s = math.inf
        undecided = [query_id for frame in self.session.frames() for query_id in frame.queries]
        unsaid = [outcome.query_id for outcome in self.uplink.untold()]
        return [query_id for query_id in (*undecided, *unsaid) if query_id not in self.disk.asks]

    def connection(self, connected: bool) -> None:
        """The process notices that its connection came or went; it reconnects by itself."""
        if not self.alive or self.frozen:
            return
        self.session.connection(connected, self._clock.now_s)
        self._linked = connected
        self.linked_since_s = self._clock.now_s if connected else math.inf
        if not connected:
            self.uplink.connection_lost()
            self._clock.after(0.5, self._reconnect)
        self._after()

    def _reconnect(self) -> None:
        if self.alive and not self.frozen and not self._linked and self._connect():
            self.connection(True)

    def _connect(self) -> bool:
        self._linked = self._broker.reachable(self.site)
        self.linked_since_s = self._clock.now_s if self._linked else math.inf
        if self._linked:
            birth, will = self._status(online=True), self._status(online=False)
            self._broker.connect_edge(self.site, self, self.cameras, birth, will)
            # What operators have said comes first, or the settings would overwrite it.
            self._clock.after(_SETTLE_S, partial(self._publish_questions, self.boots))
        else:
            self.session.connection(False, self._clock.now_s)
            self._clock.after(0.5, self._reconnect)
        return self._linked

    def _status(self, *, online: bool) -> Status:
        cameras = self.cameras if online else ()  # the will of a real edge names none either
        return Status(kind="edge", id=self.site, boot=self.boot, online=online, pool=self._pool, cameras=cameras)

    def backlog(self) -> int:
        """Messages that wait for the uplink."""
        return self.uplink.backlog()

    def backlog_s(self) -> float:
        """How long the uplink is busy with what waits for it, at most."""
        return self.uplink.backlog_s()

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def capture(
        self,
        camera: str,
        queries: Sequence[AskedQuery],
        *,
        latent: Latent | None = None,
        base_latents: int = LADDER[0],
    ) -> None:
        """A slot of a camera has come; unless thinning leaves it out, a frame is taken and questions are asked of it.

        Args:
            camera: the camera.
            queries: what is asked; ad-hoc questions that wait for a frame of it are asked as well.
            latent: its latent; None makes one of its own.
            base_latents: prefix that the first open carries.
        """
        if not self.alive or self.frozen or self.draining:
            return
        now_s = self._clock.now_s
        standing = any(not query.ad_hoc for query in queries)
        if standing and not self.thinning.takes(camera, now_s):
            standing, queries = False, [query for query in queries if query.ad_hoc]
        waiting = self._asks.desk.waiting.pop(camera, [])
        if not queries and not waiting:
            return
        frame = self._asks.offer(camera, [*queries, *waiting], now_s, latent=latent, base_latents=base_latents)
        if standing:
            self.thinning.offered(camera, frame)
        self._clock.handled += 1
        for query in queries:
            self._on_query(self.site, query.query_id(camera, frame), query.deadline_s, query.ad_hoc)
        self._after()

    def asked(self, camera: str, question_ids: Iterable[str]) -> list[AskedQuery]:
        """Those of some standing questions that a frame of a camera would be asked now."""
        return self._asks.board.asked(camera, question_ids, self._clock.now_s) if self.alive else []

    def _no_frame_came(self, boots: int) -> None:
        if boots == self.boots and self.alive and not self.frozen and self._asks.desk.waiting:
            self._clock.handled += 1
            self._asks.offer_waiting(self._clock.now_s)
            self._after()

    def _publish_questions(self, boots: int) -> None:
        if boots == self.boots and self.alive and not self.frozen and self._publishes:
            for question in self._asks.board.to_publish():
                self.uplink.question(question)
            self.uplink.pump()

    def receive(self, topic: str, message: Message, token: int | None, retained: bool = False) -> None:  # noqa: ARG002
        """A message arrives."""
        if not self.alive:
            return
        if self.frozen:
            self._socket.append((topic, message, token))
            return
        self._handle(topic, message, token)
        self._after()

    def _handle(self, topic: str, message: Message, token: int | None) -> None:
        try:
            self._take_in(topic, message, self._clock.now_s)
        except RemoteError as error:
            self.counters[type(error).__name__] += 1
        if token is not None:
            self._broker.acknowledge(self.site, token)
            self.uplink.acknowledged()

    def _take_in(self, topic: str, message: Message, now_s: float) -> None:
        match message:
            case Answer():
                self.session.receive_answer(message, now_s)
            case Status():
                self._hear_of_worker(message, now_s)
            case Question():
                self._asks.board.receive(message.question_id, message)
            case Deleted():
                self._asks.board.receive(topic.rsplit("/", 1)[1], None)
            case Ask():
                _, _, _, camera, client = topic.split("/")
                self._asked(camera, client, message, now_s)
            case Accept() | Refine() | Busy() | Reject() | NeedText():
                camera = topic.rsplit("/", 1)[1]
                if isinstance(message, Busy):
                    self.thinning.busy(camera, message.frame, now_s)
                elif isinstance(message, Reject):
                    self._encoder.rejected(camera, message)
                self.session.receive_control(camera, message, now_s)

    def _hear_of_worker(self, status: Status, now_s: float) -> None:
        if self._books is None:
            self.session.receive_worker_status(status, now_s)
        else:
            self._books.hears(self.session, status, now_s)

    def _asked(self, camera: str, client: str, ask: Ask, now_s: float) -> None:
        """An ad-hoc question: to disk first, then acknowledged. One that is known gets its terminal, if it has one."""
        if self._asks.desk.known(camera, client, ask) is not None:
            self.counters["asked_again"] += 1
            terminal = self._asks.how_it_ended(camera, client, ask)
            if terminal is not None and self._on_reply is not None:
                self.counters["replied_again"] += 1
                self._on_reply(terminal)
            return
        if self.draining:
            self.counters["asks_refused"] += 1
            return
        query = self._asks.desk.take_in(camera, client, ask, now_s)
        self._on_query(self.site, ad_hoc_query_id(camera, client, ask.query_id), query.deadline_s, True)
        if self._join_s:
            self._clock.after(self._join_s, partial(self._no_frame_came, self.boots))
        else:
            self._asks.offer_waiting(now_s)

    # ---- effects ----------------------------------------------------------------------------------------------------

    def _after(self) -> None:
        for effect in self.session.take_effects():
            if isinstance(effect, Terminal):
                self.thinning.ended(effect, self._clock.now_s)
                if self._books is not None:
                    self._books.decided(effect)
                self._on_terminal(self.site, effect)
                self.disk.decided(effect)
                if effect.publish is not None:
                    self.uplink.report(effect.publish)
            elif isinstance(effect, SendKeyFrame):
                self.uplink.key_frame(effect)
            else:
                if self._books is not None:
                    self._books.queued(effect, self._clock.now_s)
                if isinstance(effect, SendOpen):
                    self.uplink.open(effect)
                else:
                    self.uplink.to_worker(effect)
        self.uplink.pump()
        due_s = self.session.next_wake_s()
        if due_s is not None and (self._wake_at_s is None or due_s < self._wake_at_s):
            self._wake_at_s = due_s
            self._clock.at(due_s, partial(self._wake, self.boots))

    def _wake(self, boot: int) -> None:
        if boot != self.boots or not self.alive:
            return
        self._wake_at_s = None
        if self.frozen:
            return
        self._clock.handled += 1
        self.session.tick(self._clock.now_s)
        self._after()

    def _may_send(self) -> bool:
        return self.alive and not self.frozen and self._linked

    def _sent(self, departure: Departure, message: Message, wire_bytes: int) -> None:
        self.wire_bytes += wire_bytes
        if self._books is not None:
            self._books.left(departure, message, self._clock.now_s, self.backlog_s(), self.session.response_s)
        if self._on_departure is not None:
            self._on_departure(departure)
        if departure.bid is not None:
            self.longest_wait_s = max(self.longest_wait_s, self._clock.now_s - departure.queued_s)
        self.counters["latents_sent_again"] += self._latents.sent(departure.topic, message)
        if isinstance(message, KeyFrame):
            self._after()  # the open of its frame follows

    def _open_answered(self, effect: SendOpen, no_subscribers: bool) -> None:
        if self.alive and not self.frozen:
            self.session.left_uplink(effect, self._clock.now_s, no_subscribers=no_subscribers)
            self._after()

    def _key_frame_lost(self, effect: SendKeyFrame) -> None:
        if self.alive and not self.frozen:
            self._encoder.lost(effect.camera, effect.frame.sequence)
            self.session.key_frame_lost(effect)
            self._after()

    def _open_lost(self, effect: SendOpen) -> None:
        if self.alive and not self.frozen:
            self.session.open_lost(effect, self._clock.now_s)
            self._after()
