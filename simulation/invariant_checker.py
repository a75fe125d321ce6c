"""What must hold whatever happens, checked at every step.

- An edge decides each of its queries exactly once, at its deadline at the latest, to the microsecond: it needs nobody
  for that. One that was frozen or dead then decides when it is back.
- Whoever reads the topics sees one terminal outcome a query. What an edge decides is read within :data:`GRACE_S` and
  the time that its uplink needs, counted from the decision, or from when the edge has its connection back.
- A query whose edge died while a worker held its frame, and still held it when it knew, ends within
  :data:`ORPHAN_GRACE_S` of its deadline all the same.
- No answer from latents of another codec, no pass over anything but a prefix of its frame, no unsafe answer called
  safe.
- No buffer over its bound, and no lease renewed while a model is stalled.
- No latent sent twice without a counted reason, and none of one attempt to two workers.
- Recovery: once faults are over and the pool is idle, no query expires or fails that had time to be answered. A
  client's question is not judged so where its camera took no frame since, and was to take none for it alone.
- Frames that were stored without a link may wait for all others, so their queries may expire. No answer about one
  takes the place of an answer about a newer frame.
- A key frame that is missing or damaged fails no query: its frame comes again, coded by itself.
- An ad-hoc query is never superseded, is decided once whatever happens to its edge, and who asks again is told that
  decision. A query id is never used for two questions.
- No live-lock: time moves on, and nobody speaks when all is decided.

A standing query dies with its edge when no worker holds it: nobody else knows that it was asked. Those are counted and
not judged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.protocol.ad_hoc_questions import ANOTHER_QUESTION, NO_FRAME_SEQUENCE
from pipeline.protocol.effects import Decision
from pipeline.protocol.reducer import OutcomeReducer
from schemas.messages import Answer, Handover, Message, QueryOutcome
from schemas.types import Outcome

KEY_FAILURES = ("key frame", "bitstream")
"""How the reasons of queries begin that failed for a key frame; no other latents are ever damaged here."""
GRACE_S = 1.0
"""From an edge's decision to its reader, beside the uplink's own time: a message takes 10 ms to the broker, and the end
of a lost connection is judged once a second."""
UPLINK_SHARE = 4.0
"""Reports and opens leave in turn, and every other message may be one to a worker, so what waits when a query is
decided may take four times its own time."""
ORPHAN_GRACE_S = 2.0
"""A worker's deadline counts from the arrival of the open message, which a slow delivery and a hand-over put off."""
RECOVERY_S = 10.0
"""A lost attempt costs the base lease and a back-off, twice if the next one is lost as well. The passes come on top."""
_EXACT_S = 1e-6


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken invariant.

    Attributes:
        rule: short name.
        time_s: virtual time.
        subject: query, frame or process that it is about.
        problem: what was seen.
    """

    rule: str
    time_s: float
    subject: str
    problem: str


@dataclass(frozen=True, slots=True)
class EdgeState:
    """What the invariant checker must know about an edge.

    Attributes:
        awake_since_s: since when its process runs; infinite while it does not.
        linked_since_s: since when it has a connection that works; infinite while it has none.
        backlog_s: what waits for the uplink, in seconds of its rate.
    """

    awake_since_s: float
    linked_since_s: float
    backlog_s: float


@dataclass(slots=True)
class Asked:
    """A query that an edge has taken on."""

    asked_s: float
    deadline_s: float
    ad_hoc: bool
    site: str
    history: bool = False
    undecided: bool = True
    had_no_frame: bool = False
    said_since_s: float = math.inf
    backlog_s: float = 0.0


@dataclass(slots=True)
class InvariantChecker:
    """Reads what the broker accepts and what the sessions decide.

    Attributes:
        max_hops: hand-overs that a frame may see.
        passes_s: what the slowest worker needs for a pass on every rung of the ladder.
        edge: state of a site's edge.
        violations: what was broken.
        outcomes: terminals by kind, after the reducer.
        with_edge: standing queries that died with their edge.
        orphans: standing queries that a worker had to answer for in place of their edge.
        let_go: those among the first that a worker let go of before it knew that their edge is gone.
        spoke_s: when somebody last said something about a frame.
    """

    max_hops: int
    passes_s: float
    edge: Callable[[str], EdgeState]
    violations: list[Violation] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    with_edge: int = 0
    orphans: int = 0
    let_go: int = 0
    spoke_s: float = 0.0
    reducer: OutcomeReducer = field(default_factory=OutcomeReducer)
    _open: dict[str, Asked] = field(default_factory=dict)
    _orphans: dict[str, tuple[float, float]] = field(default_factory=dict)
    _decided: dict[tuple[str, str], tuple[Outcome, str]] = field(default_factory=dict)
    _wrong_codec: set[str] = field(default_factory=set)
    _excused: set[str] = field(default_factory=set)

    # ---- what happens -----------------------------------------------------------------------------------------------

    def foreign_worker(self, name: str) -> None:
        """A worker of another codec is in the pool: it must never answer."""
        self._wrong_codec.add(name)

    def asked(
        self, site: str, query_id: str, now_s: float, deadline_s: float, *, ad_hoc: bool, history: bool = False
    ) -> None:
        """An edge took a query on, for the first time."""
        if query_id in self._excused:
            return
        if query_id in self._open or self.reducer.get(query_id) is not None:
            self._break("query id used twice", now_s, query_id, site)
        else:
            self._open[query_id] = Asked(now_s, deadline_s, ad_hoc, site, history)

    def edge_died(self, query_ids: list[str], held: Mapping[str, float], now_s: float) -> None:
        """These standing queries die with their edge.

        Args:
            query_ids: undecided, or decided and not said.
            held: those among them whose frame a healthy worker holds, with their deadlines there.
            now_s: virtual time.
        """
        for query_id in query_ids:
            if self._open.pop(query_id, None) is None:
                continue
            if query_id in held:
                self._orphans[query_id] = (held[query_id], now_s)
            else:
                self.with_edge += 1

    def left_before_will(self, query_ids: list[str]) -> None:
        """These were let go of, unless they have ended, before their workers knew that the edge is gone."""
        for query_id in query_ids:
            lost = self._orphans.pop(query_id, None) is not None
            self.with_edge += lost
            self.let_go += lost

    def edge_decided(self, site: str, decision: Decision, now_s: float) -> None:
        """An edge session decided a query."""
        key = (site, decision.query_id)
        text = decision.answer.text if decision.answer is not None else ""
        if decision.query_id in self._excused:
            return
        if key in self._decided:
            self._break("decided twice by its edge", now_s, decision.query_id, str(decision.outcome))
        self._decided.setdefault(key, (decision.outcome, text))
        asked = self._open.get(decision.query_id)
        if asked is None:
            return
        self._check_decision(decision.query_id, asked, now_s)
        asked.undecided = False
        if decision.publish is not None:
            asked.said_since_s, asked.backlog_s = now_s, self.edge(site).backlog_s

    def had_no_frame(self, query_id: str) -> None:
        """A client's question met no frame because its camera was to take none: it could only expire."""
        asked = self._open.get(query_id)
        if asked is not None:
            asked.had_no_frame = True

    def excuse(self, query_id: str) -> None:
        """A disk has lost this question: nothing is expected of it any more."""
        self._excused.add(query_id)
        self._open.pop(query_id, None)

    def forgotten(self, site: str, query_ids: Iterable[str]) -> None:
        """Decisions that died with a process before the disk had them: its next one decides anew."""
        for query_id in query_ids:
            self._decided.pop((site, query_id), None)
            asked = self._open.get(query_id)
            if asked is not None:
                asked.undecided, asked.said_since_s = True, math.inf

    def is_refusal(self, message: Answer | QueryOutcome) -> bool:
        """Whether an edge says that it has not taken a question in: nobody waits for another end of it."""
        refused = isinstance(message, QueryOutcome) and message.frame.sequence == NO_FRAME_SEQUENCE
        return refused and message.query_id not in self._open and self.reducer.get(message.query_id) is None

    def replied(self, site: str, message: Answer | QueryOutcome, now_s: float) -> None:
        """An edge told a client on its reply topic how its query ended, or why it is refused."""
        excused = message.query_id in self._excused
        if excused or self.is_refusal(message) or message.reason == ANOTHER_QUESTION:
            return
        decided = self._decided.get((site, message.query_id))
        told = (message.outcome, message.text if isinstance(message, Answer) else "")
        if decided != told:
            self._break("asked again, told something else", now_s, message.query_id, f"{told} instead of {decided}")

    def published(self, message: Message, now_s: float, calm_since_s: float) -> None:
        """The broker accepted a message that a reader would see.

        Args:
            message: the message.
            now_s: virtual time.
            calm_since_s: since when no fault works and the fleet is idle; infinite while it is not.
        """
        if isinstance(message, Handover) and message.hops > self.max_hops:
            self._break("hop limit", now_s, f"{message.camera}/{message.frame}", f"{message.hops} hops")
        if not isinstance(message, Answer | QueryOutcome):
            return
        if isinstance(message, Answer) and message.worker in self._wrong_codec:
            self._break("answer of a foreign codec", now_s, message.query_id, message.worker)
        if message.outcome is Outcome.FAILED and message.reason.startswith(KEY_FAILURES):
            self._break("a key frame failed a query", now_s, message.query_id, message.reason)
        if self.reducer.observe(message, now_s) is None:
            return
        self.outcomes[str(message.outcome)] += 1
        if self._orphans.pop(message.query_id, None) is not None:
            self.orphans += 1
        asked = self._open.pop(message.query_id, None)
        if asked is None:
            return
        if asked.undecided:
            # Its edge has not heard of it yet, and may never; its own deadline is judged when it speaks.
            self._check_decision(message.query_id, asked, now_s)
        if asked.ad_hoc and message.outcome is Outcome.SUPERSEDED:
            self._break("ad-hoc query superseded", now_s, message.query_id, asked.site)
        calm_s = now_s - max(asked.asked_s, calm_since_s)
        lost = message.outcome in (Outcome.EXPIRED, Outcome.FAILED) and not (asked.had_no_frame or asked.history)
        if lost and calm_s > RECOVERY_S + self.passes_s:
            self._break("no recovery", now_s, message.query_id, f"{message.outcome} after {calm_s:.1f} calm seconds")
        self._check_said(message.query_id, asked, now_s)

    # ---- what time tells --------------------------------------------------------------------------------------------

    def check_time(self, now_s: float, pool_calm_since_s: float) -> None:
        """Every query must have been decided and said when its time is over.

        Args:
            now_s: virtual time.
            pool_calm_since_s: since when workers, broker and wire are as they should be.
        """
        for query_id, asked in list(self._open.items()):
            broken = len(self.violations)
            if asked.undecided:
                self._check_decision(query_id, asked, now_s)
            else:
                self._check_said(query_id, asked, now_s)
            if len(self.violations) > broken:
                del self._open[query_id]
        for query_id, (deadline_s, died_s) in list(self._orphans.items()):
            if now_s <= deadline_s + ORPHAN_GRACE_S:
                continue
            del self._orphans[query_id]
            if pool_calm_since_s <= died_s:
                self._break("nobody speaks for a lost edge", now_s, query_id, f"its deadline was {deadline_s:.2f}")
            else:
                self.with_edge += 1

    def _check_decision(self, query_id: str, asked: Asked, now_s: float) -> None:
        due_s = max(asked.deadline_s, self.edge(asked.site).awake_since_s)
        if now_s > due_s + _EXACT_S:
            self._break("not decided at its deadline", now_s, query_id, f"which was {asked.deadline_s:.3f}")

    def _check_said(self, query_id: str, asked: Asked, now_s: float) -> None:
        if math.isinf(asked.said_since_s):
            return
        edge = self.edge(asked.site)
        since_s = max(edge.awake_since_s, edge.linked_since_s)
        if math.isinf(since_s):
            return
        if since_s > asked.said_since_s:
            asked.said_since_s, asked.backlog_s = since_s, edge.backlog_s
        if now_s - asked.said_since_s <= 2 * GRACE_S:
            # What was decided at the same moment may have been queued before it; the first look comes a second later.
            asked.backlog_s = max(asked.backlog_s, edge.backlog_s)
        late_s = now_s - asked.said_since_s - GRACE_S - UPLINK_SHARE * asked.backlog_s
        if late_s > 0:
            self._break("terminal too late", now_s, query_id, f"{late_s:.2f} s after it could have been read")

    # ---- the rest ---------------------------------------------------------------------------------------------------

    def check_bound(self, now_s: float, what: str, size: int, bound: int) -> None:
        """A buffer may not be over its bound."""
        if size > bound:
            self._break("buffer over its bound", now_s, what, f"{size} > {bound}")

    def problem(self, rule: str, now_s: float, subject: str, problem: str) -> None:
        """Something else was found."""
        self._break(rule, now_s, subject, problem)

    def unfinished(self) -> int:
        """Queries without a terminal yet."""
        return len(self._open) + len(self._orphans)

    def _break(self, rule: str, now_s: float, subject: str, problem: str) -> None:
        if len(self.violations) < 100:
            self.violations.append(Violation(rule, now_s, subject, problem))
