"""What the bystanders of an attack asked, and what they got: right, wrong, foreign or late.

The cameras of the run stand still and the stop rule reads whole latents, so a question has one answer: the one that it
had in the calm before the first attack.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from latentbus.fleet.ledger import READ_LAG_S, Entry, OutcomeLedger
from schemas.messages import Answer, QueryOutcome
from schemas.types import Outcome


class Verdict(StrEnum):
    """How an asking of a question ended."""

    RIGHT = "right"
    """Answered in time, as in the calm."""
    WRONG = "wrong"
    """Answered, and not as in the calm."""
    FOREIGN = "foreign"
    """A message that belongs to somebody else."""
    LATE = "late"
    """No answer by the deadline: expired, failed, degraded, or nothing at all."""


class BystanderLedger(OutcomeLedger):
    """Questions and answers of the bystanders.

    Attributes:
        counts: verdicts since :meth:`begin`.
        foreign: what was foreign, in words, since :meth:`begin`.
        learning: answers are taken for right, and remembered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Verdict] = Counter()
        self.foreign: list[str] = []
        self.learning = True
        self._known: dict[tuple[str, str], set[str]] = {}
        self._texts: dict[str, str] = {}
        """Questions of the bystanders that have no verdict yet, by the key of their query."""

    def begin(self) -> None:
        """An attack begins; what is still unanswered counts in it."""
        self.counts.clear()
        self.foreign.clear()

    def steady(self) -> list[tuple[str, str]]:
        """Cameras and questions that had one and the same answer each time in the calm; the others judge nothing."""
        return sorted(pair for pair, answers in self._known.items() if len(answers) == 1)

    def bystander_asks(self, query_id: str, camera: str, text: str, now_s: float, deadline_s: float) -> None:
        """A bystander asks.

        Args:
            query_id: key of the query in the fleet.
            camera: asked of.
            text: the question.
            now_s: when.
            deadline_s: time that it has.
        """
        question_id = query_id.rsplit("/", 1)[-1]
        self.asked(query_id, camera, question_id, ad_hoc=True, asked_s=now_s, due_s=now_s + deadline_s)
        self._texts[query_id] = text

    def open_queries(self) -> set[str]:
        """Keys of the bystanders' questions that have no verdict yet."""
        return set(self._texts)

    def waits_since_s(self, now_s: float) -> float:
        """How long the oldest question without a verdict has been waiting."""
        asked_s = (self.entries[query_id].asked_s for query_id in self._texts)
        return now_s - min((since_s for since_s in asked_s if since_s is not None), default=now_s)

    def replied(self, client: str, message: Answer | QueryOutcome) -> None:
        """A message came below a client's own reply topic."""
        if message.owner != f"client/{client}":
            self.stranger(f"{client} got {message.query_id} of {message.owner}")

    def stranger(self, what: str) -> None:
        """A message reached somebody whom it does not belong to."""
        self.counts[Verdict.FOREIGN] += 1
        self.foreign.append(what)

    def observe(self, message: Answer | QueryOutcome, now_s: float, *, reply: bool = False) -> Entry | None:
        """A message on a public topic or a bystander's own one; the same may come on both."""
        decided = super().observe(message, now_s, reply=reply)
        if decided is None:
            return None
        if not decided.ad_hoc:
            # Standing questions are superseded and shed in good order; only an answer says something.
            if decided.outcome is Outcome.ANSWERED:
                question = f"{message.owner}/{decided.question_id}"
                self.counts[self._verdict((decided.camera, question), decided.text)] += 1
        elif text := self._texts.pop(decided.query_id, None):
            in_time = decided.outcome is Outcome.ANSWERED and now_s <= decided.due_s + READ_LAG_S
            self.counts[self._verdict((decided.camera, text), decided.text) if in_time else Verdict.LATE] += 1
        return decided

    def check(self, now_s: float) -> None:
        """Questions whose time is over are late."""
        for entry in self.overdue(now_s):
            self.counts[Verdict.LATE] += self._texts.pop(entry.query_id, None) is not None

    def _verdict(self, pair: tuple[str, str], answer: str) -> Verdict:
        known = self._known.setdefault(pair, set())
        if self.learning:
            known.add(answer)
        # One that wavered in the calm, or was not asked there, tells nothing.
        return Verdict.WRONG if len(known) == 1 and answer not in known else Verdict.RIGHT
