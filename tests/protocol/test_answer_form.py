"""An answer that is not what was asked for is not safe, however sure the model is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.protocol.effects import PassAnswer, SendAnswer
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frames import WorkerFrames
from schemas.answer_value import answer_value
from schemas.identity import QuestionContent
from schemas.messages import Answer, Open
from schemas.types import AnswerType, FrameId, Outcome
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import SITE, content, published, ref

YES_NO, COUNT, WORD, TEXT = AnswerType.YES_NO, AnswerType.COUNT, AnswerType.WORD, AnswerType.TEXT
CHOICE = AnswerType.CHOICE
COLOURS = ("Red", "dark  green", "caf\u00e9")
WHOLE = STOP_RULE.ladder[-1]


def fits(kind: AnswerType, text: str, options: Sequence[str] = ()) -> bool:
    return answer_value(kind, text, options) is not None


WORDLESS = ("", "  ", "...", "___", "?!", "\ufffd\ufffd", "\U0001f697")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((YES_NO, text) for text in ("yes", "No.", "Yes, there is a")),
        *((COUNT, text) for text in ("3", "Three cars", "0", "12.", "none", "- 3 cars", "4, I think")),
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
        *(
            (COUNT, text)
            for text in ("many", "yes", "a car", "about: 7", "-3", "2.5", "1/2", "10:30", "10-20", "1,200", "12th")
        ),
        (WORD, "there is a red car here"),
        *((kind, text) for kind in AnswerType for text in WORDLESS),
    ],
)
def test_answers_that_do_not(kind: AnswerType, text: str) -> None:
    assert not fits(kind, text)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (YES_NO, "Yes, there is a", True), (YES_NO, "No.", False), (COUNT, "Three cars", 3), (COUNT, "none", 0),
        (COUNT, "12.", 12), (WORD, "top left", "top left"),
    ],
)  # fmt: skip
def test_what_answers_say(kind: AnswerType, text: str, value: object) -> None:
    said = answer_value(kind, text)
    assert (said, type(said)) == (value, type(value))


def test_a_choice_says_its_option_as_the_question_has_it() -> None:
    assert answer_value(CHOICE, "**dark green!**", COLOURS) == "dark  green"


def test_options_bind_whatever_the_type() -> None:
    assert fits(TEXT, "Red.", ("red", "green"))
    assert not fits(TEXT, "blue", ("red", "green"))


@pytest.mark.parametrize(
    ("text", "fitting"),
    [
        *((text, True) for text in ("red", " RED. ", '"Red"', "**red**", "Dark green!", "cafe\u0301")),
        *((text, False) for text in ("blue", "red or green", "The red one.", "green", "re", "...")),
    ],
)
def test_a_choice_is_one_of_its_options_whatever_stands_around_it(text: str, fitting: bool) -> None:
    assert fits(CHOICE, text, COLOURS) is fitting


def test_a_choice_of_nothing_is_none() -> None:
    assert not fits(CHOICE, "red")


def _answered(
    question: QuestionContent, said: str, prefix: int, score: float = 1.0
) -> tuple[WorkerFrames, Answer | None]:
    """What a worker says of a pass in which its model says this, sure of it."""
    worker = WorkerFrames(
        WorkerProtocolSettings(), worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE
    )
    worker.receive_question(published(question))
    message = Open(
        frame=FrameId(7, 0),
        attempt=1,
        site=SITE,
        fingerprint=FINGERPRINT,
        queries=(ref(question, 9_000),),
        stop=prefix,
        payload=bytes(4),
    )
    worker.receive_open("gate", message, 0.0)
    (inference_pass,) = worker.passes.take(8, 0.0)
    worker.passes.finish(inference_pass, [PassAnswer(inference_pass.queries[0].query_id, said, score)], 0.1)
    answers = [effect.message for effect in worker.take_effects() if isinstance(effect, SendAnswer)]
    assert len(answers) <= 1
    return worker, answers[0] if answers else None


FORMS = [
    (content("q", "A car?", YES_NO), "yes", "At night: a"),
    (content("q", "How many?", COUNT), "3", "many of them"),
    (content("q", "Which colour?", WORD), "dark red", "it is a red car here"),
    (content("q", "Which colour?", CHOICE, options=("red", "green")), "Red.", "blue"),
]


@pytest.mark.parametrize(("question", "fitting", "unfit"), FORMS, ids=lambda value: str(value)[:0])
def test_a_sure_answer_of_the_wrong_form_is_never_answered(question: QuestionContent, fitting: str, unfit: str) -> None:
    _, answer = _answered(question, fitting, 4)
    assert answer is not None
    assert (answer.outcome, answer.text) == (Outcome.ANSWERED, fitting)
    worker, answer = _answered(question, unfit, 4)
    assert answer is not None
    assert (answer.outcome, answer.text, worker.unfinished()) == (None, unfit, 1), "refined further"
    worker, answer = _answered(question, unfit, WHOLE)
    assert answer is not None
    assert (answer.outcome, answer.text) == (Outcome.DEGRADED, unfit)
    assert answer.reason == f"form: no {question.answer_type} answer"
    assert worker.unfinished() == 0


@pytest.mark.parametrize("said", WORDLESS)
@pytest.mark.parametrize("kind", [YES_NO, COUNT, WORD, TEXT])
def test_an_answer_without_words_is_shown_to_nobody_and_fails_from_the_whole_latent(
    kind: AnswerType, said: str
) -> None:
    question = content("q", "What is here?", kind)
    worker, answer = _answered(question, said, 4)
    assert (answer, worker.unfinished()) == (None, 1), "refined further, without a provisional answer"
    worker.tick(8.9)
    assert [effect for effect in worker.take_effects() if isinstance(effect, SendAnswer)] == []
    worker, answer = _answered(question, said, WHOLE)
    assert answer is not None
    assert (answer.outcome, answer.text, answer.reason) == (Outcome.FAILED, "", "form: the answer has no words")
    assert worker.unfinished() == 0


def test_a_sure_text_is_answered_early() -> None:
    _, answer = _answered(content("q", "What is here?"), "At night: a car stands in the yard.", 4)
    assert answer is not None
    assert answer.outcome is Outcome.ANSWERED
