"""What a worker expects of its model while several batches are in flight: throughput, waits, stalls, late results."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.effects import LookAnswer, SendControl
from pipeline.protocol.worker_frame import WorkerStage
from pipeline.protocol.worker_pace import WorkerPace
from pipeline.protocol.worker_session import WorkerSession
from schemas.messages import Accept, Gone
from schemas.types import FrameId
from tests.protocol.test_worker_schedule import SETTINGS, receive, session

BATCH_S = 1.2
WORK = 4


def run_in_flight(pace: WorkerPace, in_flight: int, batches: int) -> float:
    """Keep so many batches in flight until so many more have ended; how long that took."""
    now_s, running = 0.0, list[tuple[float, int, float]]()
    for number in range(batches + in_flight):
        if len(running) == in_flight:
            now_s, ended, began_s = heapq.heappop(running)
            pace.note_batch(now_s - began_s, WORK, now_s, ended)
        pace.batch_starts(number, WORK, now_s)
        # Each takes as long as the others; the first ones end apart.
        takes_s = BATCH_S * ((number + 1) / in_flight if number < in_flight else 1)
        heapq.heappush(running, (now_s + takes_s, number, now_s))
    return now_s


@pytest.mark.parametrize("in_flight", [1, 2, 3, 8])
def test_throughput_is_work_over_the_time_that_passed_however_many_batches_overlap(in_flight: int) -> None:
    pace = WorkerPace(SETTINGS, max_frames=WORK, max_batches=in_flight)
    batches = 60 * in_flight
    passed_s = run_in_flight(pace, in_flight, batches)
    assert pace.throughput == pytest.approx(batches * WORK / passed_s, rel=0.1)
    assert pace.batch_s(WORK) == pytest.approx(BATCH_S, rel=0.1), "a batch takes as long as before"
    assert pace.interval_s(WORK) == pytest.approx(BATCH_S / in_flight, rel=0.1)


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), min_size=1, max_size=60), st.integers(1, 5))
def test_all_batches_together_are_charged_the_time_in_which_any_was_in_flight(
    steps: list[tuple[float, bool]], most: int
) -> None:
    """Whatever begins and ends in whatever order, idle times between them."""
    pace = WorkerPace(SETTINGS, max_batches=most)
    charged_s = busy_s = now_s = 0.0
    running: list[int] = []
    for number, (passed_s, begins) in enumerate(steps):
        now_s += passed_s
        busy_s += passed_s if running else 0.0
        if begins and len(running) < most:
            pace.batch_starts(number, WORK, now_s)
            running.append(number)
        elif running:
            batch = running.pop(0)
            held = pace._in_flight[batch]
            pace.note_batch(1.0, WORK, now_s, batch)
            charged_s += held.charged_s
            assert held.charged_s <= held.elapsed_s + 1e-9
    assert charged_s + sum(held.charged_s for held in pace._in_flight.values()) <= busy_s + 1e-6
    for batch in running:
        held = pace._in_flight[batch]
        pace.note_batch(1.0, WORK, now_s, batch)
        charged_s += held.charged_s
    assert charged_s == pytest.approx(busy_s)


@given(st.lists(st.tuples(st.floats(0.001, 5.0), st.integers(1, 16)), min_size=1, max_size=30), st.integers(0, 100))
def test_one_batch_at_a_time_is_charged_its_own_time_to_the_bit(batches: list[tuple[float, int]], frames: int) -> None:
    told, untold = WorkerPace(SETTINGS, max_frames=4), WorkerPace(SETTINGS, max_frames=4)
    now_s = 0.1
    for number, (batch_s, work) in enumerate(batches):
        told.batch_starts(number, work, now_s)
        now_s += batch_s
        told.note_batch(batch_s, work, now_s, number)
        now_s += 0.3  # idle
        untold.note_batch(batch_s, work)
    assert told.interval_s(4) == told.batch_s(4)
    assert (told.begins_s(frames), told.wait_s(frames)) == (untold.begins_s(frames), untold.wait_s(frames))


def test_waits_are_shorter_by_what_is_done_at_the_same_time() -> None:
    one = WorkerPace(SETTINGS, max_frames=WORK)
    three = WorkerPace(SETTINGS, max_frames=WORK, max_batches=3)
    run_in_flight(one, 1, 60)
    run_in_flight(three, 3, 180)
    # Three batches of four begin at once.
    assert [one.begins_s(ahead) > 0 for ahead in (3, 4, 11, 12)] == [False, True, True, True]
    assert [three.begins_s(ahead) > 0 for ahead in (3, 4, 11, 12)] == [False, False, False, True]
    assert three.wait_s(11) == pytest.approx(BATCH_S, rel=0.1)
    assert three.wait_s(119) == pytest.approx(BATCH_S * (1 + 27 / 3), rel=0.1)
    assert one.wait_s(119) == pytest.approx(BATCH_S * 30, rel=0.1)


def test_a_pool_of_batches_admits_what_one_at_a_time_could_not() -> None:
    """The first burst of a worker that has only ever seen one batch at a time is not turned away."""
    admitted = []
    for most in (1, 3):
        worker = session()
        worker.take_looks(WORK, 0.0, max_batches=most)
        for _ in range(50):
            worker.note_batch(2.0, WORK)
        for index in range(40):
            receive(worker, f"c{index}", remaining_s=4.5)
        admitted.append(worker.unfinished())
    assert admitted[0] < admitted[1]
    assert admitted[1] >= 3 * WORK


def lease_renewals(worker: WorkerSession, from_s: float, until_s: float) -> set[str]:
    """Cameras whose edges hear of the worker while time passes."""
    worker.take_effects()
    for step in range(round(2 * from_s), round(2 * until_s)):
        worker.tick(step / 2)
    return {
        effect.topic.rsplit("/", 1)[1]
        for effect in worker.take_effects()
        if isinstance(effect, SendControl) and isinstance(effect.message, Accept)
    }


def test_a_batch_that_hangs_stops_the_leases_of_its_own_frames_alone() -> None:
    worker = session()
    for _ in range(50):
        worker.note_batch(0.1, 1)
    for camera in ("hangs", "goes-on"):
        receive(worker, camera, remaining_s=10_000.0)
    stalled_s = SETTINGS.max_lease_s + 1.0
    (first,) = worker.take_looks(1, 0.0, max_batches=2)
    assert lease_renewals(worker, 0.0, stalled_s) == {"hangs", "goes-on"}
    (second,) = worker.take_looks(1, stalled_s, max_batches=2)
    assert (first.camera, second.camera) == ("hangs", "goes-on")
    assert lease_renewals(worker, stalled_s, 2 * stalled_s) == {"goes-on"}
    receive(worker, "waits", remaining_s=10_000.0)
    assert lease_renewals(worker, 2 * stalled_s, 4 * stalled_s) <= {"waits"}, "both hang now"
    assert lease_renewals(worker, 4 * stalled_s, 6 * stalled_s) == set(), "and no further batch can begin"
    worker.note_batch(1.0, 1, 6 * stalled_s, second.batch)
    assert lease_renewals(worker, 6 * stalled_s, 7 * stalled_s) == {"goes-on", "waits"}


def test_a_batch_that_fails_ends_and_teaches_nothing() -> None:
    worker = session()
    for _ in range(50):
        worker.note_batch(1.0, 1)
    before = worker.throughput()
    receive(worker, "gate", remaining_s=1_000.0)
    (look,) = worker.take_looks(1, 0.0)
    worker.note_batch(0.001, 0, 0.001, look.batch)
    assert worker.throughput() == before, "an engine that refuses at once is not fast"
    assert lease_renewals(worker, 100.0, 101.0) == {"gate"}, "and it does not hang either"


def test_the_result_of_a_batch_that_a_frame_is_no_more_in_changes_nothing() -> None:
    """Opened again while its first batch is in flight, the frame is in a second one; the first ends last."""
    worker = session()
    receive(worker, "gate")
    (old,) = worker.take_looks(1, 0.0, max_batches=2)
    worker.receive_gone("gate", Gone(camera="gate", frame=FrameId(7, 0), attempt=1))
    assert worker.unfinished() == 0
    receive(worker, "gate")
    (new,) = worker.take_looks(1, 0.5, max_batches=2)
    answer = [LookAnswer(query.query_id, "stale", 1.0) for query in old.queries]
    worker.finish_look(old, answer, 1.0)
    (frame,) = worker.frames()
    assert (frame.stage, worker.counters["look_in_vain"], worker.outcomes()) == (WorkerStage.LOOKING, 1, {})
    worker.finish_look(new, [LookAnswer(query.query_id, "fresh", 1.0) for query in new.queries], 1.5)
    assert worker.outcomes() == {("answered", "standing"): 1}


def test_batches_may_end_in_any_order() -> None:
    worker = session()
    for index in range(3):
        receive(worker, f"c{index}")
    looks = [look for _ in range(3) for look in worker.take_looks(1, 0.0, max_batches=3)]
    assert len({look.batch for look in looks}) == 3
    for now_s, index in ((1.0, 2), (2.0, 0), (3.0, 1)):
        look = looks[index]
        worker.note_batch(now_s, look.work, now_s, look.batch)
        worker.finish_look(look, [LookAnswer(query.query_id, "yes", 1.0) for query in look.queries], now_s)
    assert worker.unfinished() == 0
    assert worker.outcomes() == {("answered", "standing"): 3}


def test_an_engine_that_fails_is_told_from_a_model_that_fails() -> None:
    worker = session()
    receive(worker, "gate")
    (look,) = worker.take_looks(1, 0.0)
    (query,) = look.queries
    worker.finish_look(look, [LookAnswer(query.query_id, "", 0.0, "out of reach", failed="engine")], 0.1)
    (answer,) = [effect.message for effect in worker.take_effects() if effect.message.__class__.__name__ == "Answer"]
    assert answer.reason == "engine: out of reach"  # type: ignore[union-attr]
    assert worker.counters["query_failed_engine"] == 1
