"""What a worker keeps of key frames, and what it does about one that does not decode."""

from __future__ import annotations

import pytest

from pipeline.protocol.effects import InferencePass, SendAnswer, SendControl
from pipeline.protocol.worker_caches import KeyFrames
from pipeline.protocol.worker_frames import WorkerFrames
from schemas.errors import FingerprintError
from schemas.messages import KeyFrame, Open, Reject, RejectReason, Status
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import GIVEN_KEY, LATENTS, FakeLatent
from tests.protocol.harness import FINGERPRINT, Fleet
from tests.protocol.questions import ref

KEY = FakeLatent(LATENTS)
GIVEN = FakeLatent(GIVEN_KEY + LATENTS)


def test_latents_by_themselves_that_do_not_decode_fail_their_frame() -> None:
    session = Fleet().workers["w0"].frames
    session.receive_open("gate", _given(None), 0.0)
    session.passes.fail(_only(session.passes.take(1, 0.0)), RejectReason.BITSTREAM, "latents 0..4: no stream")
    (answer,) = session.take_effects()
    assert isinstance(answer, SendAnswer)
    assert answer.message.outcome is Outcome.FAILED


@pytest.mark.parametrize("reason", [RejectReason.BITSTREAM, RejectReason.MODEL])
def test_only_a_stream_that_does_not_decode_puts_a_key_frame_in_doubt(reason: RejectReason) -> None:
    session = _with_key_frame()
    session.receive_open("gate", _given(0), 0.0)
    session.passes.fail(_only(session.passes.take(1, 0.0)), reason, "broken")
    (effect,) = session.take_effects()
    doubted = reason is RejectReason.BITSTREAM
    assert isinstance(effect, SendControl if doubted else SendAnswer)
    assert (session._keys.get("gate", 7, 0) is None) == doubted
    assert session.unfinished() == 0


def test_a_worker_speaks_for_a_lost_edge_whose_key_frame_is_damaged() -> None:
    """Nobody would open the frame again."""
    session = _with_key_frame()
    session.receive_open("gate", _given(0), 0.0)
    inference_pass = _only(session.passes.take(1, 0.0))
    session.receive_edge_status(Status(kind="edge", id="north", boot=7, online=False), 0.1)
    session.passes.fail(inference_pass, RejectReason.BITSTREAM, "damaged")
    (answer,) = session.take_effects()
    assert isinstance(answer, SendAnswer)
    assert (answer.message.outcome, answer.message.reason) == (Outcome.FAILED, "edge_lost")
    assert session.unfinished() == 0


def test_key_frames_of_an_earlier_boot_are_others() -> None:
    session = _with_key_frame()
    opened = _given(0).model_copy(update={"frame": FrameId(8, 1)})
    session.receive_open("gate", opened, 0.0)
    (effect,) = session.take_effects()
    assert isinstance(effect, SendControl)
    assert isinstance(effect.message, Reject)
    assert (effect.message.frame, effect.message.reason) == (opened.frame, RejectReason.KEY_FRAME)


def test_a_key_frame_of_another_codec_is_refused() -> None:
    session = Fleet().workers["w0"].frames
    with pytest.raises(FingerprintError):
        session.receive_key_frame("gate", KeyFrame(frame=FrameId(7, 0), fingerprint=b"none", payload=b"key"))
    assert session.key_frame_bytes() == 0


def test_two_key_frames_of_a_camera_are_kept() -> None:
    keys = KeyFrames(1000)
    for sequence in (0, 5, 9):
        keys.learn("gate", FrameId(7, sequence), bytes(10))
        keys.learn("gate", FrameId(7, sequence), bytes(10))  # once more, as after a reconnect
    assert [keys.get("gate", 7, sequence) is not None for sequence in (0, 5, 9)] == [False, True, True]
    assert keys.get("gate", 8, 9) is None
    assert keys.get("yard", 7, 9) is None
    assert keys.held_bytes == 20


def test_the_key_frames_of_the_camera_that_was_silent_longest_are_forgotten_first() -> None:
    keys = KeyFrames(45)
    keys.learn("a", FrameId(7, 0), bytes(10))
    keys.learn("b", FrameId(7, 0), bytes(10))
    keys.learn("a", FrameId(7, 1), bytes(10))
    keys.learn("c", FrameId(7, 0), bytes(20))
    assert [camera for camera in "abc" if keys.get(camera, 7, 0) is not None] == ["a", "c"]
    assert keys.held_bytes == 40
    keys.forget("a")
    assert keys.held_bytes == 20
    keys.learn("d", FrameId(7, 0), bytes(46))
    assert keys.held_bytes == 0, "one that is larger than all room is not kept"


def _with_key_frame() -> WorkerFrames:
    session = Fleet().workers["w0"].frames
    key = KeyFrame(frame=FrameId(7, 0), fingerprint=FINGERPRINT, payload=KEY.payload(0, LATENTS))
    session.receive_key_frame("gate", key)
    return session


def _given(key: int | None) -> Open:
    return Open(
        frame=FrameId(7, 1),
        attempt=1,
        site="north",
        fingerprint=FINGERPRINT,
        queries=(ref("q0", 5000),),
        stop=4,
        payload=GIVEN.payload(0, 4),
        key=key,
    )


def _only(passes: list[InferencePass]) -> InferencePass:
    (inference_pass,) = passes
    return inference_pass
