"""The standing questions of a site: what the settings say, and what operators changed since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.logs import OncePerKind, get_logger
from pipeline.protocol.effects import AskedQuery
from pipeline.settings import QuestionSettings
from schemas.messages import Question

_log = get_logger(__name__)


class QuestionBoard:
    """Standing questions by id.

    At start the settings rule: what the broker retains is compared with them, and only what differs is published. From
    then on the topic rules: an operator may change a question for pool and edges without a restart.

    Args:
        questions: questions of the settings.
        problems: where it is said that somebody deleted one.
    """

    def __init__(self, questions: Mapping[str, QuestionSettings], problems: OncePerKind) -> None:
        self._problems = problems
        self._questions = {
            question_id: Question(
                question_id=question_id,
                text=question.text,
                answer_type=question.answer_type,
                deadline_ms=question.deadline_ms,
            )
            for question_id, question in questions.items()
        }
        self._retained: dict[str, Question] = {}
        self._settled = False

    def receive(self, question_id: str, question: Question | None) -> None:
        """A question as its topic has it; None when it was deleted there."""
        own = self._questions.get(question_id)
        if own is None:
            return
        if not self._settled:
            if question is not None:
                self._retained[question_id] = question
        elif question is None:
            self._problems.report("question/deleted", "a standing question was deleted on the bus; it is still asked")
        elif question != own:
            _log.info("a standing question was changed on the bus", question=question_id, text=question.text)
            self._questions[question_id] = question

    def settle(self) -> list[Question]:
        """Everything that was retained has come: the questions to publish. Empty when called again."""
        if self._settled:
            return []
        self._settled = True
        # Risk is the operator's alone: the settings have no say in it.
        changed = []
        for question_id, own in self._questions.items():
            retained = self._retained.get(question_id)
            if retained is not None and retained.model_copy(update={"risk": None}) == own:
                self._questions[question_id] = retained
            else:
                changed.append(own)
        return changed

    def asked(self, question_ids: Iterable[str], captured_s: float) -> list[AskedQuery]:
        """Queries of these questions for a frame.

        Args:
            question_ids: ids out of the settings.
            captured_s: when the frame was taken; deadlines count from there.
        """
        questions = (self._questions[question_id] for question_id in question_ids)
        return [
            AskedQuery(
                question_id=question.question_id,
                deadline_s=captured_s + question.deadline_ms / 1000,
                text=question.text,
                answer_type=question.answer_type,
            )
            for question in questions
        ]
