from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_nodes.departures import LANE_LIMITS, Departure, DepartureQueue, Lane

CAMERAS = (None, "gate", "yard", "dock")


def departure(lane: Lane, camera: str | None, label: str = "x") -> Departure:
    return Departure(lane, camera, label, "topic", lambda _now_s: None)


@given(st.lists(st.tuples(st.sampled_from(Lane), st.sampled_from(CAMERAS)), max_size=80))
def test_everything_leaves_once_and_in_order_within_camera_and_lane(entries: list[tuple[Lane, str | None]]) -> None:
    queue = DepartureQueue()
    for number, (lane, camera) in enumerate(entries):
        assert queue.put(departure(lane, camera, str(number)))
    left: list[Departure] = []
    while (following := queue.pop()) is not None:
        left.append(following)
    assert len(queue) == 0
    assert sorted(int(entry.label) for entry in left) == list(range(len(entries)))
    for lane in Lane:
        for camera in CAMERAS:
            mine = [int(entry.label) for entry in left if (entry.lane, entry.camera) == (lane, camera)]
            assert mine == sorted(mine)


@given(st.lists(st.sampled_from(CAMERAS), min_size=1, max_size=60))
def test_no_camera_is_served_twice_while_another_waits_for_its_first_turn(cameras: list[str | None]) -> None:
    queue = DepartureQueue()
    for camera in cameras:
        queue.put(departure(Lane.OPEN, camera))
    turns: Counter[str | None] = Counter()
    waiting = Counter(cameras)
    while (following := queue.pop()) is not None:
        turns[following.camera] += 1
        waiting[following.camera] -= 1
        others = [turns[camera] for camera in waiting if waiting[camera]]
        assert all(turns[following.camera] <= other + 1 for other in others)


def test_frames_under_way_go_first_and_opens_and_reports_alternate() -> None:
    queue = DepartureQueue()
    for number in range(3):
        queue.put(departure(Lane.REPORT, "gate", f"report{number}"))
        queue.put(departure(Lane.OPEN, "gate", f"open{number}"))
    queue.put(departure(Lane.FRAME_UNDER_WAY, "yard", "chunk"))
    labels = []
    while (following := queue.pop()) is not None:
        labels.append(following.label)
    assert labels == ["chunk", "open0", "report0", "open1", "report1", "open2", "report2"]


def test_a_full_lane_refuses_and_leaves_the_others_alone() -> None:
    queue = DepartureQueue()
    limit = LANE_LIMITS[Lane.FRAME_UNDER_WAY]
    assert all(queue.put(departure(Lane.FRAME_UNDER_WAY, "gate")) for _ in range(limit))
    assert not queue.put(departure(Lane.FRAME_UNDER_WAY, "gate"))
    assert queue.put(departure(Lane.OPEN, "gate"))
    assert (queue.count(Lane.FRAME_UNDER_WAY), queue.waiting(Lane.OPEN, "gate")) == (limit, 1)
