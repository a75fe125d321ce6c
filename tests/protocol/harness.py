"""One edge session and any number of worker sessions, connected through real wire bytes on a virtual clock."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from pipeline.node.ask_journal import AskJournal
from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import Departure
from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.effects import Decision, GivenKey, InferencePass, PassAnswer
from pipeline.protocol.journal_requests import Admit, Decide, MarkTold, MoveToFile, ReadUnfinished
from pipeline.protocol.ports import (
    Acknowledge,
    Contained,
    Delivery,
    PassFailure,
    PassResult,
    Problem,
    Publish,
    Received,
    RunBatch,
    Unsubscribe,
)
from pipeline.protocol.reducer import OutcomeReducer
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_frames import WorkerFrames
from pipeline.protocol.worker_session import WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from pipeline.protocol.worker_work import WorkCosts
from schemas import topics, wire
from schemas.errors import BitstreamError
from schemas.messages import (
    Answer,
    Message,
    Open,
    QueryOutcome,
    RejectReason,
    Status,
)  # fmt: skip
from schemas.types import FrameId
from tests.protocol.fake_latents import GIVEN_KEY, LADDER, LATENTS, FakeLatent, read
from tests.protocol.questions import SITE, asked, published

POOL = "main"
FINGERPRINT = b"\x01\x02\x03\x04"
STOP_RULE = StopRule(LADDER, (0.9,) * 4, {}, 0.02)


def scores_at(*scores: float) -> Callable[[int], float]:
    """A score that grows along the ladder: scores_at(0.5, 0.95) is safe from the second rung on."""

    def score(prefix: int) -> float:
        rung = sum(prefix > step for step in LADDER)
        return scores[min(rung, len(scores) - 1)]

    return score


@dataclass
class Worker:
    """A worker session with a model that takes ``pass_s`` and answers by the prefix it reads."""

    session: WorkerSession
    name: str
    boot: int
    score: Callable[[int], float]
    score_of: dict[str, float] = field(default_factory=dict)
    pass_s: float = 0.05
    alive: bool = True
    frozen: bool = False
    backlog: list[tuple[str, bytes]] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    puback_s: float = 0.0
    under_way: set[int] = field(default_factory=set)

    @property
    def frames(self) -> WorkerFrames:
        """What decides about its frames, for tests that reach inside."""
        return self.session._frames


class SlowUplink(DepartureQueue):
    """Opens and key frames wait for as long as the fleet says before the uplink knows of them."""

    def __init__(self, fleet: Fleet, rate_kbps: float | None) -> None:
        super().__init__(rate_kbps)
        self._fleet = fleet

    def put(self, departure: Departure, now_s: float) -> bool:
        if departure.label == "key_frame" and self._fleet.key_frames_fail:
            return False
        wait_s = self._fleet.uplink_s() if departure.label in ("open", "key_frame") else 0.0
        if wait_s <= 0:
            return super().put(departure, now_s)
        self._fleet.at(now_s + wait_s, lambda: self._release(departure))
        return True

    def _release(self, departure: Departure) -> None:
        super().put(departure, self._fleet.now_s)


class Fleet:
    """The sessions, a broker that deals opens round-robin, and a clock that moves by events.

    Attributes:
        drop: called with (topic, message) of each delivery; True loses it.
        delay_s: called with (topic, message); how long its delivery takes.
        loses_key: called with the name of a worker; True loses a key frame on its way there.
        key_frames_fail: the uplink gives key frames up.
        sent: every message that was put on the wire, with its topic.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        score: Callable[[int], float] = lambda prefix: 1.0,
        edge_settings: EdgeProtocolSettings | None = None,
        worker_settings: WorkerProtocolSettings | None = None,
        know_questions: bool = True,
        boot: int = 7,
        costs: WorkCosts | None = None,
        max_work: float = math.inf,
    ) -> None:
        self.now_s = 0.0
        self.edge_alive = True
        self.edge_reads_itself = True
        self.decisions: list[Decision] = []
        self.reducer = OutcomeReducer()
        self.sent: list[tuple[str, Message]] = []
        self.drop: Callable[[str, Message], bool] = lambda topic, message: False
        self.delay_s: Callable[[str, Message], float] = lambda topic, message: 0.01
        self.duplicate: Callable[[str, Message], bool] = lambda topic, message: False
        self.uplink_s: Callable[[], float] = lambda: 0.0
        self.says_no_subscribers = False
        self.loses_key: Callable[[str], bool] = lambda name: False
        self.key_frames_fail = False
        self._marks: dict[tuple[str, FrameId], int] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.dealt: Iterator[int] = itertools.count()
        self.journal = AskJournal(None)
        self.decided_s: list[float] = []
        self.replies: list[str] = []
        self.errors: Counter[str] = Counter()
        self.costs = costs
        self.workers: dict[str, Worker] = {}
        for index in range(workers):
            self.add_worker(f"w{index}", score, worker_settings, know_questions=know_questions, max_work=max_work)
        self.edge = self.start_edge(boot, edge_settings)

    def add_worker(
        self,
        name: str,
        score: Callable[[int], float],
        settings: WorkerProtocolSettings | None = None,
        *,
        know_questions: bool = True,
        fingerprint: bytes = FINGERPRINT,
        max_work: float = math.inf,
        boot: int | None = None,
    ) -> Worker:
        boot = 100 + len(self.workers) if boot is None else boot
        session = WorkerSession(
            settings or WorkerProtocolSettings(),
            identity=WorkerIdentity(name, POOL, boot, fingerprint),
            stop_rule=STOP_RULE,
            costs=self.costs,
            max_batch_frames=8,
            max_batch_work=max_work,
        )
        worker = Worker(session, name, boot, score)
        self.workers[name] = worker
        session.connection(True, self.now_s)
        if know_questions:
            for question in ("q0", "q1", "q2"):
                self.tell(worker, topics.question_topic(SITE, question), published(question))
        return worker

    def start_edge(
        self,
        boot: int,
        settings: EdgeProtocolSettings | None = None,
        *,
        site: SiteSettings | None = None,
        fingerprint: bytes = FINGERPRINT,
    ) -> EdgeSession:
        """An edge process starts and connects; it takes the place of the one before."""
        self.edge = EdgeSession(
            settings or EdgeProtocolSettings(),
            site or SiteSettings(SITE, POOL, asked_of={"gate": (), "yard": ()}),
            boot=boot,
            fingerprint=fingerprint,
            now_s=self.now_s,
            order=lambda rate_kbps: SlowUplink(self, rate_kbps),
        )
        self.edge_alive = True
        self.edge_connection(True)
        return self.edge

    def tell(
        self,
        worker: Worker,
        topic: str,
        message: Message,
        response_topic: str | None = None,
        *,
        qos: int = 0,
        retained: bool = False,
    ) -> None:
        """A message reaches a worker."""
        token = next(self._order) if qos else None
        received = Received(topic, wire.encode(message), retained=retained, response_topic=response_topic, token=token)
        worker.session.receive(received, self.now_s)

    # ---- driving ----------------------------------------------------------------------------------------------------

    def ask(
        self,
        *questions: str,
        camera: str = "gate",
        deadline_s: float = 10.0,
        base: int = 4,
        ad_hoc: bool = False,
        as_key: bool = False,
        given: FrameId | None = None,
    ) -> FrameId:
        """Ask questions of a frame that is coded by itself, as a key frame, or given one."""
        queries = [asked(question, self.now_s + deadline_s, ad_hoc=ad_hoc) for question in questions]
        latent, given_key = FakeLatent(), None
        if as_key:
            latent = FakeLatent(LATENTS * (1 + len(self._marks) % 7))
            given_key = GivenKey(FakeLatent(GIVEN_KEY + latent.mark), None)
        elif given is not None:
            given_key = GivenKey(FakeLatent(GIVEN_KEY + self._marks[camera, given]), given.sequence)
        kept_as = self.edge.keep(camera, latent, base, self.now_s, self.now_s, size_bytes=LATENTS)
        frame = self.edge.offer(camera, latent, base, queries, self.now_s, frame=kept_as, given_key=given_key)
        if as_key:
            self._marks[camera, frame] = latent.mark
        self._settle()
        return frame

    def run(self, until_s: float = 60.0) -> None:
        """Move the clock from event to event until nothing is left or ``until_s``."""
        for _ in range(100_000):
            wakes = [self.edge.next_wake_s() if self.edge_alive else None]
            wakes += [w.session.next_wake_s() for w in self.workers.values() if w.alive and not w.frozen]
            times = [max(time, self.now_s) for time in wakes if time is not None]
            if self._events:
                times.append(self._events[0][0])
            if not times or min(times) > until_s:
                self.now_s = max(self.now_s, until_s)
                return
            self.now_s = min(times)
            while self._events and self._events[0][0] <= self.now_s:
                heapq.heappop(self._events)[2]()
            for worker in self.workers.values():
                if worker.alive and not worker.frozen:
                    self._poll(worker)
            self._settle()
        raise AssertionError("live-lock: the clock does not move on")

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), action))

    def kill(self, name: str, *, will: bool = True) -> None:
        worker = self.workers[name]
        worker.alive = False
        if will:
            self.worker_status(Status(kind="worker", id=name, boot=worker.boot, online=False))

    def worker_status(self, status: Status, *, retained: bool = False) -> None:
        """A worker's birth or last will reaches the edge."""
        topic = topics.status_topic("worker", status.id)
        self.edge.receive(Received(topic, wire.encode(status), retained=retained), self.now_s)
        self._settle()

    def tell_edge(
        self,
        topic: str,
        message: Message,
        *,
        qos: int = 0,
        retained: bool = False,
        response_topic: str | None = None,
    ) -> None:
        """A message reaches the edge."""
        token = next(self._order) if qos else None
        received = Received(topic, wire.encode(message), retained=retained, response_topic=response_topic, token=token)
        self.edge.receive(received, self.now_s)
        self._settle()

    def settle(self) -> None:
        """Carry out what the sessions want, after an input of the test's own."""
        self._settle()

    def edge_connection(self, connected: bool) -> None:
        """The edge's connection comes or goes; it reads back what it has published before."""
        self.edge.connection(connected, self.now_s)
        self._settle()

    def worker_connection(self, worker: Worker, connected: bool) -> None:
        """A worker's connection comes or goes, and with it what the broker has not acknowledged."""
        worker.session.connection(connected, self.now_s)
        for token in sorted(worker.under_way) if not connected else ():
            self._puback(worker, token, Delivery.CONNECTION_LOST)
        self._settle()

    def worker_is_back(self, name: str) -> None:
        """The connection of a worker that runs comes back: its birth reaches the edge."""
        worker = self.workers[name]
        if worker.alive and not worker.frozen:
            worker.session.connection(False, self.now_s)
            worker.session.connection(True, self.now_s)
            self.worker_status(Status(kind="worker", id=name, boot=worker.boot, online=True))

    def edge_status(self, *, boot: int = 7, online: bool, cameras: tuple[str, ...] = ()) -> None:
        """An edge's birth or last will reaches every worker that runs."""
        status = Status(kind="edge", id="north", boot=boot, online=online, pool=POOL, cameras=cameras)
        for worker in self.workers.values():
            if worker.alive and not worker.frozen:
                self.tell(worker, topics.status_topic("edge", "north"), status)
        self._settle()

    def kill_edge(self) -> None:
        self.edge_alive = False
        self.edge_status(online=False)

    def freeze(self, name: str) -> None:
        self.workers[name].frozen = True

    def wake(self, name: str) -> None:
        worker = self.workers[name]
        worker.frozen = False
        self._poll(worker)
        backlog, worker.backlog = worker.backlog, []
        for topic, data in backlog:
            self._to_worker(worker, topic, data)
        self._settle()

    # ---- the wire ---------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Carry out every effect; deliveries become events."""
        while True:
            outputs = self.edge.poll(self.now_s) if self.edge_alive else []
            for output in outputs:
                self._carry_out(output)
            busy = bool(outputs)
            for worker in self.workers.values():
                if worker.alive and not worker.frozen:
                    busy |= self._poll(worker)
            if not busy:
                return

    def _poll(self, worker: Worker) -> bool:
        """Carry out what a worker's session wants; whether there was anything."""
        outputs = worker.session.poll(self.now_s)
        for output in outputs:
            match output:
                case Publish():
                    self._worker_publishes(output)
                    worker.under_way.add(output.token)
                    if output.qos and worker.puback_s:
                        self.at(self.now_s + worker.puback_s, partial(self._puback, worker, output.token))
                    else:
                        self._puback(worker, output.token)
                case RunBatch():
                    self.at(self.now_s + worker.pass_s, partial(self._batch_done, worker, output))
                case Problem():
                    self.errors[type(output.error).__name__] += 1
                case Unsubscribe():
                    worker.session.unsubscribed(output.filter, self.now_s)
                case Contained():
                    raise output.error
                case Acknowledge():
                    worker.acknowledged += output.tokens
        return bool(outputs)

    def _puback(self, worker: Worker, token: int, delivery: Delivery = Delivery.DELIVERED) -> None:
        if token in worker.under_way:
            worker.under_way.remove(token)
            worker.session.published(token, delivery, self.now_s)

    def _worker_publishes(self, publish: Publish) -> None:
        family = topics.parse(publish.topic).family
        if family is topics.Family.REPLY:
            self.replies.append(publish.topic)
        elif family not in (topics.Family.STATUS, topics.Family.LOAD):
            if isinstance(publish.message, Answer):
                self.reducer.observe(publish.message, self.now_s)
            self._publish(publish.topic, publish.message)

    def _batch_done(self, worker: Worker, batch: RunBatch) -> None:
        if not worker.alive:
            return
        if worker.frozen:
            self.at(self.now_s + 0.1, partial(self._batch_done, worker, batch))
            return
        worker.session.batch_done(
            batch.token, [self._result(worker, inference_pass) for inference_pass in batch.passes], self.now_s
        )

    def _result(self, worker: Worker, inference_pass: InferencePass) -> PassResult:
        try:
            read(inference_pass.chunks)
        except BitstreamError as error:
            return PassFailure(RejectReason.BITSTREAM, str(error))
        score = worker.score(inference_pass.stop)
        return [
            PassAnswer(
                q.query_id, f"answer at {inference_pass.stop}", worker.score_of.get(q.question.question_id, score)
            )
            for q in inference_pass.queries
        ]

    def _carry_out(self, output: EdgeOutput) -> None:
        match output:
            case Publish():
                self._leaves(output)
            case Acknowledge():
                self.edge.acknowledged(len(output.tokens), self.now_s)
            case Decision():
                self.decisions.append(output)
                self.decided_s.append(self.now_s)
            case Admit() | Decide() | MarkTold() | MoveToFile() | ReadUnfinished():
                self.edge.stored(output.token, self.journal.perform(output), self.now_s)
            case Problem():
                self.errors[type(output.error).__name__ if output.error else output.kind] += 1
            case Contained():
                raise output.error
            case _:
                pass

    def _leaves(self, publish: Publish) -> None:
        delivery = Delivery.DELIVERED
        if isinstance(publish.message, QueryOutcome):
            self.reducer.observe(publish.message, self.now_s)
            self.sent.append((publish.topic, publish.message))
        elif isinstance(publish.message, Status):
            # Read back, as from a broker; workers hear of it by edge_status.
            if self.edge_reads_itself:
                self.edge.receive(Received(publish.topic, publish.payload), self.now_s)
        else:
            self._publish(publish.topic, publish.message)
            if isinstance(publish.message, Open) and self.says_no_subscribers:
                nobody = not any(worker.alive for worker in self.workers.values())
                delivery = Delivery.NO_SUBSCRIBERS if nobody else delivery
        self.edge.published(publish.token, delivery, self.now_s)

    def _publish(self, topic: str, message: Message) -> None:
        self.sent.append((topic, message))
        copies = 2 if self.duplicate(topic, message) else 1
        if self.drop(topic, message):
            return
        data = wire.encode(message)
        for copy in range(copies):
            self.at(self.now_s + self.delay_s(topic, message) + 0.001 * copy, lambda: self._deliver(topic, data))

    def _deliver(self, topic: str, data: bytes) -> None:
        parsed = topics.parse(topic)
        if parsed.family is topics.Family.OPEN:
            members = [worker for worker in self.workers.values() if worker.alive]
            if members:
                self._to_worker(members[next(self.dealt) % len(members)], topic, data)
        elif parsed.family is topics.Family.KEY:
            for reader in self.workers.values():
                if reader.alive and not self.loses_key(reader.name):
                    self._to_worker(reader, topic, data)
        elif parsed.family in (topics.Family.CHUNK, topics.Family.HANDOVER):
            worker = self.workers.get(parsed.name("worker"))
            if worker is not None and worker.alive:
                self._to_worker(worker, topic, data)
        elif self.edge_alive:
            self.edge.receive(Received(topic, data), self.now_s)

    def _to_worker(self, worker: Worker, topic: str, data: bytes) -> None:
        if worker.frozen:
            worker.backlog.append((topic, data))
            return
        worker.session.receive(Received(topic, data), self.now_s)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def outcomes(self) -> dict[str, str]:
        """Outcome of each query; asserts that there is one terminal each."""
        counts = Counter(decision.query_id for decision in self.decisions)
        assert all(count == 1 for count in counts.values()), f"decided twice: {counts}"
        return {decision.query_id: str(decision.outcome) for decision in self.decisions}

    def messages(self, kind: type[Message]) -> list[Message]:
        return [message for _, message in self.sent if isinstance(message, kind)]


def finals(messages: Iterable[Message]) -> list[Answer | QueryOutcome]:
    """The terminal ones among messages."""
    return [m for m in messages if isinstance(m, Answer | QueryOutcome) and m.outcome is not None]
