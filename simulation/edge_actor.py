"""A simulated edge process: the real edge session on a thin uplink, with a disk that outlives it.

It moves messages and time; every rule is the session's. What it adds is told to the invariant checker: which questions
are on disk, what was decided, and what is lost with a process.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

from pipeline.protocol.departures import TrafficClass
from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.effects import (
    AskedQuery,
    Decision,
    HeldFrameAsked,
    HistoryOffered,
    KeyFrameLost,
    Latent,
    TakeFrame,
)
from pipeline.protocol.journal_requests import (
    Admit,
    Decide,
    JournalRequest,
    JournalResult,
    MarkTold,
    MoveToFile,
    ReadUnfinished,
)
from pipeline.protocol.ports import Acknowledge, Contained, Delivery, Problem, Publish, Received, Sent
from pipeline.protocol.store_requests import DropFrames, PutFrame, ReadFrame, ReadStored, StoreRequest, StoreResult
from pipeline.protocol.uplink_budget import StoreSpending
from schemas import topics
from schemas.messages import Answer, Ask, Busy, Chunk, FollowUp, Message, Open, QueryOutcome, Refine
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.content import FINGERPRINT, LADDER, SimulatedLatent
from simulation.disk import Disk
from simulation.edge_asks import EdgeAsks
from simulation.edge_ledger import EdgeLedger
from simulation.encoder import SimulatedEncoder
from simulation.past_ledger import PastLedger
from simulation.process import SimulatedProcess
from simulation.sent_latents import SentLatents
from simulation.specs import LARGEST_WIRE_BYTES, EdgeCallbacks, EdgeSpec
from simulation.store_ledger import StoreLedger
from simulation.uplink_budgets import SiteBudget

_TO_BROKER_S = 0.01


class EdgeActor(SimulatedProcess[EdgeOutput]):
    """One edge process at a time under a site's name; a restart makes a new session with a new boot id.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        spec: what it is.
        callbacks: who is told what it does.
        ledger: of the site, where it is judged.

    Attributes:
        disk: of the site.
        asks: clients' questions.
        stored: frames that were stored without a link, as they are judged.
        longest_wait_s: longest wait for the uplink, of what competed for it and left.
        boot: id of the running process, another one for each start on any site.
        awake_since_s: since when the process runs without a break and knows its disk, infinite while it does not.
        linked_since_s: since when it takes its connection for one that works, infinite while it knows of none.
    """

    def __init__(
        self,
        clock: VirtualClock,
        broker: BrokerModel,
        spec: EdgeSpec,
        callbacks: EdgeCallbacks,
        ledger: EdgeLedger | None = None,
    ) -> None:
        super().__init__(clock, broker, spec.site)
        self.site = spec.site
        self.cameras = spec.cameras
        self.awake_since_s = math.inf
        self.linked_since_s = math.inf
        self.counters: Counter[str] = Counter()
        self.wire_bytes = 0
        self.longest_wait_s = 0.0
        self.boot = 0
        self.session: EdgeSession
        self.disk = Disk(clock, self._on_disk, self._frame_on_disk)
        self.stored = StoreLedger(spec.site, callbacks.on_problem)
        self.asks = EdgeAsks(
            spec.site,
            self.disk,
            spec.join_s,
            clock,
            on_query=lambda query_id, deadline_s: callbacks.on_query(spec.site, query_id, deadline_s, True),
            on_terminal=partial(callbacks.on_terminal, spec.site),
            on_problem=callbacks.on_problem,
        )
        self._budget = None if spec.budget is None else SiteBudget(spec.site, spec.budget, callbacks.on_problem)
        self._open_since_s = -math.inf
        self._spec = spec
        self._callbacks = callbacks
        self._ledger = ledger
        self._encoder: SimulatedEncoder
        self._latents = SentLatents(partial(callbacks.on_problem, "one attempt, two owners"))
        self._unsaid: set[str] = set()
        self._saying: dict[int, str] = {}
        self._past = PastLedger(spec.ring, callbacks.on_problem)

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The process starts and connects; ad-hoc questions come back from disk."""
        self._started()
        self.boot = zlib.crc32(f"{self.site}/{self.starts}".encode())
        self._unsaid.clear()
        self._saying.clear()
        self.asks.restart()
        self.stored.started()
        self._past.started()
        self.counters["latents_sent_again_before"] = self.counters["latents_sent_again"]
        self.session = EdgeSession(
            self._spec.settings,
            self._spec.site_settings(),
            boot=self.boot,
            fingerprint=FINGERPRINT,
            now_s=self._clock.now_s,
            load_shedding=self._spec.load_shedding,
            order=self._spec.order,
            spending=None if self._budget is None else self._budget.stored,
            gate=self._spec.change_gate(),
        )
        if self._budget is not None:
            self._budget.started(self._clock.now_s)
            self._look(self.starts)
        process = f"{self.site}/{self.starts}"
        scenes = {} if self._spec.gate is None else {"scene": self._spec.gate.scene}
        self._encoder = SimulatedEncoder(self.session, process, self._spec.key_every, **scenes)
        if self._ledger is not None:
            self._ledger.started()
        self._connect()
        self._after()

    def crash(self) -> list[str]:
        """SIGKILL: everything in memory is gone. Returns the standing queries that die with it."""
        self.counters["crashes"] += 1
        return self._end()

    def freeze(self) -> None:
        """SIGSTOP: the socket stays open, nothing is read, nothing is stored and no timer runs."""
        super().freeze()
        self.disk.freeze(True)
        self.awake_since_s = math.inf

    def _thawed(self) -> None:
        super()._thawed()
        self.disk.freeze(False)
        self.awake_since_s = self._clock.now_s
        if self._budget is not None:
            self.session.wall_clock(*self._budget.wall_clock(self._clock.now_s))

    def drain(self) -> None:
        """SIGTERM: nothing new is taken on, what is under way goes on."""
        self.draining = True
        self.session.drain("the edge was stopped")
        self._after()

    def abandon(self) -> None:
        """The time to drain is over: the rest is decided as failed."""
        if self.alive and not self.frozen:
            self.session.abandon("the edge was stopped")
            self._after()

    def drained(self) -> bool:
        """Whether everything is decided, and everybody told."""
        return not self.session.unfinished() and self.session.idle()

    def stop(self) -> list[str]:
        """The end of a drain. Returns the standing queries whose outcome nobody was told."""
        if self._linked and self._broker.is_up(self.site):
            self.session.leave(self._clock.now_s)
            topic, offline_status = self._will()
            self._broker.publish(self.site, topic, offline_status, qos=1, retain=True)
            self._broker.disconnect(self.site)
        return self._end()

    def _end(self) -> list[str]:
        self._ended()
        self.awake_since_s = self.linked_since_s = math.inf
        self._callbacks.on_forgotten(self.asks.restart())
        undecided = [query_id for frame in self.session.frames.undecided() for query_id in frame.queries]
        return [query_id for query_id in (*undecided, *self._unsaid) if query_id not in self.asks]

    def _disconnected(self) -> None:
        self.linked_since_s = math.inf

    def _join(self, will: tuple[str, Message]) -> None:
        self.linked_since_s = self._clock.now_s
        self._broker.connect_edge(self.site, self, self.cameras, will)

    @property
    def open_since_s(self) -> float:
        """Since when the budget of its uplink lets everything leave; infinite while it does not."""
        return self._open_since_s

    def _look(self, starts: int) -> None:
        """The process looks at its clock; one that is frozen does so when it wakes."""
        if self._budget is None or starts != self.starts or not self.alive:
            return
        now_s = self._clock.now_s
        if not self.frozen:
            self.session.wall_clock(*self._budget.wall_clock(now_s))
            self._after()
        self._clock.after(self._budget.next_look_s(now_s), partial(self._look, starts))

    def _after(self) -> None:
        super()._after()
        if self.session.budget.is_closed:
            self._open_since_s = math.inf
        elif math.isinf(self._open_since_s) and self._open_since_s > 0:
            self._open_since_s = self._clock.now_s

    def backlog(self) -> int:
        """Messages that wait for the uplink."""
        return self.session.uplink.waiting

    def backlog_s(self) -> float:
        """How long the uplink is busy with what has left, what waits and one message more, at most."""
        waiting_s = (1 + self.backlog()) * LARGEST_WIRE_BYTES / (self._spec.uplink_kbps * 125)
        return waiting_s + self.session.uplink.busy_s(self._clock.now_s)

    # ---- frames -----------------------------------------------------------------------------------------------------

    def capture(
        self,
        camera: str,
        queries: Sequence[AskedQuery],
        *,
        latent: Latent | None = None,
        as_key: Latent | None = None,
        base_latents: int = LADDER[0],
    ) -> None:
        """A slot of a camera has come; unless load shedding skips it, a frame is taken and questions are asked of it.

        Args:
            camera: the camera.
            queries: what is asked; ad-hoc questions that wait for a frame of it are asked as well.
            latent: its latent; None makes one of its own.
            as_key: the same latent coded given itself, of a frame that becomes a key frame.
            base_latents: prefix that the first open carries.
        """
        if not self.alive or self.frozen or self.draining:
            return
        standing = any(not query.ad_hoc for query in queries)
        if self.session.storing:
            if standing and self.session.takes_standing(camera, self._clock.now_s):
                self._keep(camera, queries)
            return
        if standing and not self.session.slot_is_taken(camera, self._clock.now_s):
            queries = [query for query in queries if query.ad_hoc]
        self._clock.handled += 1
        self._take(camera, queries, latent=latent, as_key=as_key, base_latents=base_latents)

    def _keep(self, camera: str, queries: Sequence[AskedQuery]) -> None:
        """A frame is taken without a link."""
        now_s = self._clock.now_s
        self._clock.handled += 1
        if not self.session.has_room(camera):
            self._callbacks.on_problem("a slot without room", camera, "it is to be kept, and there is no room")
        self.session.take_queries(camera, now_s, standing=True)
        entry_id, mark = self._encoder.keep(camera, queries, now_s)
        if entry_id is not None:
            self.stored.kept(camera, mark, queries, now_s, self.disk.frames.power)
        self._after()

    def capture_standing(self, camera: str, question_ids: Iterable[str]) -> None:
        """A slot for some of the site's standing questions."""
        if self.alive and not self.frozen:
            wanted = set(question_ids)
            asked = self.session.standing.asked(camera, self._clock.now_s)
            self.capture(camera, [query for query in asked if query.question_id in wanted])

    def _take(
        self,
        camera: str,
        queries: Sequence[AskedQuery],
        *,
        latent: Latent | None = None,
        as_key: Latent | None = None,
        base_latents: int = LADDER[0],
    ) -> None:
        now_s = self._clock.now_s
        waiting = self.session.take_queries(camera, now_s, standing=False)
        self.asks.framed(camera, waiting, now_s)
        both = [*queries, *self.session.still_asked(camera, waiting)]
        if both or self._spec.ring.history_s:
            taken = self._encoder.offer(camera, both, now_s, latent=latent, as_key=as_key, base_latents=base_latents)
            self._past.taken(camera, taken.frame, now_s)
            if self._ledger is not None:
                self._ledger.taken(camera, both, taken, now_s, linked=math.isfinite(self.linked_since_s))
            for query in queries:
                if query in taken.told:
                    query_id = query.query_id(camera, taken.frame)
                    self._callbacks.on_query(self.site, query_id, query.deadline_s, query.ad_hoc)
        self._after()

    def _take_for_asks(self, camera: str, starts: int) -> None:
        able = starts == self.starts and self.alive and not self.frozen and not self.draining
        if able and self.session.ad_hoc.waiting(camera) and not self.session.storing:
            self._clock.handled += 1
            self._take(camera, ())

    # ---- messages ---------------------------------------------------------------------------------------------------

    def receive_bytes(self, topic: str, payload: bytes, token: int | None, *, retained: bool = False) -> None:
        """Bytes that may be no message reach the socket."""
        if self.alive and self._linked and not self.frozen:
            received = Received(topic, payload, retained=retained, token=token)
            self.session.receive(received, self._clock.now_s)
            self._after()

    def _hear(self, received: Received, topic: topics.Topic, message: Message) -> None:
        now_s = self._clock.now_s
        self.asks.arrives(received.token if isinstance(message, Ask) else None)
        if isinstance(message, Busy):
            self._latents.gave_up(topic.name("camera"), message)
        if self._ledger is None:
            self.session.receive(received, now_s)
        else:
            self._ledger.hears(self.session, received, message, now_s)
            if isinstance(message, Refine):
                self._ledger.refined(topic.name("camera"), now_s)

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def _carry_out(self, output: EdgeOutput) -> None:
        match output:
            case Publish():
                self._publish(output)
            case Sent():
                self._sent(output)
            case Acknowledge():
                for token in output.tokens:
                    self.asks.acknowledges(token)
                self.session.acknowledged(self._acknowledge(output.tokens), self._clock.now_s)
                self._after()
            case Decision():
                self._decided(output)
            case HeldFrameAsked():
                self._asked_again(output)
            case TakeFrame():
                self._clock.after(self._spec.join_s, partial(self._take_for_asks, output.camera, self.starts))
            case StoreSpending():
                if self._budget is not None:
                    self._budget.stored = output
            case KeyFrameLost():
                self._encoder.lost(output.camera, output.sequence)
            case Problem():
                self.counters[type(output.error).__name__ if output.error else output.kind] += 1
            case Contained():
                raise output.error
            case HistoryOffered():
                self._asks_stored(output)
            case ReadFrame():
                self.stored.reads(self.session, output)
                self.disk.put(output)
            case ReadStored() | PutFrame() | DropFrames():
                self.disk.put(output)
            case Admit() | Decide() | MarkTold() | MoveToFile() | ReadUnfinished():
                self.asks.store(output)

    def _asks_stored(self, history: HistoryOffered) -> None:
        now_s = self._clock.now_s
        self.stored.offered(self.session, history, now_s, self.disk.frames.power)
        assert isinstance(history.latent, SimulatedLatent)  # noqa: S101
        if self._ledger is not None:
            self._ledger.offered_history(history.camera, history.frame, history.latent.mark, history.queries)
        captured_s = self.stored.captured_s(history.latent.mark)
        for query in history.queries:
            query_id = query.query_id(history.camera, history.frame)
            self._callbacks.on_history(self.site, query_id, query.deadline_s, captured_s)

    def _asked_again(self, asked: HeldFrameAsked) -> None:
        camera, frame = asked.camera, asked.frame
        self.asks.check(camera, asked.queries)
        for query in asked.queries:
            query_id = query.query_id(camera, frame)
            ask, arrived_s = self.asks.of_the_past(query_id)
            self._past.asked(camera, frame, query_id, ask, arrived_s)
        if self._ledger is not None:
            self._ledger.asked_again(camera, frame, asked.queries)

    def not_held(self, camera: str, query_id: str) -> None:
        """The session refuses a question about the past."""
        ask, arrived_s = self.asks.of_the_past(query_id)
        self._past.refused(camera, query_id, ask, arrived_s, self._clock.now_s)

    def _publish(self, publish: Publish) -> None:
        message, now_s = publish.message, self._clock.now_s
        if isinstance(message, QueryOutcome) and publish.label == "outcome":
            self._saying[publish.token] = message.query_id
            self.asks.says(message.query_id)
        elif publish.label == "reply" and isinstance(message, Answer | QueryOutcome):
            self._replied(publish.topic, message)
        if self._ledger is not None and isinstance(message, Open | Chunk | FollowUp):
            self._ledger.left(self.session, publish, now_s, self.backlog_s())
        self.counters["latents_sent_again"] += self._latents.sent(publish.topic, message)
        if publish.label == "question" and not self._spec.publishes:
            self._wire.refuse(publish)
        else:
            self._wire.put(publish, self.session.uplink.busy_s(now_s) + _TO_BROKER_S)

    def _sent(self, sent: Sent) -> None:
        self.stored.sent(sent)
        self.wire_bytes += sent.wire_bytes
        if self._budget is not None:
            self._budget.sent(sent.wire_bytes, sent.at_s)
        if sent.traffic_class is TrafficClass.OPEN or sent.label == "chunk":
            self.longest_wait_s = max(self.longest_wait_s, sent.waited_s)
        self._callbacks.on_sent(sent)

    def _told(self, token: int, delivery: Delivery) -> None:
        super()._told(token, delivery)
        query_id = self._saying.pop(token, None)
        if query_id is not None and delivery.arrived:
            self._unsaid.discard(query_id)

    def _replied(self, topic: str, message: Answer | QueryOutcome) -> None:
        client = message.owner.removeprefix("client/")
        if topic != topics.reply_topic(client, message.camera, message.question_id):
            problem = f"{self.site} sends it to {topic}"
            self._callbacks.on_problem("answer sent to somebody else", message.query_id, problem)
        self.counters["replied"] += 1
        self._callbacks.on_reply(message)

    def _decided(self, decision: Decision) -> None:
        if self._ledger is not None:
            self._ledger.decided(decision, self._clock.now_s)
        self.asks.ended(decision.query_id)
        self.stored.decided(decision)
        if decision.publish is not None and not decision.ad_hoc:
            self._unsaid.add(decision.query_id)
        self._callbacks.on_terminal(self.site, decision)

    def _on_disk(self, request: JournalRequest, result: JournalResult) -> None:
        now_s = self._clock.now_s
        self.asks.done(request, result, now_s)
        if isinstance(request, ReadUnfinished):
            self.awake_since_s = now_s
        self.session.stored(request.token, result, now_s)
        self._after()

    def _frame_on_disk(self, request: StoreRequest, result: StoreResult) -> None:
        self.session.frame_stored(request.token, result, self._clock.now_s)
        self._after()
