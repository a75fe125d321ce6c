"""The standing questions of a site: what its settings say, and what operators said on the bus.

Who wins, for each question id:

1. An operator's question that the broker retains, whatever the settings say. It may add a question, change one, move it
   to other cameras of the site, or pause it (no cameras).
2. The settings.

An operator who deletes the retained question takes back what was said on the bus. One that the settings have as well
is paused by it: the edge publishes it anew with no cameras, so that a restart does not bring it back. The bus says
nothing about sources, paths or credentials.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.logs import get_logger
from pipeline.protocol.effects import AskedQuery
from pipeline.settings import EdgeSettings
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import Question

_log = get_logger(__name__)


class QuestionBoard:
    """Standing questions by id.

    Args:
        settings: the edge section.

    Attributes:
        operator_questions: questions that an operator's word rules, by id.
    """

    def __init__(self, settings: EdgeSettings) -> None:
        self._cameras = tuple(settings.cameras)
        self._own = {
            question_id: Question(
                site=settings.site,
                question_id=question_id,
                text=question.text,
                answer_type=question.answer_type,
                options=question.options,
                deadline_ms=question.deadline_ms,
                risk=question.risk,
                set_by="settings",
            )
            for question_id, question in settings.questions.items()
        }
        self._asked_by_settings: Mapping[str, tuple[str, ...]] = {
            name: camera.questions for name, camera in settings.cameras.items()
        }
        self.operator_questions: dict[str, Question] = {}
        self._retained: dict[str, Question] = {}
        self._settled = False

    def refusal(self, question: Question) -> str:
        """Why this site cannot ask a question; empty when it can."""
        unknown = sorted(set(question.cameras or ()) - set(self._cameras))
        if unknown:
            return f"no camera {', '.join(unknown)} at this site; it has {', '.join(self._cameras)}"
        if question.deadline_ms < 100:
            return f"a deadline of {question.deadline_ms} ms is shorter than 100 ms"
        full = [
            camera
            for camera in question.cameras or ()
            if len(self._ids(camera) - {question.question_id}) >= MAX_QUERIES_PER_FRAME
        ]
        return f"camera {full[0]} has {MAX_QUERIES_PER_FRAME} questions already" if full else ""

    def receive(self, question_id: str, question: Question | None) -> Question | None:
        """A question as its topic has it; None when it was deleted there.

        Args:
            question_id: from the topic.
            question: one that :meth:`refusal` has nothing against.

        Returns:
            What the edge has to publish, so that it lasts.
        """
        if question is None:
            return self._deleted(question_id)
        if question.set_by == "settings":
            # Our own word, of this process or the one before; only its absence or another text means anything.
            self._retained[question_id] = question
            if self._settled and self.operator_questions.pop(question_id, None) is not None:
                _log.info("a standing question is the settings' again", question=question_id)
            return None
        if question != self.operator_questions.get(question_id):
            _log.info(
                "a standing question was set on the bus",
                question=question_id,
                text=question.text,
                cameras=question.cameras,
            )
        self.operator_questions[question_id] = question
        return None

    def settle(self) -> list[Question]:
        """Everything that was retained has come: the questions to publish. Empty when called again."""
        if self._settled:
            return []
        self._settled = True
        return [
            own
            for question_id, own in self._own.items()
            if question_id not in self.operator_questions and self._retained.get(question_id) != own
        ]

    def asks(self, camera: str) -> bool:
        """Whether a camera has any standing question."""
        return bool(self._ids(camera))

    def asked(self, camera: str, captured_s: float) -> list[AskedQuery]:
        """Queries for a frame.

        Args:
            camera: its camera.
            captured_s: when the frame was taken; deadlines count from there.
        """
        questions = (
            self.operator_questions.get(question_id) or self._own[question_id]
            for question_id in sorted(self._ids(camera))
        )
        return [
            AskedQuery(question.content(), captured_s + question.deadline_ms / 1000)
            for question in list(questions)[:MAX_QUERIES_PER_FRAME]
        ]

    def _ids(self, camera: str) -> set[str]:
        by_settings = set(self._asked_by_settings.get(camera, ()))
        for question_id, question in self.operator_questions.items():
            if question.cameras is None:
                continue
            if camera in question.cameras:
                by_settings.add(question_id)
            else:
                by_settings.discard(question_id)
        return by_settings

    def _deleted(self, question_id: str) -> Question | None:
        self._retained.pop(question_id, None)
        was_set = self.operator_questions.pop(question_id, None) is not None
        own = self._own.get(question_id)
        if not self._settled or (own is None and not was_set):
            return None
        _log.info("a standing question was deleted on the bus and is asked no more", question=question_id)
        if own is None:
            return None
        paused = own.model_copy(update={"cameras": (), "set_by": "operator"})
        self.operator_questions[question_id] = paused
        return paused
