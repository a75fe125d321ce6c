from __future__ import annotations

from edge_nodes.questions import QuestionBoard
from pipeline.logs import OncePerKind, get_logger
from pipeline.settings import QuestionSettings
from schemas.messages import Question
from schemas.types import AnswerType

CAR = QuestionSettings(text="Is there a car?", answer_type=AnswerType.YES_NO, deadline_ms=4_000)
BUS = QuestionSettings(text="Where is the bus?", answer_type=AnswerType.WORD)


def as_message(question_id: str, settings: QuestionSettings, risk: float | None = None) -> Question:
    return Question(
        question_id=question_id,
        text=settings.text,
        answer_type=settings.answer_type,
        deadline_ms=settings.deadline_ms,
        risk=risk,
    )


def test_only_what_the_broker_does_not_have_is_published() -> None:
    board = QuestionBoard({"car": CAR, "bus": BUS, "new": CAR}, OncePerKind(get_logger("test")))
    board.receive("car", as_message("car", CAR))
    board.receive("bus", as_message("bus", CAR))
    board.receive("foreign", as_message("foreign", CAR))
    assert board.settle() == [as_message("bus", BUS), as_message("new", CAR)]
    assert board.settle() == []


def test_the_risk_of_an_operator_is_no_difference() -> None:
    board = QuestionBoard({"car": CAR}, OncePerKind(get_logger("test")))
    board.receive("car", as_message("car", CAR, risk=0.1))
    assert board.settle() == []


def test_a_change_on_the_bus_reaches_the_next_frame() -> None:
    board = QuestionBoard({"car": CAR}, OncePerKind(get_logger("test")))
    board.settle()
    (query,) = board.asked(["car"], 100.0)
    assert (query.text, query.deadline_s, query.ad_hoc) == ("Is there a car?", 104.0, False)
    board.receive("car", as_message("car", BUS))
    (query,) = board.asked(["car"], 100.0)
    assert (query.text, query.answer_type, query.deadline_s) == (BUS.text, AnswerType.WORD, 110.0)
    board.receive("car", None)
    assert next(iter(board.asked(["car"], 0.0))).text == BUS.text
