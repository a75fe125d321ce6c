"""What a worker does first, what it does not do, and what its throughput says about it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.effects import PassAnswer, SendAnswer, SendControl
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery, WorkerStage
from pipeline.protocol.worker_frames import WorkerFrames
from pipeline.protocol.worker_schedule import PlannedPass, Schedule
from pipeline.protocol.worker_throughput import ThroughputEstimate
from schemas.messages import Busy, Open
from schemas.types import FrameId, Outcome
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import CLIENT, ask_message, published, ref

SETTINGS = WorkerProtocolSettings()
MARGIN_S = SETTINGS.finalise_margin_s


def throughput(fixed_s: float = 0.1, frame_s: float = 0.05) -> ThroughputEstimate:
    """A throughput that was measured well."""
    throughput = ThroughputEstimate(SETTINGS, max_frames=8)
    for frames in (1, 8, 4, 8, 2, 8) * 20:
        throughput.note_batch(fixed_s + frame_s * frames, frames)
    return throughput


def frame(name: str, deadline_s: float, *, ad_hoc: bool = False) -> WorkerFrame:
    query = WorkerQuery(ref("q0", 1, ad_hoc=ad_hoc), "site/north", deadline_s)
    return WorkerFrame(name, FrameId(7, 0), 1, "north", {name: query}, WorkerStage.PARKED, 3.0, 0.0)


def names(found: Sequence[WorkerFrame | PlannedPass]) -> list[str]:
    return [item.camera if isinstance(item, WorkerFrame) else item.frame.camera for item in found]


@given(st.floats(0.0, 2.0), st.floats(0.001, 0.5))
def test_the_throughput_tells_a_batch_from_its_frames(fixed_s: float, frame_s: float) -> None:
    measured = throughput(fixed_s, frame_s)
    for frames in (1, 4, 8):
        assert measured.batch_s(frames) == pytest.approx(fixed_s + frame_s * frames, rel=0.01)


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(1, 64)), max_size=60), st.integers(1, 64))
def test_the_throughput_is_never_negative_and_larger_batches_never_take_less(
    batches: list[tuple[float, int]], size: int
) -> None:
    measured = ThroughputEstimate(SETTINGS, max_frames=16)
    for batch_s, frames in batches:
        measured.note_batch(batch_s, frames)
    assert 0.0 <= measured.batch_s(size) <= measured.batch_s(size + 1) + 1e-9
    assert 0.0 <= measured.begins_s(size) <= measured.begins_s(size + 1) + 1e-9


def test_ad_hoc_questions_go_before_standing_ones_that_are_due_earlier() -> None:
    picked = Schedule(SETTINGS, throughput()).pick(
        [
            frame("soon", 2.0),
            frame("late", 9.0),
            frame("asked", 30.0, ad_hoc=True),
            frame("asked-too", 20.0, ad_hoc=True),
        ],
        3,
        0.0,
    )
    assert names(picked.batch) == ["asked-too", "asked", "soon"]
    assert picked.hopeless == []


def test_a_standing_frame_that_cannot_be_in_time_is_not_read() -> None:
    picked = Schedule(SETTINGS, throughput()).pick([frame("late", MARGIN_S + 0.1), frame("fine", 9.0)], 8, 0.0)
    assert names(picked.batch) == ["fine"]
    assert names(picked.hopeless) == ["late"]


def test_one_that_a_full_batch_would_make_late_is_left_for_a_smaller_one() -> None:
    tight = frame("tight", MARGIN_S + 0.2)
    many = [frame(f"c{index}", 9.0) for index in range(8)]
    picked = Schedule(SETTINGS, throughput()).pick([tight, *many], 8, 0.0)
    assert "tight" not in names(picked.batch)
    assert picked.hopeless == []
    assert len(picked.batch) == 8, "batches stay full"


def test_a_batch_shrinks_for_an_ad_hoc_question() -> None:
    tight = frame("tight", MARGIN_S + 0.32, ad_hoc=True)
    picked = Schedule(SETTINGS, throughput()).pick([tight, *(frame(f"c{index}", 9.0) for index in range(8))], 8, 0.0)
    assert names(picked.batch)[0] == "tight"
    assert len(picked.batch) == 4, "0.1 s + 4 * 0.05 s is in time, twice as many are not"


def test_a_late_ad_hoc_question_is_read_where_there_is_room_and_never_dropped() -> None:
    late = frame("late", MARGIN_S + 0.05, ad_hoc=True)
    schedule = Schedule(SETTINGS, throughput())
    assert names(schedule.pick([late, frame("fine", 9.0)], 2, 0.0).batch) == ["fine", "late"]
    full = schedule.pick([late, frame("fine", 9.0)], 1, 0.0)
    assert (names(full.batch), full.hopeless) == (["fine"], [])


def test_the_model_does_not_idle_on_a_wrong_estimate() -> None:
    stalled = ThroughputEstimate(SETTINGS, max_frames=8)
    stalled.note_batch(500.0, 1)
    schedule = Schedule(SETTINGS, stalled)
    picked = schedule.pick([frame(f"c{index}", 5.0 + index) for index in range(4)], 8, 0.0)
    assert names(picked.batch) == ["c3"], "one frame corrects the throughput"
    assert names(picked.hopeless) == ["c0", "c1", "c2"]


@given(
    st.lists(st.tuples(st.floats(0.01, 20.0), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 16),
    st.floats(0.001, 3.0),
)
def test_whatever_waits_every_frame_is_picked_left_or_given_up_once(
    waiting: list[tuple[float, bool]], size: int, frame_s: float
) -> None:
    frames = [frame(f"c{index}", deadline_s, ad_hoc=ad_hoc) for index, (deadline_s, ad_hoc) in enumerate(waiting)]
    measured = throughput(0.05, frame_s)
    picked = Schedule(SETTINGS, measured).pick(frames, size, 0.0)
    assert 1 <= len(picked.batch) <= size
    chosen = names(picked.batch) + names(picked.hopeless)
    assert len(chosen) == len(set(chosen))
    assert not any(frame.ad_hoc for frame in picked.hopeless), "an ad-hoc question is never given up"
    batch = [part.frame for part in picked.batch]
    in_time = [f for f in batch if f.first_deadline_s() - MARGIN_S >= measured.batch_s(len(picked.batch))]
    assert len(in_time) == len(picked.batch) or any(f.ad_hoc for f in batch) or len(picked.batch) == 1


# ---- in the session -------------------------------------------------------------------------------------------------


def session(**changes: float) -> WorkerFrames:
    settings = WorkerProtocolSettings(**changes)  # type: ignore[arg-type]
    worker = WorkerFrames(settings, worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE)
    worker.receive_question(published("q0"))
    return worker


def receive(worker: WorkerFrames, camera: str, *, remaining_s: float = 10.0, ad_hoc: bool = False) -> None:
    if ad_hoc:
        worker.receive_ask(camera, CLIENT, ask_message(camera), None)
    query = ref(camera if ad_hoc else "q0", round(1000 * remaining_s), ad_hoc=ad_hoc)
    message = Open(
        frame=FrameId(7, 0),
        attempt=1,
        site="north",
        fingerprint=FINGERPRINT,
        queries=(query,),
        stop=4,
        payload=bytes(4),
    )
    worker.receive_open(camera, message, 0.0)


def busy_cameras(worker: WorkerFrames) -> list[str]:
    return [
        effect.topic.rsplit("/", 1)[1]
        for effect in worker.take_effects()
        if isinstance(effect, SendControl) and isinstance(effect.message, Busy)
    ]


def test_a_full_worker_makes_room_for_an_ad_hoc_question() -> None:
    worker = session(capacity_frames=2)
    receive(worker, "soon", remaining_s=5.0)
    receive(worker, "later", remaining_s=9.0)
    receive(worker, "asked", ad_hoc=True)
    assert busy_cameras(worker) == ["later"], "the one with most time left has to find another worker"
    assert worker.counters["standing_displaced"] == 1
    assert [inference_pass.camera for inference_pass in worker.passes.take(8, 0.1)] == ["asked", "soon"]


def test_an_ad_hoc_question_displaces_no_other_one_and_nothing_that_the_model_reads() -> None:
    worker = session(capacity_frames=2)
    receive(worker, "standing")
    worker.passes.take(8, 0.0)
    receive(worker, "first", ad_hoc=True)
    receive(worker, "second", ad_hoc=True)
    assert busy_cameras(worker) == ["second"]
    assert worker.unfinished() == 2


def test_a_draining_worker_displaces_nothing() -> None:
    worker = session(capacity_frames=1)
    receive(worker, "standing")
    worker.drain(0.0)
    receive(worker, "asked", ad_hoc=True)
    assert busy_cameras(worker) == ["asked"]


def test_a_standing_frame_that_would_wait_too_long_is_turned_away_and_an_ad_hoc_one_is_not() -> None:
    worker = session()
    worker.passes.take(1, 0.0)
    for _ in range(40):
        worker.passes.note_batch(1.0, 1)
    admitted = 0
    while not busy_cameras(worker):
        receive(worker, f"c{admitted}")
        admitted += 1
        assert admitted < 20
    assert 2 <= admitted - 1 <= 1 + SETTINGS.standing_wait_share * 10.0
    assert worker.counters["standing_not_admitted"] == 1
    receive(worker, "asked", ad_hoc=True)
    assert [inference_pass.camera for inference_pass in worker.passes.take(1, 0.0)] == ["asked"]


def test_an_idle_worker_takes_whatever_it_believes_about_its_throughput() -> None:
    worker = session()
    for _ in range(40):
        worker.passes.note_batch(100.0, 1)
    receive(worker, "gate", remaining_s=5.0)
    assert [inference_pass.camera for inference_pass in worker.passes.take(8, 0.0)] == ["gate"]


def test_work_that_would_be_late_is_given_up_and_the_edge_is_told() -> None:
    worker = session()
    for _ in range(40):
        worker.passes.note_batch(1.0, 1)
    for camera in ("a", "b", "c"):
        receive(worker, camera)
    assert [inference_pass.camera for inference_pass in worker.passes.take(1, 0.0)] == ["a"]
    worker.take_effects()
    passes = worker.passes.take(1, 9.5)
    assert len(passes) == 1, "the model is free: one is read all the same"
    assert len(busy_cameras(worker)) == 1
    assert worker.counters["standing_too_late"] == 1


def test_what_has_an_answer_ends_with_it_when_the_model_has_no_time_for_a_second_pass() -> None:
    worker = session()
    for _ in range(40):
        worker.passes.note_batch(1.0, 1)
    receive(worker, "a")
    receive(worker, "b")
    (inference_pass,) = worker.passes.take(1, 0.0)
    worker.passes.finish(inference_pass, [PassAnswer(inference_pass.queries[0].query_id, "perhaps", 0.5)], 1.0)
    frame = worker._frames.find("a", FrameId(7, 0))
    assert frame is not None
    frame.stage = WorkerStage.PARKED  # its chunk has come
    worker.take_effects()
    worker.passes.take(1, 8.9)
    (answer,) = [effect.message for effect in worker.take_effects() if isinstance(effect, SendAnswer)]
    assert (answer.outcome, answer.text) == (Outcome.DEGRADED, "perhaps")
    assert answer.reason.startswith("overload")
    assert worker.counters["standing_finalised_early"] == 1
    assert worker.outcomes() == {("degraded", "standing"): 1}
