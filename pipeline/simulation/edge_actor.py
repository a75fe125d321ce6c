"""A simulated edge process: the real edge session behind a thin uplink, with a disk that outlives it."""

from __future__ import annotations

import math
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import Departure, DepartureOrder
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, Latent, SendKeyFrame, SendOpen, Terminal
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.thinning import Thinning, ThinningSettings
from pipeline.simulation.broker import BrokerModel
from pipeline.simulation.clock import VirtualClock
from pipeline.simulation.content import FINGERPRINT, LADDER
from pipeline.simulation.disk import Disk, StoredAsk
from pipeline.simulation.edge_uplink import LatentBooks, SimulatedUplink
from pipeline.simulation.encoder import PLAIN, SimulatedEncoder
from schemas import topics
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
    Refine,
    Reject,
    Status,
)


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
        self._connect()
        for stored in list(self.disk.asks.values()):
            if stored.terminal is None:
                # One whose deadline is over expires at once, and is said to have.
                self._encoder.offer(stored.camera, [stored.query], self._clock.now_s)
                self.counters["asks_from_disk"] += 1
            elif not stored.told and isinstance(stored.terminal, QueryOutcome):
                self.uplink.report(stored.terminal)
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
        self.draining = True
        self.session.drain()

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
        self, camera: str, queries: Sequence[AskedQuery], *, latent: Latent = PLAIN, base_latents: int = LADDER[0]
    ) -> None:
        """A slot of a camera has come; unless thinning leaves it out, a frame is taken and questions are asked of it.

        Args:
            camera: the camera.
            queries: what is asked.
            latent: its latent, like every other's unless given.
            base_latents: prefix that the first open carries.
        """
        if not self.alive or self.frozen or self.draining:
            return
        now_s = self._clock.now_s
        standing = any(not query.ad_hoc for query in queries)
        if standing and not self.thinning.takes(camera, now_s):
            standing, queries = False, [query for query in queries if query.ad_hoc]
            if not queries:
                return
        frame = self._encoder.offer(camera, queries, now_s, latent=latent, base_latents=base_latents)
        if standing:
            self.thinning.offered(camera, frame)
        self._clock.handled += 1
        for query in queries:
            self._on_query(self.site, query.query_id(camera, frame), query.deadline_s, query.ad_hoc)
        self._after()

    def receive(self, topic: str, message: Message, token: int | None) -> None:
        """A message arrives."""
        if not self.alive:
            return
        if self.frozen:
            self._socket.append((topic, message, token))
            return
        self._handle(topic, message, token)
        self._after()

    def _handle(self, topic: str, message: Message, token: int | None) -> None:
        now_s = self._clock.now_s
        match message:
            case Answer():
                self.session.receive_answer(message, now_s)
            case Status():
                self.session.receive_worker_status(message, now_s)
            case Ask():
                _, _, _, camera, client = topic.split("/")
                self._asked(camera, client, message)
            case Accept() | Refine() | Busy() | Reject() | NeedText():
                camera = topic.rsplit("/", 1)[1]
                if isinstance(message, Busy):
                    self.thinning.busy(camera, message.frame, now_s)
                elif isinstance(message, Reject):
                    self._encoder.rejected(camera, message)
                self.session.receive_control(camera, message, now_s)
        if token is not None:
            self._broker.acknowledge(self.site, token)
            self.uplink.acknowledged()

    def _asked(self, camera: str, client: str, ask: Ask) -> None:
        """An ad-hoc question: to disk first, then acknowledged. One that is known gets its terminal, if it has one."""
        query_id = ad_hoc_query_id(camera, client, ask.query_id)
        stored = self.disk.asks.get(query_id)
        if stored is not None:
            self.counters["asked_again"] += 1
            known = self.session.ad_hoc_state(query_id)
            terminal = (known.answer or known.publish) if isinstance(known, Terminal) else stored.terminal
            if terminal is not None and self._on_reply is not None:
                self.counters["replied_again"] += 1
                self._on_reply(terminal)
            return
        if self.draining:
            self.counters["asks_refused"] += 1
            return
        query = AskedQuery(ask.content(client), self._clock.now_s + ask.deadline_ms / 1000)
        self.disk.asks[query_id] = StoredAsk(camera, query)
        self._on_query(self.site, query_id, query.deadline_s, True)
        self._encoder.offer(camera, [query], self._clock.now_s)

    # ---- effects ----------------------------------------------------------------------------------------------------

    def _after(self) -> None:
        for effect in self.session.take_effects():
            if isinstance(effect, Terminal):
                self.thinning.ended(effect, self._clock.now_s)
                self._on_terminal(self.site, effect)
                self.disk.decided(effect)
                if effect.publish is not None:
                    self.uplink.report(effect.publish)
            elif isinstance(effect, SendOpen):
                self.uplink.open(effect)
            elif isinstance(effect, SendKeyFrame):
                self.uplink.key_frame(effect)
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
