"""The places of a full worker: what one certificate with many cameras takes from the others, and what it does not."""

from __future__ import annotations

import pytest

from pipeline.protocol.effects import PassAnswer, SendAnswer, SendControl
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frame import WorkerStage
from pipeline.protocol.worker_frames import WorkerFrames
from schemas.messages import Busy, Open
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import CLIENT, SITE, ask_message, content, published, ref

DAY_MS = 86_400_000
STOLEN = [f"stolen-{number}" for number in range(16)]
Q0, ASKED = content("q0"), content("a0", ad_hoc=True)
SETTINGS = WorkerProtocolSettings()


def _worker(settings: WorkerProtocolSettings = SETTINGS) -> WorkerFrames:
    worker = WorkerFrames(settings, worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE)
    worker.receive_question(published(Q0))
    return worker


def _open(
    worker: WorkerFrames, camera: str, sequence: int, remaining_ms: int, *, ad_hoc: bool = False, size_bytes: int = 0
) -> bool:
    """Open a frame; whether the worker has it."""
    question = ASKED if ad_hoc else Q0
    if ad_hoc:
        worker.receive_ask(camera, CLIENT, ask_message(question), None)
    message = Open(
        frame=FrameId(7, sequence),
        attempt=1,
        site=SITE,
        fingerprint=FINGERPRINT,
        queries=(ref(question, remaining_ms),),
        stop=4,
        payload=FakeLatent().payload(0, 4) + bytes(size_bytes),
    )
    worker.receive_open(camera, message, 0.0)
    return worker._frames.find(camera, message.frame) is not None


def _steal(worker: WorkerFrames, *, ad_hoc: bool = False, size_bytes: int = 0) -> int:
    """Open a hundred frames of each stolen camera; how many places that takes."""
    for sequence in range(100):
        for camera in STOLEN:
            _open(worker, camera, sequence, DAY_MS, ad_hoc=ad_hoc, size_bytes=size_bytes)
    return worker.unfinished()


def _held(worker: WorkerFrames) -> int:
    """Frames of the cameras that were not stolen."""
    return sum(frame.camera not in STOLEN for frame in worker.frames())


def _leave_unanswered(worker: WorkerFrames) -> None:
    """Read every frame once; what the worker asks for then never comes."""
    while passes := worker.passes.take(64, 0.0):
        for inference_pass in passes:
            worker.passes.finish(
                inference_pass, [PassAnswer(query.query_id, "car", 0.0) for query in inference_pass.queries], 0.0
            )
    for now_s in range(1, 30):
        worker.tick(float(now_s))
    assert {frame.stage for frame in worker.frames()} == {WorkerStage.WAITING}
    worker.take_effects()


def test_sixteen_stolen_cameras_lock_no_other_one_out() -> None:
    worker = _worker()
    assert _steal(worker) == SETTINGS.capacity_frames
    _leave_unanswered(worker)
    for number in range(200):
        assert _open(worker, f"cam{number}", 0, 10_000)
    assert worker.unfinished() == SETTINGS.capacity_frames
    assert worker.counters["fullest_camera_displaced"] == 200


def test_what_was_stolen_is_not_taken_back_from_cameras_that_hold_less() -> None:
    worker = _worker()
    _steal(worker)
    _leave_unanswered(worker)
    for number in range(200):
        _open(worker, f"cam{number}", 0, 10_000)
    for sequence in range(100, 200):
        for camera in STOLEN:
            _open(worker, camera, sequence, DAY_MS)
            _open(worker, camera, 1_000 + sequence, DAY_MS, ad_hoc=True)
    assert _held(worker) == 200


def test_frames_that_an_edge_calls_ad_hoc_take_no_places_of_cameras_that_hold_less() -> None:
    worker = _worker()
    for number in range(SETTINGS.capacity_frames):
        assert _open(worker, f"cam{number // 2}", number % 2, 600_000)
    _steal(worker, ad_hoc=True)
    assert _held(worker) >= SETTINGS.capacity_frames - 3 * len(STOLEN)


def test_an_ad_hoc_question_still_displaces_a_standing_frame_of_its_camera_and_of_fuller_ones() -> None:
    worker = _worker(WorkerProtocolSettings(capacity_frames=4))
    for sequence in range(4):
        _open(worker, "gate", sequence, 600_000)
    assert _open(worker, "gate", 9, 600_000, ad_hoc=True)
    assert _open(worker, "yard", 0, 600_000, ad_hoc=True)
    assert worker.counters["standing_displaced"] == 2


def test_places_are_fair_in_bytes_as_well() -> None:
    worker = _worker(WorkerProtocolSettings(capacity_bytes=1_000_000))
    _steal(worker, size_bytes=16_000)
    assert worker.unfinished() < 64
    for number in range(10):
        assert _open(worker, f"cam{number}", 0, 600_000)
    assert worker._frames.held_bytes <= 1_000_000


def test_of_the_fullest_camera_the_frame_that_its_edge_left_alone_goes_with_the_answer_that_it_has() -> None:
    worker = _worker(WorkerProtocolSettings(capacity_frames=4))
    _open(worker, "gate", 0, 600_000)
    _leave_unanswered(worker)
    for sequence in range(1, 4):
        _open(worker, "gate", sequence, 600_000)
    assert _open(worker, "yard", 0, 600_000)
    said = [effect.message for effect in worker.take_effects() if isinstance(effect, SendAnswer)]
    assert [(answer.frame.sequence, answer.outcome) for answer in said] == [(0, Outcome.DEGRADED)]


@pytest.mark.parametrize("ad_hoc", [False, True])
def test_the_edge_of_a_frame_that_had_to_go_hears_busy(ad_hoc: bool) -> None:
    worker = _worker(WorkerProtocolSettings(capacity_frames=4))
    for sequence in range(4):
        _open(worker, "gate", sequence, 600_000 - sequence, ad_hoc=ad_hoc)
    worker.take_effects()
    assert _open(worker, "yard", 0, 600_000)
    said = [effect.message for effect in worker.take_effects() if isinstance(effect, SendControl)]
    assert [message.frame.sequence for message in said if isinstance(message, Busy)] == [0]
    assert worker.outcomes() == {}, "its edge may ask another worker"


def test_cameras_that_hold_alike_do_not_displace_each_other() -> None:
    worker = _worker(WorkerProtocolSettings(capacity_frames=4))
    for camera in ("a", "b"):
        for sequence in range(2):
            assert _open(worker, camera, sequence, 600_000)
    assert not _open(worker, "a", 2, 600_000)
    assert _open(worker, "c", 0, 600_000)
    assert not _open(worker, "c", 1, 600_000)
    assert worker.counters["fullest_camera_displaced"] == 1


def test_a_draining_worker_makes_no_room() -> None:
    worker = _worker(WorkerProtocolSettings(capacity_frames=4))
    for sequence in range(4):
        _open(worker, "gate", sequence, 600_000)
    worker.drain(0.0)
    assert not _open(worker, "yard", 0, 600_000)
    assert worker.counters["fullest_camera_displaced"] == 0
