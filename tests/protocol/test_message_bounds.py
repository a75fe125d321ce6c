"""No input makes a machine build a message that the wire does not admit: texts of errors, numbers that run out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import InferencePass, PassAnswer, SendAnswer, SendHandover
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.worker_frames import WorkerFrames
from schemas import wire
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES, MAX_QUERIES_PER_FRAME
from schemas.messages import Handover, Open, QueryRef, RejectReason, Status
from schemas.topics import Family
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import LADDER, FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import SITE, asked, content, published, ref

any_text = st.text(st.characters(), max_size=300) | st.text(st.characters(categories=["Cs", "Cc"]), max_size=300)
"""What a library may say in an error: control characters, lines, halves of surrogate pairs."""


def _worker() -> WorkerFrames:
    return WorkerFrames(WorkerProtocolSettings(), worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE)


def _taken_pass(worker: WorkerFrames) -> InferencePass:
    question = content("q")
    worker.receive_question(published(question))
    payload = FakeLatent().payload(0, LADDER[0])
    message = Open(
        frame=FrameId(1, 1), attempt=1, site=SITE, fingerprint=FINGERPRINT, queries=(ref(question, 9_000),),
        stop=LADDER[0], payload=payload,
    )  # fmt: skip
    worker.receive_open("gate", message, 0.0)
    (inference_pass,) = worker.passes.take(8, 0.0)
    return inference_pass


def _failed(worker: WorkerFrames) -> str:
    (sent,) = [effect.message for effect in worker.take_effects() if isinstance(effect, SendAnswer)]
    assert sent.outcome is Outcome.FAILED
    assert wire.decode(Family.ANSWER, wire.encode(sent)) == sent
    return sent.reason


@given(problem=any_text)
def test_whatever_a_model_says_in_its_error_its_queries_fail_with_it(problem: str) -> None:
    worker = _worker()
    worker.passes.fail(_taken_pass(worker), RejectReason.MODEL, problem)
    assert _failed(worker).startswith("model: ")


@given(problem=any_text.filter(bool))
def test_whatever_is_wrong_with_one_answer_its_query_fails_with_it(problem: str) -> None:
    worker = _worker()
    inference_pass = _taken_pass(worker)
    worker.passes.finish(inference_pass, [PassAnswer(inference_pass.queries[0].query_id, "", 0.0, problem)], 0.1)
    assert _failed(worker).startswith("model: ")


@given(reason=any_text)
def test_whatever_an_edge_ends_for_its_queries_have_an_outcome(reason: str) -> None:
    edge = EdgeFrames(EdgeProtocolSettings(), site=SITE, pool=POOL, boot=7, fingerprint=FINGERPRINT)
    edge.offer("gate", FakeLatent(), LADDER[0], [asked("q", 9.0)], 0.0)
    edge.abandon(reason)
    (ended,) = edge.take_decisions()
    assert ended.publish is not None
    assert wire.decode(Family.OUTCOME, wire.encode(ended.publish)) == ended.publish


def test_the_numbers_of_a_cameras_frames_begin_again_when_they_run_out() -> None:
    edge = EdgeFrames(EdgeProtocolSettings(), site=SITE, pool=POOL, boot=7, fingerprint=FINGERPRINT)
    edge._sequence["gate"] = 2**32 - 3
    frames = [edge.offer("gate", FakeLatent(), LADDER[0], [asked("q", 9.0)], 0.0) for _ in range(4)]
    assert [frame.sequence for frame in frames] == [2**32 - 3, 2**32 - 2, 0, 1]
    opens = edge.take_departures()
    assert [message.frame for open_ in opens if isinstance(message := open_.stamp(1.0), Open)] == frames[-1:]


@pytest.mark.parametrize("client", [None, "c" * 32])
def test_the_largest_frame_of_an_edge_can_be_handed_over(client: str | None) -> None:
    name, camera = "n" * 32, "c" * 32
    refs = tuple(QueryRef(f"{n:032d}", 86_400_000, bytes(8), client) for n in range(MAX_QUERIES_PER_FRAME))
    message = Open(
        frame=FrameId(2**32 - 1, 2**32 - 1), attempt=255, site=name, fingerprint=FINGERPRINT, queries=refs,
        stop=STOP_RULE.ladder[-1], payload=b"\xff" * MAX_LATENT_PAYLOAD_BYTES, key=None, age_ms=86_400_000,
    )  # fmt: skip
    full = WorkerProtocolSettings(capacity_frames=1)
    worker = WorkerFrames(full, worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE)
    idle = Status(
        kind="worker", id="w1", boot=1, online=True, pool=POOL, fingerprint=FINGERPRINT.hex(), parked=0, capacity=99
    )
    worker.receive_load(idle, 0.0)
    _taken_pass(worker)
    worker.take_effects()
    worker.receive_open(camera, message, 0.0)
    (sent,) = [effect.message for effect in worker.take_effects() if isinstance(effect, SendHandover)]
    assert isinstance(sent, Handover)
    assert sent.to_open() == message
    assert wire.decode(Family.HANDOVER, wire.encode(sent)) == sent
