from __future__ import annotations

from edge_nodes.questions import QuestionBoard
from pipeline.settings import CameraSettings, EdgeSettings, QuestionSettings
from schemas.messages import Question
from schemas.types import AnswerType

CAR = QuestionSettings(text="Is there a car?", answer_type=AnswerType.YES_NO, deadline_ms=4_000)
BUS = QuestionSettings(text="Where is the bus?", answer_type=AnswerType.WORD, risk=0.05)


def board(**questions: QuestionSettings) -> QuestionBoard:
    """The board of a site whose camera ``gate`` asks everything, and ``yard`` nothing."""
    cameras = {
        "gate": CameraSettings(source="test:1", questions=tuple(questions)),
        "yard": CameraSettings(source="test:2"),
    }
    return QuestionBoard(EdgeSettings(site="depot", cameras=cameras, questions=questions))


def as_message(question_id: str, settings: QuestionSettings, **changes: object) -> Question:
    """What an edge publishes of its settings, or an operator who changes it."""
    values = {
        "site": "depot",
        "question_id": question_id,
        "text": settings.text,
        "answer_type": settings.answer_type,
        "deadline_ms": settings.deadline_ms,
        "risk": settings.risk,
        "set_by": "settings",
    }
    return Question.model_validate({**values, **changes})


def test_only_what_the_broker_does_not_have_is_published() -> None:
    standing = board(car=CAR, bus=BUS, new=CAR)
    standing.receive("car", as_message("car", CAR))
    standing.receive("bus", as_message("bus", CAR))
    standing.receive("foreign", as_message("foreign", CAR))
    assert standing.settle() == [as_message("bus", BUS), as_message("new", CAR)]
    assert standing.settle() == []


def test_a_change_on_the_bus_reaches_the_next_frame() -> None:
    standing = board(car=CAR)
    standing.settle()
    (query,) = standing.asked("gate", 100.0)
    assert (query.question.text, query.deadline_s, query.ad_hoc) == ("Is there a car?", 104.0, False)
    standing.receive("car", as_message("car", BUS, set_by="operator"))
    (query,) = standing.asked("gate", 100.0)
    assert (query.question.text, query.answer_type, query.deadline_s) == (BUS.text, AnswerType.WORD, 110.0)
    assert query.question.risk == 0.05
