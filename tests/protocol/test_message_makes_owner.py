"""A worker that has said anything about a frame is its owner for the edge: it keeps the frame."""

from __future__ import annotations

from pipeline.protocol.effects import PassAnswer, SendAnswer, SendHandover
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frames import WorkerFrames
from pipeline.protocol.worker_work import WorkCosts
from schemas.messages import Open, Status
from schemas.types import FrameId, Outcome
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import SITE, content, published, ref

QUESTIONS = (content("people"), content("cars"))


def test_a_frame_with_one_answer_of_two_is_not_handed_over() -> None:
    """The edge has read the answer; the next worker would be told *revoke*, and the second question be lost."""
    worker = WorkerFrames(
        WorkerProtocolSettings(handover_wait_s=0.0),
        worker="w0",
        pool=POOL,
        fingerprint=FINGERPRINT,
        stop_rule=STOP_RULE,
        costs=WorkCosts.by_tokens(64),
    )
    for question in QUESTIONS:
        worker.receive_question(published(question))
    refs = tuple(ref(question, 20_000) for question in QUESTIONS)
    for camera in ("gate", "yard"):
        message = Open(
            frame=FrameId(1, 0), attempt=1, site=SITE, fingerprint=FINGERPRINT, queries=refs, stop=4, payload=bytes(4)
        )
        worker.receive_open(camera, message, 0.0)
    (inference_pass, *_) = worker.passes.take(1, 0.1, 150.0)
    (query,) = inference_pass.queries
    worker.passes.finish(inference_pass, [PassAnswer(query.query_id, "two", 1.0)], 0.2)
    said = [effect.message.outcome for effect in worker.take_effects() if isinstance(effect, SendAnswer)]
    assert said == [Outcome.ANSWERED]
    idle = Status(kind="worker", id="w1", boot=1, online=True, pool=POOL, fingerprint=FINGERPRINT.hex(), capacity=64)
    worker.receive_load(idle, 0.3)
    worker.tick(0.4)
    worker.drain(0.5)
    handed_over = [effect.message.camera for effect in worker.take_effects() if isinstance(effect, SendHandover)]
    assert inference_pass.camera not in handed_over
    assert len(handed_over) == 1, "the frame of which nothing was said goes"
