"""Standing questions may accept another risk than the pool's, and the worker keeps to it."""

from __future__ import annotations

import pytest

from pipeline.protocol.effects import PassAnswer, SendAnswer, SendControl
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_frames import WorkerFrames
from schemas.messages import Open, Refine, Text
from schemas.types import AnswerType, FrameId, Outcome
from tests.protocol.harness import FINGERPRINT, POOL
from tests.protocol.questions import content, published, ref

TEXT = AnswerType.TEXT
RULE = StopRule(
    (4, 8), (2.0, 0.0), {TEXT: (0.9, 0.0)}, 0.02, {0.005: {TEXT: (0.99, 0.0)}, 0.1: {TEXT: (0.5, 0.0)}}, at_once=6
)


def worker_with(risk: float | None) -> WorkerFrames:
    worker = WorkerFrames(WorkerProtocolSettings(), worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=RULE)
    worker.receive_question(published(content("q0", risk=risk)))
    return worker


def outcome_of(worker: WorkerFrames, score: float, stop: int = 4, *, risk: float | None = None) -> Outcome | None:
    """What becomes of the question at the first pass; None when more is asked for."""
    query = ref(content("q0", risk=risk), 9_000)
    opened = Open(
        frame=FrameId(1, 1),
        attempt=1,
        site="north",
        fingerprint=FINGERPRINT,
        queries=(query,),
        stop=stop,
        payload=b"\1" * stop,
    )
    worker.receive_open("gate", opened, 0.0)
    (inference_pass,) = worker.passes.take(8, 0.1)
    worker.passes.finish(inference_pass, [PassAnswer(inference_pass.queries[0].query_id, "yes", score)], 0.2)
    effects = worker.take_effects()
    (outcome,) = {effect.message.outcome for effect in effects if isinstance(effect, SendAnswer)}
    asks = [effect for effect in effects if isinstance(effect, SendControl) and isinstance(effect.message, Refine)]
    assert bool(asks) is (outcome is None)
    return outcome


@pytest.mark.parametrize(
    ("risk", "score", "answered"),
    [
        (None, 0.9, True),
        (None, 0.89, False),
        (0.1, 0.6, True),
        (0.05, 0.6, False),
        (0.005, 0.95, False),
        (0.005, 0.995, True),
        (0.001, 1.0, False),
    ],
)
def test_the_threshold_is_that_of_the_accepted_risk(risk: float | None, score: float, answered: bool) -> None:
    assert outcome_of(worker_with(risk), score, risk=risk) is (Outcome.ANSWERED if answered else None)


@pytest.mark.parametrize(("risk", "answered"), [(None, True), (0.1, True), (0.005, False)])
def test_a_frame_that_opens_with_the_length_at_once_needs_no_more(risk: float | None, answered: bool) -> None:
    assert outcome_of(worker_with(risk), 0.2, stop=6, risk=risk) is (Outcome.ANSWERED if answered else None)


def test_a_text_that_comes_from_an_edge_brings_the_operators_risk() -> None:
    for risk, outcome in ((0.005, None), (None, Outcome.ANSWERED)):
        worker = worker_with(0.3)
        worker.receive_text(
            Text(camera="gate", owner="site/north", question_id="q0", text="q0?", answer_type=TEXT, risk=risk)
        )
        assert outcome_of(worker, 0.95, risk=risk) is outcome
