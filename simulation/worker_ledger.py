"""What one worker process was sent and what it says and does, to judge the one by the other.

Nothing here looks into a session: a ledger is kept of the messages that reach it, of what it publishes, and of the
passes that its model is given. Where these do not tell what it holds, nothing is judged.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.protocol.effects import InferencePass
from pipeline.protocol.ports import Publish
from pipeline.protocol.reasons import EDGE_LOST
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerSession
from pipeline.protocol.worker_work import WorkCosts
from schemas import topics
from schemas.messages import (
    Accept,
    Answer,
    Busy,
    FollowUp,
    Handover,
    Message,
    NeedText,
    Open,
    Refine,
    Reject,
    Revoke,
    Status,
)
from schemas.types import FrameId, Outcome
from simulation.query_ledger import ANOTHER_QUERY, COMPUTED_AGAIN, Problem, QueryLedger
from simulation.wills import STALE_WILL, WillsRead, seen_outside

REVOKE_IGNORED = "revoke ignored"
TWO_ANSWERS = "one worker, two answers"
STANDING_FIRST = "standing before ad-hoc"

_SPEAKS_IN_S = 1.0
"""After a deadline."""
_KNOWS_IN_S = 0.01
"""Before it."""

_Key = tuple[str, FrameId]


@dataclass(slots=True)
class _Held:
    """A frame that the worker was given and has not passed on.

    Attributes:
        attempt: latest attempt that it was given.
        deadlines_s: undecided queries.
        latest_s: the same, where it was given the frame more than once and may count from the last time.
        ad_hoc: those among all queries that a client asked.
        ready: it waits for its first pass, and lacks nothing.
        certain: what it is asked is known for sure.
        spoke: its edge has heard of this attempt from here.
        asked_at: prefix at which each query was asked last.
    """

    attempt: int
    deadlines_s: dict[str, float]
    ad_hoc: frozenset[str]
    latest_s: dict[str, float]
    ready: bool = True
    certain: bool = True
    spoke: bool = False
    asked_at: dict[str, int] = field(default_factory=dict)

    def left(self, now_s: float) -> dict[str, float]:
        """Queries that are undecided and not late, with their deadlines."""
        return {query_id: due_s for query_id, due_s in self.deadlines_s.items() if due_s > now_s}


class WorkerLedger:
    """Ledger of one worker process.

    Args:
        worker: its name.
        settings: of its session.
        costs: of its passes.
        asked: what was asked of every frame.
        on_problem: told what is broken.
    """

    def __init__(
        self, worker: str, settings: WorkerProtocolSettings, costs: WorkCosts, asked: QueryLedger, on_problem: Problem
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._costs = costs
        self._asked = asked
        self._on_problem = on_problem
        self._edges = WillsRead()
        self._peers = WillsRead()
        self._held: dict[_Key, _Held] = {}
        self._said = 0
        self._revoked: dict[_Key, int] = {}
        """Messages that it may say in all, those that waited for the broker when it was told."""
        self._named: Counter[str] = Counter()
        """How often each query was asked for and not answered since."""
        self._decided: OrderedDict[tuple[str, bytes], tuple[Outcome, str]] = OrderedDict()

    # ---- what the worker is told ------------------------------------------------------------------------------------

    @contextmanager
    def hears(self, session: WorkerSession, topic: str, message: Message, now_s: float) -> Iterator[None]:
        """Inside, the worker acts on a message; the last will of an earlier start must change nothing."""
        stale = isinstance(message, Status) and self._is_stale(topic, message)
        before = seen_outside(session) if stale else ()
        self._received(topic, message, now_s, session)
        yield
        if isinstance(message, Status) and stale and seen_outside(session) != before:
            problem = f"the will of boot {message.boot} of {message.id}"
            self._on_problem(STALE_WILL, self._worker, problem)

    def _is_stale(self, topic: str, message: Status) -> bool:
        return "/load/" not in topic and (self._edges if message.kind == "edge" else self._peers).is_stale(message)

    def _received(self, topic: str, message: Message, now_s: float, session: WorkerSession) -> None:
        match message:
            case Open():
                self._given(topic.rsplit("/", 1)[1], message, now_s)
            case Handover():
                self._given(message.camera, message.to_open(), now_s)
            case FollowUp():
                self._asked_more(topic.rsplit("/", 1)[1], message, now_s)
            case Revoke():
                self._take_away(message, session.sizes()["outgoing_messages"])
            case Status(kind="edge"):
                self._edges.learn(message, now_s)
            case Status() if "/load/" in topic:
                # Of another worker its loads count: a birth says nothing about what it holds.
                self._peers.learn(message, now_s)

    def _given(self, camera: str, message: Open, now_s: float) -> None:
        key = (camera, message.frame)
        refs = dict(zip(message.query_ids(camera), message.queries, strict=True))
        self._named.update({*refs})
        self._revoked.pop(key, None)
        held = self._held.get(key)
        if held is not None and held.left(now_s) and (held.ready or held.asked_at):
            if message.attempt > held.attempt:
                held.attempt, held.ready, held.spoke = message.attempt, False, False
            for query_id, ref in refs.items():
                latest_s = max(held.latest_s.get(query_id, now_s), now_s + ref.remaining_ms / 1000)
                held.latest_s[query_id] = latest_s
            return
        undecided = {
            query_id: now_s + ref.remaining_ms / 1000
            for query_id, ref in refs.items()
            if ref.remaining_ms > 0 and (query_id, ref.digest) not in self._decided
        }
        if undecided:
            ad_hoc = frozenset(query_id for query_id, ref in refs.items() if ref.ad_hoc)
            # One that waited for texts may have been let go of in silence, or may wait still.
            known = held is None or not held.left(now_s)
            attempt = message.attempt if held is None else max(message.attempt, held.attempt)
            self._held[key] = _Held(attempt, undecided, ad_hoc, dict(undecided), ready=known, certain=known)

    def _asked_more(self, camera: str, message: FollowUp, now_s: float) -> None:
        """Further questions: whether the worker has the frame, and knows their texts, does not show."""
        key = (camera, message.frame)
        refs = dict(zip(message.query_ids(camera), message.queries, strict=True))
        self._named.update({*refs})
        self._revoked.pop(key, None)
        held = self._held.setdefault(key, _Held(message.attempt, {}, frozenset(), {}))
        held.certain = held.ready = False
        held.ad_hoc |= {query_id for query_id, ref in refs.items() if ref.ad_hoc}
        for query_id, ref in refs.items():
            if ref.remaining_ms > 0 and (query_id, ref.digest) not in self._decided:
                due_s = now_s + ref.remaining_ms / 1000
                held.deadlines_s.setdefault(query_id, due_s)
                held.latest_s[query_id] = max(held.latest_s.get(query_id, due_s), due_s)
        if not held.deadlines_s:
            del self._held[key]

    def _take_away(self, message: Revoke, waiting: int) -> None:
        key = (message.camera, message.frame)
        held = self._held.get(key)
        if held is None or message.attempt < held.attempt:
            return
        if message.frame.boot in self._edges.over_since_s:
            # Who follows that edge cannot speak for its standing questions: they are kept.
            held.ready = False
            for query_id in held.ad_hoc:
                held.deadlines_s.pop(query_id, None)
        elif message.frame.boot in self._edges.ended:
            held.certain = held.ready = False
        else:
            del self._held[key]
            self._revoked[key] = self._said + waiting

    # ---- what the worker says ---------------------------------------------------------------------------------------

    def said(self, publish: Publish, now_s: float) -> None:
        """The worker's session wants this to be said, for the first time."""
        message = publish.message
        self._said += not isinstance(message, Status)
        match message:
            case Answer():
                self._asked.replied(self._worker, publish)
                if publish.topic == topics.answer_topic(message.camera):
                    if not self._is_repeat(message):
                        self._speaks_of((message.camera, message.frame))
                    self._answers(message)
            case Handover():
                key = (message.camera, message.frame)
                self._speaks_of(key)
                held = self._held.pop(key, None)
                if held is not None and held.spoke:
                    problem = f"{self._worker} hands it over after a word to its edge"
                    self._on_problem("claimed frame handed over", f"{key[0]}/{key[1]}", problem)
            case Accept() | Busy() | NeedText() | Refine() | Reject():
                key = (publish.topic.rsplit("/", 1)[1], message.frame)
                self._speaks_of(key)
                held = self._held.pop(key, None) if isinstance(message, Busy | Reject) else self._held.get(key)
                if held is not None:
                    held.spoke = True
                    held.ready &= not isinstance(message, NeedText)
                    if isinstance(message, Reject):
                        self._check_orphans(key, held, now_s)

    def disconnected(self) -> None:
        """The worker has lost its connection: what it wants to say from now on does not show."""
        for held in self._held.values():
            held.certain = held.ready = False

    def _speaks_of(self, key: _Key, *, queued: bool = True) -> None:
        if key in self._revoked and not (queued and self._said <= self._revoked[key]):
            self._on_problem(REVOKE_IGNORED, f"{key[0]}/{key[1]}", f"{self._worker} goes on with it")

    def _is_repeat(self, message: Answer) -> bool:
        """Whether a decided query is answered once more, for who asks again; that goes on with nothing."""
        question = self._asked.question(message.camera, message.frame, message.query_id)
        decided = question is not None and (message.query_id, question.digest) in self._decided
        return decided and message.outcome is not None

    def _answers(self, message: Answer) -> None:
        if message.outcome is None:
            if (held := self._held.get((message.camera, message.frame))) is not None:
                held.spoke = True
            return
        if message.reason == EDGE_LOST and message.frame.boot not in self._edges.ended:
            self._on_problem(STALE_WILL, message.query_id, f"{self._worker} speaks for an edge that lives")
        # A client's question may be asked of several frames, when its edge came back; one answer is for all of them.
        for key, held in list(self._held.items()) if message.ad_hoc else ():
            self._ends(key, held, message.query_id)
        key = (message.camera, message.frame)
        if (held := self._held.get(key)) is not None:
            held.spoke |= message.attempt == held.attempt
            self._ends(key, held, message.query_id)
        question = self._asked.question(message.camera, message.frame, message.query_id)
        if question is not None:
            asked_for = self._named[message.query_id]
            self._named[message.query_id] = max(0, asked_for - 1)
            if (message.query_id, question.digest) in self._decided and not asked_for:
                self._on_problem(ANOTHER_QUERY, message.query_id, f"{self._worker} repeats it, asked for another one")
            said = (message.outcome, message.text)
            if self._decided.setdefault((message.query_id, question.digest), said) != said:
                self._on_problem(TWO_ANSWERS, message.query_id, f"{self._worker} says {said} now")
            if len(self._decided) > self._settings.terminal_cache:
                self._decided.popitem(last=False)

    def _ends(self, key: _Key, held: _Held, query_id: str) -> None:
        held.deadlines_s.pop(query_id, None)
        if not held.deadlines_s:
            del self._held[key]

    def _check_orphans(self, key: _Key, held: _Held, now_s: float) -> None:
        """A frame that was read may not be rejected where nobody is left to open it again."""
        orphans = [query_id for query_id in held.left(now_s) if query_id not in held.ad_hoc]
        if held.certain and held.asked_at and orphans and key[1].boot in self._edges.over_since_s:
            self._on_problem("nobody speaks for a lost edge", orphans[0], f"{self._worker} rejects its frame")

    def check_time(self, now_s: float) -> None:
        """A worker that is awake has spoken for the edges that were over before the deadlines of their questions."""
        for key, held in list(self._held.items()):
            late = [query_id for query_id in held.deadlines_s if held.latest_s[query_id] < now_s - _SPEAKS_IN_S]
            over_s = self._edges.over_since_s.get(key[1].boot, math.inf)
            # A frame whose texts never came was let go of in silence, perhaps while its edge lived.
            certain = held.certain and (held.ready or held.asked_at)
            for query_id in late:
                if certain and query_id not in held.ad_hoc and over_s < held.deadlines_s[query_id] - _KNOWS_IN_S:
                    problem = f"{self._worker} had the frame, and knew"
                    self._on_problem("nobody speaks for a lost edge", query_id, problem)
                self._ends(key, held, query_id)

    # ---- what its model is given ------------------------------------------------------------------------------------

    def passes_taken(self, passes: Sequence[InferencePass], now_s: float, takes_s: Callable[[float], float]) -> None:
        """The worker's model begins with a batch.

        Args:
            passes: the batch.
            now_s: virtual time.
            takes_s: the longest that the worker can expect of a batch with so much work.
        """
        for inference_pass in passes:
            self._speaks_of((inference_pass.camera, inference_pass.frame), queued=False)
            self._asked.passes_taken(self._worker, inference_pass)
            for query in inference_pass.queries:
                if (query.query_id, query.question.digest) in self._decided:
                    self._on_problem(COMPUTED_AGAIN, query.query_id, f"{self._worker} has answered it already")
            self._check_within(inference_pass, now_s)
        self._check_batch(passes, now_s, takes_s)
        for inference_pass in passes:
            held = self._held.get((inference_pass.camera, inference_pass.frame))
            if held is not None:
                held.ready = False
                held.asked_at.update((query.query_id, inference_pass.stop) for query in inference_pass.queries)

    def _check_within(self, inference_pass: InferencePass, now_s: float) -> None:
        """In a frame: no standing question is asked while a client's waits for the same latents."""
        held = self._held.get((inference_pass.camera, inference_pass.frame))
        if held is None or not held.certain:
            return
        asked = {query.query_id for query in inference_pass.queries}
        waits = [
            query_id
            for query_id in held.left(now_s)
            if query_id in held.ad_hoc
            and query_id not in asked
            and held.asked_at.get(query_id, 0) < inference_pass.stop
        ]
        if waits and not asked <= held.ad_hoc:
            self._on_problem(STANDING_FIRST, waits[0], f"{self._worker} asks the frame something else first")

    def _check_batch(self, passes: Sequence[InferencePass], now_s: float, takes_s: Callable[[float], float]) -> None:
        """Between frames: the client's question that is due first waits for nobody's standing question."""
        batch = {(inference_pass.camera, inference_pass.frame): inference_pass for inference_pass in passes}
        with_client = [
            (min(left.values()), key, held, left)
            for key, held in self._held.items()
            if (left := held.left(now_s)) and not held.ad_hoc.isdisjoint(left)
        ]
        if not with_client:
            return
        due_s, key, held, left = min(with_client, key=lambda entry: entry[0])
        if key in batch or not held.ready or sum(entry[0] == due_s for entry in with_client) > 1:
            return
        standing = [
            other for other, inference_pass in batch.items() if not self._may_be_a_clients(other, inference_pass)
        ]
        clients = [query_id for query_id in left if query_id in held.ad_hoc]
        last_s = max(left[query_id] for query_id in clients)
        if standing and last_s - self._settings.finalise_margin_s - now_s > takes_s(self._work(key, left)):
            camera, frame = standing[0]
            self._on_problem(STANDING_FIRST, clients[0], f"{self._worker} reads {camera}/{frame} instead")

    def _may_be_a_clients(self, key: _Key, inference_pass: InferencePass) -> bool:
        held = self._held.get(key)
        return held is None or bool(held.ad_hoc) or any(query.question.ad_hoc for query in inference_pass.queries)

    def _work(self, key: _Key, query_ids: Iterable[str]) -> int:
        """Work of a frame with the dearest of its questions."""
        questions = [self._asked.question(*key, query_id) for query_id in query_ids]
        dearest = max(
            (self._costs.question(question.prompt, question.answer_type) for question in questions if question),
            default=0,
        )
        return self._costs.frame + dearest
