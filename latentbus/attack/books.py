"""What the bystanders of an attack asked, and what they got: right, wrong, foreign or late.

The cameras of the run stand still and the stop rule reads whole latents, so a question has one answer: the one that it
had in the calm before the first attack.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from pipeline.protocol.reducer import OutcomeReducer
from schemas.messages import Answer, QueryOutcome
from schemas.types import Outcome

READ_LAG_S = 2.0
"""A busy machine reads an outcome this much later than it was decided, at most."""


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


@dataclass(slots=True)
class Asked:
    """A question of a bystander.

    Attributes:
        camera: asked of.
        text: the question.
        asked_s: when, on this host's monotonic clock.
        due_s: its deadline there.
        verdict: how it ended; None while it has not.
    """

    camera: str
    text: str
    asked_s: float
    due_s: float
    verdict: Verdict | None = None


class Books:
    """Questions and answers of the bystanders.

    Attributes:
        counts: verdicts since :meth:`begin`.
        foreign: what was foreign, in words, since :meth:`begin`.
        learning: answers are taken for right, and remembered.
    """

    def __init__(self) -> None:
        self.counts: Counter[Verdict] = Counter()
        self.foreign: list[str] = []
        self.learning = True
        self._known: dict[tuple[str, str], set[str]] = {}
        self._asked: dict[str, Asked] = {}
        self._reducer = OutcomeReducer(capacity=1_000_000)

    def begin(self) -> None:
        """An attack begins; what is still unanswered counts in it."""
        self.counts.clear()
        self.foreign.clear()

    def steady(self) -> list[tuple[str, str]]:
        """Cameras and questions that had one and the same answer each time in the calm; the others judge nothing."""
        return sorted(pair for pair, answers in self._known.items() if len(answers) == 1)

    def asked(self, query_id: str, camera: str, text: str, now_s: float, deadline_s: float) -> None:
        """A bystander asks.

        Args:
            query_id: key of the query in the fleet.
            camera: asked of.
            text: the question.
            now_s: when.
            deadline_s: time that it has.
        """
        self._asked[query_id] = Asked(camera, text, now_s, now_s + deadline_s)

    def open_queries(self) -> set[str]:
        """Keys of the bystanders' questions that have no verdict yet."""
        return {query_id for query_id, asked in self._asked.items() if asked.verdict is None}

    def waits_since_s(self, now_s: float) -> float:
        """How long the oldest question without a verdict has been waiting."""
        return now_s - min((one.asked_s for one in self._asked.values() if one.verdict is None), default=now_s)

    def replied(self, client: str, message: Answer | QueryOutcome) -> None:
        """A message came below a client's own reply topic."""
        if message.owner != f"client/{client}":
            self.stranger(f"{client} got {message.query_id} of {message.owner}")

    def stranger(self, what: str) -> None:
        """A message reached somebody whom it does not belong to."""
        self.counts[Verdict.FOREIGN] += 1
        self.foreign.append(what)

    def received(self, message: Answer | QueryOutcome, now_s: float) -> None:
        """A message on a public topic or a bystander's own one; the same may come on both."""
        decided = self._reducer.observe(message)
        if decided is None:
            return
        if not message.ad_hoc:
            self._standing(message)
            return
        asked = self._asked.get(message.query_id)
        if asked is not None and asked.verdict is None:
            asked.verdict = self._verdict(asked, message, now_s)
            self.counts[asked.verdict] += 1

    def look(self, now_s: float) -> None:
        """Questions whose time is over are late."""
        for asked in self._asked.values():
            if asked.verdict is None and now_s > asked.due_s + READ_LAG_S:
                asked.verdict = Verdict.LATE
                self.counts[Verdict.LATE] += 1

    def _verdict(self, asked: Asked, message: Answer | QueryOutcome, now_s: float) -> Verdict:
        if message.outcome is not Outcome.ANSWERED or now_s > asked.due_s + READ_LAG_S:
            return Verdict.LATE
        if not isinstance(message, Answer):
            raise AssertionError("answered is the outcome of an answer")
        return self._judge((asked.camera, asked.text), message.text)

    def _standing(self, message: Answer | QueryOutcome) -> None:
        """Standing questions are superseded and thinned out in good order; only an answer says something."""
        if isinstance(message, Answer) and message.outcome is Outcome.ANSWERED:
            self.counts[self._judge((message.camera, f"{message.owner}/{message.question_id}"), message.text)] += 1

    def _judge(self, pair: tuple[str, str], answer: str) -> Verdict:
        known = self._known.setdefault(pair, set())
        if self.learning:
            known.add(answer)
        # One that wavered in the calm, or was not asked there, tells nothing.
        return Verdict.WRONG if len(known) == 1 and answer not in known else Verdict.RIGHT
