"""Standing questions of a simulated site: what its settings say, and what operators said on the bus.

A model of :class:`edge_nodes.questions.QuestionBoard`, which this package may not import: an operator's word rules, and
a question of the settings that is deleted on the bus is paused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.protocol.effects import AskedQuery
from schemas.messages import Question


class SimulatedBoard:
    """Questions by id.

    Args:
        own: questions of the settings.
    """

    def __init__(self, own: Iterable[Question]) -> None:
        self._own = {question.question_id: question for question in own}
        self._operator: dict[str, Question] = {}

    def receive(self, question_id: str, question: Question | None) -> None:
        """A question as its topic has it; None when it was deleted there."""
        if question is None:
            self._operator.pop(question_id, None)
            own = self._own.get(question_id)
            if own is not None:
                self._operator[question_id] = own.model_copy(update={"cameras": (), "set_by": "operator"})
        elif question.set_by == "operator":
            self._operator[question_id] = question

    def to_publish(self) -> Iterator[Question]:
        """Questions of the settings over which no operator has said anything."""
        return (question for question_id, question in self._own.items() if question_id not in self._operator)

    def asked(self, camera: str, question_ids: Iterable[str], now_s: float) -> list[AskedQuery]:
        """Those of some questions that a frame of a camera is asked."""
        known = self._own | self._operator
        questions = (known[question_id] for question_id in question_ids if question_id in known)
        return [
            AskedQuery(question.content(), now_s + question.deadline_ms / 1000)
            for question in questions
            if question.cameras is None or camera in question.cameras
        ]
