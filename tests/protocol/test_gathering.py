"""A frame that finds the model idle waits a moment for others, never longer than it may."""

from __future__ import annotations

from pipeline.protocol.ports import RunBatch
from pipeline.protocol.worker_session import WorkerSession
from tests.protocol.test_worker_session import Worker


def worker(gather_s: float, max_frames: int = 3) -> Worker:
    return Worker(max_batches=1, max_batch_frames=max_frames, gather_s=gather_s)


def batches(session: WorkerSession, now_s: float) -> list[RunBatch]:
    return [output for output in session.poll(now_s) if isinstance(output, RunBatch)]


def test_frames_that_come_within_the_wait_share_a_batch() -> None:
    one = worker(0.005)
    one.open(1, 1.0, camera="gate")
    assert batches(one.session, 1.0) == []
    wake_s = one.session.next_wake_s()
    assert wake_s is not None
    assert wake_s <= 1.005
    one.open(2, 1.003, camera="yard")
    assert batches(one.session, 1.003) == []
    (batch,) = batches(one.session, 1.005)
    assert [inference_pass.camera for inference_pass in batch.passes] == ["gate", "yard"]


def test_a_full_batch_waits_for_nothing() -> None:
    one = worker(0.005, max_frames=2)
    one.open(1, 1.0, camera="gate")
    assert batches(one.session, 1.0) == []
    one.open(2, 1.001, camera="yard")
    assert len(batches(one.session, 1.001)) == 1


def test_what_came_while_the_model_was_busy_does_not_wait_again() -> None:
    one = worker(0.005)
    one.open(1, 1.0, camera="gate")
    batches(one.session, 1.0)
    (first,) = batches(one.session, 1.005)
    one.open(2, 1.1, camera="yard")
    assert batches(one.session, 1.1) == []
    one.session.batch_done(first.token, [], 1.2)
    (second,) = batches(one.session, 1.2)
    assert [inference_pass.camera for inference_pass in second.passes] == ["yard"]


def test_after_a_quiet_moment_it_waits_again() -> None:
    one = worker(0.005)
    one.open(1, 1.0, camera="gate")
    batches(one.session, 1.0)
    (first,) = batches(one.session, 1.005)
    one.session.batch_done(first.token, [], 1.2)
    assert batches(one.session, 1.2) == []
    one.open(2, 2.0, camera="yard")
    assert batches(one.session, 2.0) == []
    assert len(batches(one.session, 2.005)) == 1


def test_without_a_wait_a_frame_is_read_at_once() -> None:
    one = worker(0.0)
    one.open(1, 1.0)
    assert len(batches(one.session, 1.0)) == 1
