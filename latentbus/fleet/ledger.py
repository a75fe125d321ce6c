"""One ledger of what a fleet was asked and how it ended, for whoever runs one: demo, chaos, attack, benchmarks.

Outcomes are read through :class:`~pipeline.protocol.reducer.OutcomeReducer`, as every reader does: the first terminal
of a query counts, what comes later is a repeat or a conflict. Queries are known by their key, unique in the fleet.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.protocol.reducer import Decided, OutcomeReducer
from schemas.messages import Answer, QueryOutcome
from schemas.types import FrameId, Outcome

CAPACITY: Final = 1_000_000
"""More queries than a run asks."""
READ_LAG_S: Final = 2.0
"""A busy machine reads an outcome this much later than it was decided, at most."""


@dataclass(slots=True)
class Entry:
    """A query. Times are on this host's monotonic clock.

    Attributes:
        query_id: its key.
        camera: its camera.
        question_id: what was asked.
        ad_hoc: asked by a client; else a standing question of a camera.
        frame: the frame that it is asked of; None while an ad-hoc question waits for one.
        asked_s: when it was asked; None while nothing but answers to it was seen.
        due_s: its deadline; infinite where it is not known.
        first_s: when its first answer came, provisional or not.
        first: that answer.
        provisional: the latest provisional answer.
        answer: the latest answer of all that counted.
        decided: how it ended; None while it has not.
        decided_s: when.
        decisions: how often the reader took it as decided; more than once is an error.
    """

    query_id: str
    camera: str
    question_id: str
    ad_hoc: bool
    frame: FrameId | None = None
    asked_s: float | None = None
    due_s: float = math.inf
    first_s: float | None = None
    first: Answer | None = None
    provisional: Answer | None = None
    answer: Answer | None = None
    decided: Decided | None = None
    decided_s: float | None = None
    decisions: int = 0

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        return None if self.decided is None else self.decided.outcome

    @property
    def text(self) -> str:
        """The terminal answer, empty while there is none."""
        return "" if self.decided is None else self.decided.text

    @property
    def provisional_text(self) -> str:
        """The latest provisional answer, empty where there was none."""
        return "" if self.provisional is None else self.provisional.text

    @property
    def latents(self) -> int:
        """Length of the prefix that the latest answer was read from, 0 before any."""
        return 0 if self.answer is None else self.answer.latents

    @property
    def refined(self) -> bool:
        """Its latest answer was read from more than one prefix."""
        return self.answer is not None and self.answer.looks > 1


class OutcomeLedger:
    """What was asked, and what a reader of answers and outcomes got.

    Args:
        capacity: decided queries that are remembered; the oldest is forgotten first, and stays in the counts.
        read_lag_s: an outcome that is read so long after its deadline is not late yet.

    Attributes:
        entries: every query that is remembered, by its key.
        undecided: those without an outcome.
        reducer: the reader's.
        outcomes: decided queries by outcome.
        conflicts: terminals that came later and said something else, by the two outcomes; the first stands.
        replies: terminals that came again on the topic of the client that asked, as they should.
        late: decided queries whose outcome came after their deadline.
        decided_twice: queries that the reader took as decided more than once.
    """

    def __init__(self, *, capacity: int = CAPACITY, read_lag_s: float = READ_LAG_S) -> None:
        self.entries: dict[str, Entry] = {}
        self.undecided: dict[str, Entry] = {}
        self.reducer = OutcomeReducer(capacity=capacity)
        self.outcomes: Counter[Outcome] = Counter()
        self.conflicts: Counter[str] = Counter()
        self.replies = 0
        self.late = 0
        self.decided_twice = 0
        self._capacity = capacity
        self._read_lag_s = read_lag_s
        self._decided: deque[str] = deque()

    def asked(
        self, query_id: str, camera: str, question_id: str, *, ad_hoc: bool, asked_s: float, due_s: float = math.inf
    ) -> Entry:
        """A query is asked. What is known of it already stays; asked again, it has the later of the two deadlines.

        Args:
            query_id: its key.
            camera: of whom.
            question_id: what.
            ad_hoc: by a client.
            asked_s: when.
            due_s: its deadline.
        """
        entry = self._entry(query_id, camera, question_id, ad_hoc)
        if entry.asked_s is None:
            entry.asked_s, entry.due_s = asked_s, due_s
        else:
            entry.due_s = max(entry.due_s, due_s)
        return entry

    def observe(self, message: Answer | QueryOutcome, now_s: float, *, reply: bool = False) -> Entry | None:
        """An answer or outcome was read.

        Args:
            message: it.
            now_s: when.
            reply: on the topic of the client that asked, where the same comes once more by design.

        Returns:
            The query if this decided it, None if the message is provisional, or repeats, or contradicts.
        """
        known, conflicts = self.reducer.get(message.query_id), self.reducer.conflicts
        if reply and known is not None and known.outcome == message.outcome:
            self.replies += 1
            return None
        decided = self.reducer.observe(message, now_s)
        if known is not None and self.reducer.conflicts > conflicts:
            self.conflicts[f"{known.outcome}, then {message.outcome}"] += 1
        if decided is None and message.outcome is not None:
            return None
        entry = self._entry(message.query_id, message.camera, message.question_id, message.ad_hoc)
        if entry.decided is None:
            entry.frame = entry.frame or message.frame
            if isinstance(message, Answer):
                self._answered(entry, message, now_s)
        return None if decided is None else self._decide(entry, decided, now_s)

    def overdue(self, now_s: float) -> list[Entry]:
        """Queries without an outcome though their deadline is over: late, if not lost."""
        return [entry for entry in self.undecided.values() if now_s > entry.due_s + self._read_lag_s]

    def by_outcome(self) -> dict[str, int]:
        """Number of decided queries for each outcome that there is."""
        return {str(outcome): self.outcomes[outcome] for outcome in Outcome}

    def _entry(self, query_id: str, camera: str, question_id: str, ad_hoc: bool) -> Entry:
        entry = self.entries.get(query_id)
        if entry is None:
            entry = self.entries[query_id] = Entry(query_id, camera, question_id, ad_hoc)
            self.undecided[query_id] = entry
        return entry

    @staticmethod
    def _answered(entry: Entry, answer: Answer, now_s: float) -> None:
        entry.answer = answer
        if answer.outcome is None:
            entry.provisional = answer
        if entry.first is None and answer.outcome is not Outcome.FAILED:
            entry.first, entry.first_s = answer, now_s

    def _decide(self, entry: Entry, decided: Decided, now_s: float) -> Entry:
        entry.decisions += 1
        if entry.decided is not None:
            self.decided_twice += entry.decisions == 2
            return entry
        entry.decided, entry.decided_s = decided, now_s
        self.outcomes[decided.outcome] += 1
        self.late += now_s > entry.due_s + self._read_lag_s
        del self.undecided[entry.query_id]
        self._decided.append(entry.query_id)
        if len(self._decided) > self._capacity:
            self.entries.pop(self._decided.popleft(), None)
        return entry


def percentile(values: list[float], percent: float) -> float | None:
    """A percentile, None of nothing."""
    return float(np.percentile(values, percent)) if values else None
