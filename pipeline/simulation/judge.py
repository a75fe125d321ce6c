"""What must hold whatever happens, checked at every step.

- One terminal outcome a query after the reducer, and exactly one from each edge session.
- None later than its deadline, or the return of the edge's connection, plus grace, for whoever reads the topics.
- No answer from latents of another codec, and no look at anything but a prefix of its frame.
- No buffer over its bound.
- No latent sent twice without a counted reason, and none of one attempt to two workers.
- Recovery: once faults are over and the pool is idle, no query expires that had time to be answered.
- An ad-hoc query is never superseded, and a query id never used for two questions.
- No live-lock: time moves on.

A standing query dies with its edge: nobody else knows that it was asked. It is counted and not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.protocol.effects import Terminal
from pipeline.protocol.reducer import OutcomeReducer
from pipeline.simulation.content import LATENTS
from schemas.messages import Answer, Handover, Message, QueryOutcome
from schemas.types import Outcome

RECOVERY_S = 10.0
"""A lost attempt costs the base lease and a back-off, twice if the next one is lost as well, and then a look."""


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


@dataclass(slots=True)
class Asked:
    """A query that an edge has taken on."""

    asked_s: float
    deadline_s: float
    ad_hoc: bool
    site: str


@dataclass(slots=True)
class Judge:
    """Reads what the broker accepts and what the sessions decide.

    Attributes:
        grace_s: how much later than its deadline a terminal may be seen.
        max_hops: hand-overs that a frame may see.
        linked_since_s: since when a site's edge has its connection, infinite while it has none.
        violations: what was broken.
        outcomes: terminals by kind, after the reducer.
        latencies_s: time from asking to terminal, of answered queries.
        with_edge: standing queries that died with their edge.
    """

    grace_s: float
    max_hops: int
    linked_since_s: Callable[[str], float]
    violations: list[Violation] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    with_edge: int = 0
    reducer: OutcomeReducer = field(default_factory=OutcomeReducer)
    _open: dict[str, Asked] = field(default_factory=dict)
    _terminals: set[tuple[str, int, str]] = field(default_factory=set)
    _wrong_codec: set[str] = field(default_factory=set)

    def foreign_worker(self, name: str) -> None:
        """A worker of another codec is in the pool: it must never answer."""
        self._wrong_codec.add(name)

    def asked(self, site: str, query_id: str, now_s: float, deadline_s: float, *, ad_hoc: bool) -> None:
        """An edge took a query on."""
        known = query_id in self._open or self.reducer.get(query_id) is not None
        if known and not ad_hoc:
            self._break("query id used twice", now_s, query_id, site)
        elif not known:
            self._open[query_id] = Asked(now_s, deadline_s, ad_hoc, site)

    def edge_died(self, query_ids: list[str]) -> None:
        """These standing queries die with their edge."""
        for query_id in query_ids:
            self.with_edge += self._open.pop(query_id, None) is not None

    def edge_decided(self, site: str, boot: int, terminal: Terminal, now_s: float) -> None:
        """An edge session decided a query."""
        key = (site, boot, terminal.query_id)
        if key in self._terminals:
            self._break("decided twice by one session", now_s, terminal.query_id, str(terminal.outcome))
        self._terminals.add(key)

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
        if isinstance(message, Answer) and message.outcome is Outcome.ANSWERED and message.text != "right":  # noqa: SIM102
            if message.latents < LATENTS:
                self._break("unsafe answer called safe", now_s, message.query_id, message.text)
        if self.reducer.observe(message) is None:
            return
        self.outcomes[str(message.outcome)] += 1
        asked = self._open.pop(message.query_id, None)
        if asked is None:
            return
        if asked.ad_hoc and message.outcome is Outcome.SUPERSEDED:
            self._break("ad-hoc query superseded", now_s, message.query_id, asked.site)
        if message.outcome is Outcome.EXPIRED and now_s - max(asked.asked_s, calm_since_s) > RECOVERY_S:
            calm_s = now_s - max(asked.asked_s, calm_since_s)
            self._break("no recovery", now_s, message.query_id, f"expired after {calm_s:.1f} calm seconds")
        if message.outcome is Outcome.ANSWERED:
            self.latencies_s.append(now_s - asked.asked_s)
        if now_s > self._due_s(asked):
            late_s = now_s - asked.deadline_s
            self._break("terminal too late", now_s, message.query_id, f"{message.outcome} {late_s:.2f} s late")

    def check_time(self, now_s: float) -> None:
        """Every query whose deadline and grace are over must have its terminal by now."""
        for query_id, asked in list(self._open.items()):
            if now_s > self._due_s(asked):
                del self._open[query_id]
                self._break("no terminal", now_s, query_id, f"deadline was {asked.deadline_s:.2f}")

    def _due_s(self, asked: Asked) -> float:
        """When a terminal must have been seen: an edge without a connection can say nothing."""
        return max(asked.deadline_s, self.linked_since_s(asked.site)) + self.grace_s

    def check_bound(self, now_s: float, what: str, size: int, bound: int) -> None:
        """A buffer may not be over its bound."""
        if size > bound:
            self._break("buffer over its bound", now_s, what, f"{size} > {bound}")

    def problem(self, rule: str, now_s: float, subject: str, problem: str) -> None:
        """Something else was found."""
        self._break(rule, now_s, subject, problem)

    def unfinished(self) -> int:
        """Queries without a terminal yet."""
        return len(self._open)

    def _break(self, rule: str, now_s: float, subject: str, problem: str) -> None:
        if len(self.violations) < 100:
            self.violations.append(Violation(rule, now_s, subject, problem))
