"""Double-entry books of a chaos run: every query that was asked, and how it ended.

What was asked is known from the open messages, from the questions that the run asked itself, and at the end from the
frame logs of the edges. How it ended is known to an ordinary reader of answers and outcomes, through the reducer that
every reader uses. Both sides must agree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from latentbus.chaos.edge_log import EdgeLog
from pipeline.protocol.reducer import OutcomeReducer
from schemas.messages import Accept, Answer, NeedText, Open, QueryOutcome, Refine
from schemas.types import FrameId, Outcome

REPORT_PATIENCE_S: Final = 20.0
"""An outcome that an edge decided while its link or the broker was down reaches the broker within this time."""
READ_LAG_S: Final = 2.0
"""A busy edge reads an answer this much later than the broker sent it, at most."""

FrameKey = tuple[str, FrameId]


@dataclass(slots=True)
class QueryRow:
    """A query.

    Attributes:
        query_id: its key.
        camera: its camera.
        ad_hoc: asked by the run itself; else a standing question of a camera.
        asked_s: when it was first seen, on this host's monotonic clock.
        due_s: its deadline.
        frame: the frame that it is asked of; None while an ad-hoc question waits for one.
        outcome: how it ended for the reader; None while it has not.
        decided_s: when.
        orphan: a standing query of an edge that was killed: nobody can send more of its frame, and a worker says at its
            deadline at the latest what it has.
    """

    query_id: str
    camera: str
    ad_hoc: bool
    asked_s: float
    due_s: float
    frame: FrameId | None = None
    outcome: Outcome | None = None
    decided_s: float = 0.0
    orphan: bool = False


@dataclass(slots=True)
class Balance:
    """What became of the queries that have no terminal outcome at the reader.

    Attributes:
        lost: neither ended nor explained.
        died_with_edge: standing queries of an edge that was killed before their deadline; nobody else knew of them.
        unheard: ended at their edge; the message about it was in the broker when that was killed.
    """

    lost: list[str] = field(default_factory=list)
    died_with_edge: list[str] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)


class Books:
    """Everything that was seen.

    Attributes:
        rows: every query that was asked, by its id.
        undecided: those without outcome that somebody is to answer for.
        orphans: standing ones without outcome whose edge was killed; a worker may still answer them.
        reducer: the reader's.
        decisions: how often the reader took each query as decided; more than once is an error.
        conflicts: later terminals that said something else, by the two outcomes; the first stands.
        reopened: opens of a frame after its first.
        replies: terminals that came again on a client's reply topic, as they should.
        killed_boots: when each edge process that was killed was, by its boot id.
        broker_kills_s: when the broker was killed.
    """

    def __init__(self) -> None:
        self.rows: dict[str, QueryRow] = {}
        self.undecided: dict[str, QueryRow] = {}
        self.orphans: dict[str, QueryRow] = {}
        self.reducer = OutcomeReducer(capacity=1_000_000)
        self.decisions: Counter[str] = Counter()
        self.conflicts: Counter[str] = Counter()
        self.reopened = 0
        self.replies = 0
        self.killed_boots: dict[int, float] = {}
        self.broker_kills_s: list[float] = []
        self._attempts: dict[FrameKey, int] = {}
        self._owners: dict[FrameKey, tuple[int, str]] = {}

    # ---- asked ------------------------------------------------------------------------------------------------------

    def asked(self, query_id: str, camera: str, now_s: float, deadline_s: float) -> None:
        """The run asks an ad-hoc question, or asks it again, which starts its time anew where it was not known."""
        row = self._row(query_id, camera, True, now_s, now_s + deadline_s)
        row.due_s = max(row.due_s, now_s + deadline_s)

    def opened(self, camera: str, message: Open, now_s: float) -> None:
        """An edge opened a frame."""
        key = (camera, message.frame)
        before = self._attempts.get(key, 0)
        if message.attempt > before:
            self._attempts[key] = message.attempt
            self.reopened += message.attempt > 1
        for query_id, ref in zip(message.query_ids(camera), message.queries, strict=True):
            row = self._row(query_id, camera, ref.ad_hoc, now_s, now_s + ref.remaining_ms / 1000)
            self._meets(row, message.frame)

    # ---- who works on it --------------------------------------------------------------------------------------------

    def claimed(self, camera: str, message: Accept | Refine | NeedText | Answer) -> None:
        """A worker spoke for a frame; the first one to do so for an attempt owns it."""
        key = (camera, message.frame)
        if message.attempt > self._owners.get(key, (0, ""))[0]:
            self._owners[key] = (message.attempt, message.worker)

    def owned_by_worker(self, worker: str) -> list[QueryRow]:
        """Unfinished queries of the frames that a worker owns."""
        return [row for row in self.undecided.values() if self._owner(row) == worker]

    def owned_by_cameras(self, cameras: frozenset[str]) -> list[QueryRow]:
        """Unfinished queries that the edge of these cameras owns."""
        return [row for row in self.undecided.values() if row.camera in cameras]

    def _owner(self, row: QueryRow) -> str | None:
        if row.frame is None:
            return None
        attempt, worker = self._owners.get((row.camera, row.frame), (0, ""))
        # An owner of an attempt that was given up owns nothing.
        return worker if attempt and attempt >= self._attempts.get((row.camera, row.frame), 0) else None

    # ---- decided ----------------------------------------------------------------------------------------------------

    def received(self, message: Answer | QueryOutcome, now_s: float, *, reply: bool = False) -> None:
        """An answer or outcome reached the reader.

        Args:
            message: it.
            now_s: when.
            reply: on the topic of the client that asked, where the same comes once more by design.
        """
        known, conflicts = self.reducer.get(message.query_id), self.reducer.conflicts
        if reply and known is not None and known.outcome == message.outcome:
            self.replies += 1
            return
        decided = self.reducer.observe(message)
        if known is not None and self.reducer.conflicts > conflicts:
            self.conflicts[f"{known.outcome}, then {message.outcome}"] += 1
        if decided is None:
            return
        self.decisions[message.query_id] += 1
        row = self._row(message.query_id, message.camera, message.ad_hoc, now_s, now_s)
        self._meets(row, row.frame or message.frame)
        if row.outcome is None:
            row.outcome, row.decided_s = decided.outcome, now_s
        self.undecided.pop(message.query_id, None)
        self.orphans.pop(message.query_id, None)

    # ---- what went wrong --------------------------------------------------------------------------------------------

    def edge_killed(self, boot: int, now_s: float) -> None:
        """An edge was killed; frames of this boot have nobody who knows of them."""
        self.killed_boots[boot] = now_s
        for row in list(self.undecided.values()):
            self._orphan(row)

    def broker_killed(self, now_s: float) -> None:
        """The broker was killed with whatever it had not delivered."""
        self.broker_kills_s.append(now_s)

    # ---- at the end -------------------------------------------------------------------------------------------------

    def read_edge_log(self, log: EdgeLog, deadline_s: float) -> None:
        """Add what an edge says that it asked: queries that never got as far as an open message are there only."""
        for query in log.asked.values():
            row = self._row(query.query_id, query.camera, query.ad_hoc, query.asked_s, query.asked_s + deadline_s)
            self._meets(row, row.frame or query.frame)

    def balance(self, logs: list[EdgeLog]) -> Balance:
        """Explain every query without outcome.

        Args:
            logs: frame logs of every edge process of the run.
        """
        result = Balance()
        ended_s = {query_id: at_s for log in logs for query_id, at_s in log.ended_s.items()}
        for row in (*self.orphans.values(), *self.undecided.values()):
            if row.query_id in self.orphans and not self._overdue_when_killed(row):
                result.died_with_edge.append(row.query_id)
            elif self._died_with_broker(row, ended_s.get(row.query_id)):
                result.unheard.append(row.query_id)
            else:
                result.lost.append(row.query_id)
        return result

    def by_outcome(self) -> dict[str, int]:
        """Number of queries by terminal outcome."""
        counts = Counter(str(row.outcome) for row in self.rows.values() if row.outcome is not None)
        return {str(outcome): counts[outcome] for outcome in Outcome}

    def decided_twice(self) -> int:
        """Queries that the reader took as decided more than once."""
        return sum(count > 1 for count in self.decisions.values())

    def _meets(self, row: QueryRow, frame: FrameId) -> None:
        row.frame = frame
        self._orphan(row)

    def _orphan(self, row: QueryRow) -> None:
        """Ad-hoc queries outlive their edge on its disk; the standing ones of its frames do not."""
        if row.frame is not None and row.frame.boot in self.killed_boots and not row.ad_hoc and row.outcome is None:
            self.undecided.pop(row.query_id, None)
            self.orphans[row.query_id] = row
            row.orphan = True

    def _overdue_when_killed(self, row: QueryRow) -> bool:
        """Whether its outcome should have been there long before."""
        return row.frame is not None and self.killed_boots[row.frame.boot] >= row.due_s + REPORT_PATIENCE_S

    def _died_with_broker(self, row: QueryRow, ended_s: float | None) -> bool:
        """Whether the edge knows an outcome that was on its way to the reader when the broker was killed."""
        # An ad-hoc question is asked again after each reconnect, and then its outcome comes again.
        if row.ad_hoc or ended_s is None:
            return False
        return any(ended_s - READ_LAG_S <= killed_s <= ended_s + REPORT_PATIENCE_S for killed_s in self.broker_kills_s)

    def _row(self, query_id: str, camera: str, ad_hoc: bool, asked_s: float, due_s: float) -> QueryRow:
        row = self.rows.get(query_id)
        if row is None:
            row = self.rows[query_id] = QueryRow(query_id, camera, ad_hoc, asked_s, due_s)
            self.undecided[query_id] = row
        return row
