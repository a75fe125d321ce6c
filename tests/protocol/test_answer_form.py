"""An answer that is not what was asked for is not safe, however sure the model is."""

from __future__ import annotations

import pytest

from pipeline.answer_form import fits
from pipeline.protocol.effects import LookAnswer, SendAnswer
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerSession
from schemas.messages import Open
from schemas.types import AnswerType, FrameId, Outcome
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import content, published, ref

YES_NO, COUNT, WORD, TEXT = AnswerType.YES_NO, AnswerType.COUNT, AnswerType.WORD, AnswerType.TEXT


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((YES_NO, text) for text in ("yes", "No.", "Yes, there is a")),
        *((COUNT, text) for text in ("3", "Three cars", "0", "12.", "none")),
        *((WORD, text) for text in ("red", "top left", "at the gate")),
        (TEXT, "At night: a car stands in the yard."),
    ],
)
def test_answers_that_fit(kind: AnswerType, text: str) -> None:
    assert fits(kind, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((YES_NO, text) for text in ("At night: a", "yesterday", "nothing", "3")),
        *((COUNT, text) for text in ("many", "yes", "a car")),
        (WORD, "there is a red car here"),
        *((kind, text) for kind in (YES_NO, COUNT, WORD, TEXT) for text in ("", "  ", "...")),
    ],
)
def test_answers_that_do_not(kind: AnswerType, text: str) -> None:
    assert not fits(kind, text)


def test_options_bind_whatever_the_type() -> None:
    assert fits(TEXT, "Red.", ("red", "green"))
    assert not fits(TEXT, "blue", ("red", "green"))


@pytest.mark.parametrize(("prefix", "outcome"), [(4, None), (STOP_RULE.ladder[-1], Outcome.DEGRADED)])
def test_a_sure_answer_of_the_wrong_form_is_never_answered(prefix: int, outcome: Outcome | None) -> None:
    worker = WorkerSession(
        WorkerProtocolSettings(), worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE
    )
    question = content("car", "A car?", YES_NO)
    worker.receive_question(published(question))
    worker.receive_open(
        "gate",
        Open(
            frame=FrameId(7, 0),
            attempt=1,
            site="north",
            fingerprint=FINGERPRINT,
            queries=(ref(question, 9_000),),
            stop=prefix,
            payload=bytes(4),
        ),
        0.0,
    )
    (look,) = worker.take_looks(8, 0.0)
    worker.finish_look(look, [LookAnswer(look.queries[0].query_id, "At night: a", 1.0)], 0.1)
    (answer,) = [effect.message for effect in worker.take_effects() if isinstance(effect, SendAnswer)]
    assert (answer.outcome, answer.text) == (outcome, "At night: a")
