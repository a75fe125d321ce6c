"""Keeps the broker and the site of one mind about the standing questions, and answers who changes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from pipeline.protocol.edge_reports import EdgeReports
from pipeline.protocol.ports import Delivery, Problem, Received
from pipeline.protocol.receipts import Receipts
from pipeline.protocol.standing_questions import StandingQuestions
from pipeline.protocol.token_bucket import TokenBucket
from schemas import topics
from schemas.errors import RemoteError
from schemas.messages import Question

CORRECTIONS_PER_S: Final = 1.0
CORRECTIONS: Final = 64
"""Questions that are put back after a change on the bus, a second in the long run and at once; later ones wait for the
next connection."""
SETTLE_S: Final = 5.0
"""An edge whose own status does not come back takes what the broker has retained as read after so long."""


class QuestionSync:
    """What an edge does with what comes on its question topics.

    A broker sends what it retains when it grants a subscription, so before it answers anything that comes later: once
    the edge has read its own status back, it has seen every retained question. Frames wait for the first time that its
    own questions are out: a worker that meets an unknown one asks for its text, which costs the uplink more.

    Args:
        site: this edge.
        questions: what is asked.
        reports: what the edge says.
        receipts: tells operators.
        deletes: what this site does not ask is deleted on the broker; who plays a log leaves it there.
        settled: told when everything retained has come, and whether what has not was deleted.
        now_s: the edge's monotonic time.

    Attributes:
        out: the broker has had the questions, once at least.
    """

    def __init__(
        self,
        site: str,
        questions: StandingQuestions,
        reports: EdgeReports,
        receipts: Receipts,
        *,
        deletes: bool = True,
        settled: Callable[[bool], None] = lambda _remembers: None,
        now_s: float = 0.0,
    ) -> None:
        self.out = False
        self._site = site
        self._questions = questions
        self._reports = reports
        self._receipts = receipts
        self._when_settled = settled
        self._deletes = deletes
        self._corrections = TokenBucket(CORRECTIONS_PER_S, CORRECTIONS, now_s)
        self._publishing: set[str] = set()
        self._settling: set[str] = set()
        self._settle_by_s: float | None = None
        self._closed = False
        self._generation = self._ended_generation = 0
        self._resumed = False
        self._last_will = -1
        self._problems: list[Problem] = []

    def take_outputs(self) -> list[Problem]:
        """What the log shall say, since the last call, in order."""
        problems, self._problems = self._problems, []
        return problems

    # ---- connection and time ----------------------------------------------------------------------------------------

    def connection(self, connected: bool, now_s: float, *, generation: int, resumed: bool) -> None:
        """The connection came or went.

        Args:
            connected: it came.
            now_s: the edge's monotonic time.
            generation: its number; later ones have larger numbers.
            resumed: the broker kept the session, with the deletions of questions in its queue.
        """
        if connected:
            self._ended_generation, self._generation = self._generation, generation
            self._resumed, self._last_will = resumed, -1
            self._questions.connected()
        self._settle_by_s = now_s + SETTLE_S if connected and not self._closed else None

    def own_status_heard(self) -> None:
        """The edge has read back what it published on this connection: everything retained has come before it."""
        if self._settle_by_s is not None:
            self._settle(complete=True)

    def last_will_heard(self, received: Received) -> None:
        """The retained last will of this process came: the broker remembers what was before that connection ended."""
        number = received.correlation_data or b""
        if number.isdigit():
            self._last_will = int(number)

    def next_wake_s(self) -> float | None:
        """When :meth:`tick` is due next."""
        return self._settle_by_s

    def tick(self, now_s: float) -> None:
        """Let time pass."""
        if self._settle_by_s is not None and self._settle_by_s <= now_s:
            self._settle(complete=False)

    def close(self) -> None:
        """The edge is about to stop: what is on the uplink leaves, and nothing new begins."""
        self._closed = True
        self._settle_by_s = None

    def _settle(self, *, complete: bool) -> None:
        """Publish what the broker lacks, delete what is asked no more.

        Args:
            complete: everything that the broker retains is known to have come.
        """
        self._settle_by_s = None
        remembers = complete and not self._resumed and 0 < self._ended_generation <= self._last_will
        ids = [
            question_id for question_id in self._questions.settle(remembers=remembers) if self._may_publish(question_id)
        ]
        self._settling |= set(ids)
        for question_id in ids:
            self._publish(question_id)
        self._check_out()
        self._when_settled(remembers)

    def replaced(self) -> None:
        """The settings have others: publish what the broker lacks, delete what is asked no more."""
        if not self._closed and self._questions.settled:
            for question_id in self._questions.settle():
                if self._may_publish(question_id):
                    self._publish(question_id)

    def _check_out(self) -> None:
        self.out = self.out or (self._questions.settled and not self._settling)

    # ---- what comes on the topics -----------------------------------------------------------------------------------

    def receive(self, received: Received, question_id: str, question: Question | None, now_s: float) -> None:
        """A question as its topic has it; None when it was deleted there."""
        verdict = self._questions.receive(question_id, question, retained=received.retained)
        if not verdict.accepted:
            problem = f"question {question_id}: {verdict.reason}"
            self._problems.append(Problem("question/refused", problem, about=question_id))
        if not (verdict.ours or received.retained):
            self._receipts.tell(received, question_id, now_s, accepted=verdict.accepted, reason=verdict.reason)
        self._correct(question_id, now_s)

    def unreadable(self, received: Received, error: RemoteError, now_s: float) -> None:
        """What came is no question. The broker shall not keep it: the next process would drop it again."""
        question_id = topics.parse(received.topic).name("question_id")
        self._problems.append(Problem("question", str(error), error=error, context={"topic": received.topic}))
        self._questions.unreadable(question_id)
        if not received.retained:
            self._receipts.tell(received, question_id, now_s, accepted=False, reason=str(error))
        self._correct(question_id, now_s)

    def _correct(self, question_id: str, now_s: float) -> None:
        if self._closed or not self._questions.settled or not self._questions.differs(question_id):
            return
        if not self._may_publish(question_id):
            return
        if self._corrections.take(1, now_s):
            self._publish(question_id)
        else:
            self._problems.append(Problem("question/not_corrected", "", logged=False))

    def _may_publish(self, question_id: str) -> bool:
        wanted = self._deletes or self._questions.wanted(question_id) is not None
        return wanted and question_id not in self._publishing

    def overrule(self, question: Question) -> None:
        """Publish a question, whatever operators and settings say: a replay publishes what was asked at its time."""
        self._publishing.add(question.question_id)
        self._questions.overrule(question)
        self._reports.question(question, partial(self._published, question.question_id, question))

    def is_publishing(self, question_id: str) -> bool:
        """Whether a question is on its way to the broker."""
        return question_id in self._publishing

    def _publish(self, question_id: str) -> None:
        """Publish a question as it is asked, again and again until the broker has it so."""
        unwanted = self._questions.wanted(question_id) is None and not self._deletes
        if self._closed or unwanted or not self._questions.differs(question_id):
            self._publishing.discard(question_id)
            self._settling.discard(question_id)
            self._check_out()
            return
        self._publishing.add(question_id)
        wanted = self._questions.publishes(question_id)
        # Of a deletion the content says only which topic it is.
        shown = wanted or Question(site=self._site, question_id=question_id, text="?")
        self._reports.question(shown, partial(self._published, question_id, wanted), clears=wanted is None)

    def _published(self, question_id: str, wanted: Question | None, delivery: Delivery, _now_s: float) -> None:
        self._questions.published(question_id, wanted, refused=not delivery.arrived)
        self._publish(question_id)
