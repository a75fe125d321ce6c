from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.protocol.departure_queue import COMPARED_MESSAGES, LONG_WAIT_TURN, MAX_WAIT_S, DepartureQueue, feasible
from pipeline.protocol.departures import TRAFFIC_CLASS_LIMITS, Departure, TrafficClass
from pipeline.protocol.effects import Utility, UtilityFunction
from schemas.types import FrameId

CAMERAS = ("gate", "yard", "dock")
FAR_S = 1e6
RATE_KBPS = 8.0
"""1,000 bytes a second."""


def always(gain: float = 1.0, *, leave_by_s: float = FAR_S, message_bytes: int = 100) -> UtilityFunction:
    def utility(now_s: float) -> Utility | None:
        return Utility(gain, message_bytes, leave_by_s, leave_by_s + 1.0) if now_s < leave_by_s + 1.0 else None

    return utility


def departure(
    traffic_class: TrafficClass,
    camera: str | None,
    label: str = "x",
    *,
    frame: int = 0,
    utility: UtilityFunction | None = None,
    same_as: str = "",
) -> Departure:
    frame_id = FrameId(1, frame)
    return Departure(
        traffic_class,
        camera,
        label,
        "topic",
        lambda _now_s: None,
        frame=frame_id,
        utility=utility,
        same_as=same_as or None,
    )


def opens(
    queue: DepartureQueue, label: str, utility: UtilityFunction, *, camera: str = "gate", now_s: float = 0.0
) -> None:
    frame = sum(map(ord, label))
    assert queue.put(departure(TrafficClass.OPEN, camera, label, frame=frame, utility=utility), now_s)


def drain(queue: DepartureQueue, now_s: float = 0.0, pause_s: float = 0.0) -> list[str]:
    labels = []
    while (following := queue.pop(now_s)) is not None:
        labels.append(following.label)
        now_s += pause_s
    return labels


UNDER_WAY = TrafficClass.FRAME_UNDER_WAY
kinds = st.tuples(
    st.sampled_from(
        [
            (UNDER_WAY, True),
            (UNDER_WAY, False),
            (TrafficClass.OPEN, True),
            (TrafficClass.REPORT, False),
            (TrafficClass.HISTORY, False),
        ]
    ),
    st.sampled_from(CAMERAS),
    st.integers(0, 2),
    st.floats(0.1, 10.0),
    st.floats(0.0, 20.0),
)


@given(st.lists(kinds, max_size=60), st.sampled_from([None, RATE_KBPS]))
def test_everything_leaves_once_or_is_withdrawn_and_counted(entries: list[tuple], rate_kbps: float | None) -> None:  # type: ignore[type-arg]
    queue = DepartureQueue(rate_kbps)
    for number, ((traffic_class, utilities), camera, frame, gain, leave_by_s) in enumerate(entries):
        utility = always(gain, leave_by_s=leave_by_s) if utilities else None
        assert queue.put(departure(traffic_class, camera, str(number), frame=frame, utility=utility), 0.0)
    assert len(queue) == len(entries)
    left = drain(queue, pause_s=0.2)
    assert len(queue) == 0
    assert [queue.count(traffic_class) for traffic_class in TrafficClass] == [0, 0, 0, 0]
    assert len(set(left)) == len(left)
    assert len(left) + queue.counters.total() == len(entries)


@given(st.lists(kinds, max_size=60))
def test_messages_to_a_worker_about_one_frame_leave_in_order(entries: list[tuple]) -> None:  # type: ignore[type-arg]
    queue = DepartureQueue(RATE_KBPS)
    keys = []
    for number, ((_, utilities), camera, frame, gain, _) in enumerate(entries):
        utility = always(gain) if utilities else None
        queue.put(departure(TrafficClass.FRAME_UNDER_WAY, camera, str(number), frame=frame, utility=utility), 0.0)
        keys.append((camera, frame))
    left = [int(label) for label in drain(queue)]
    for key in set(keys):
        mine = [number for number in left if keys[number] == key]
        assert mine == sorted(mine)


def test_what_gains_most_for_its_bytes_goes_first() -> None:
    queue = DepartureQueue(RATE_KBPS)
    opens(queue, "little", always(1.0))
    opens(queue, "much", always(3.0))
    opens(queue, "large", always(3.0, message_bytes=2000))
    assert drain(queue) == ["much", "little", "large"]


def test_a_tighter_deadline_goes_first_while_all_fit() -> None:
    queue = DepartureQueue(RATE_KBPS)
    opens(queue, "patient", always(3.0, leave_by_s=60.0, message_bytes=1000))
    opens(queue, "urgent", always(1.0, leave_by_s=0.5))
    assert drain(queue) == ["urgent", "patient"]


def test_what_does_not_fit_gives_way_to_what_gains_more() -> None:
    queue = DepartureQueue(RATE_KBPS)
    opens(queue, "little", always(1.0, leave_by_s=1.5, message_bytes=1000))
    opens(queue, "much", always(3.0, leave_by_s=1.6, message_bytes=1000))
    assert queue.pop(0.0).label == "much"  # type: ignore[union-attr]
    assert queue.pop(1.1).label == "little", "too late for it, but nothing else waits"  # type: ignore[union-attr]


def test_what_is_too_late_delays_nothing_and_is_withdrawn_at_its_end() -> None:
    queue = DepartureQueue(RATE_KBPS)
    opens(queue, "late", always(9.0, leave_by_s=-0.5))
    for number in range(4):
        opens(queue, f"open{number}", always(0.1))
    assert queue.pop(0.0).label == "open0"  # type: ignore[union-attr]
    assert drain(queue, 0.6) == ["open1", "open2", "open3"]
    assert queue.counters == {"withdrawn_late_too_late": 1}


def test_a_frame_whose_first_deadline_is_lost_still_competes_for_the_others() -> None:
    def utility(now_s: float) -> Utility:
        return Utility(2.0, 100, 1.0, 9.0) if now_s < 1.0 else Utility(1.0, 100, 8.0, 9.0)

    queue = DepartureQueue(RATE_KBPS)
    opens(queue, "two deadlines", utility)
    opens(queue, "half as good", always(0.5))
    assert drain(queue, 2.0) == ["two deadlines", "half as good"]


def test_what_was_decided_meanwhile_is_withdrawn() -> None:
    wanted = {"first": True, "second": True}

    def utility_of(name: str) -> UtilityFunction:
        return lambda _now_s: Utility(1.0, 100, FAR_S, FAR_S) if wanted[name] else None

    queue = DepartureQueue(RATE_KBPS)
    opens(queue, "first", utility_of("first"))
    opens(queue, "second", utility_of("second"))
    wanted["first"] = False
    assert queue.count(TrafficClass.OPEN) == 2
    opens(queue, "third", always())
    assert queue.count(TrafficClass.OPEN) == 2, "a new message of the camera clears what it has superseded"
    wanted["second"] = False
    assert drain(queue) == ["third"]
    assert queue.counters == {"withdrawn_first_decided": 1, "withdrawn_second_decided": 1}


def test_revoke_and_texts_go_first_and_reports_take_turns_with_the_rest() -> None:
    queue = DepartureQueue(RATE_KBPS)
    for number in range(3):
        queue.put(departure(TrafficClass.REPORT, "gate", f"report{number}"), 0.0)
        opens(queue, f"open{number}", always(10.0 - number))
    queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "yard", "revoke"), 0.0)
    assert drain(queue) == ["revoke", "open0", "report0", "open1", "report1", "open2", "report2"]


def test_a_flood_of_revoke_leaves_every_second_turn_to_the_others() -> None:
    queue = DepartureQueue(RATE_KBPS)
    for number in range(4):
        queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "gate", f"revoke{number}", frame=number), 0.0)
    queue.put(departure(TrafficClass.REPORT, "gate", "report"), 0.0)
    opens(queue, "open", always())
    assert drain(queue) == ["revoke0", "open", "revoke1", "report", "revoke2", "revoke3"]


def test_revoke_leaves_when_the_message_whose_turn_it_is_was_decided() -> None:
    queue = DepartureQueue(RATE_KBPS)
    wanted = [True]
    queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "yard", "revoke0", frame=1), 0.0)
    queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "yard", "revoke1", frame=2), 0.0)
    opens(queue, "open", lambda _now_s: Utility(1.0, 100, FAR_S, FAR_S) if wanted[0] else None)
    assert queue.pop(0.0).label == "revoke0"  # type: ignore[union-attr]
    wanted[0] = False
    assert drain(queue) == ["revoke1"]


def test_revoke_does_not_overtake_the_chunk_of_its_frame() -> None:
    queue = DepartureQueue(RATE_KBPS)
    queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "gate", "chunk", utility=always(0.1)), 0.0)
    opens(queue, "open", always(9.0))
    queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "gate", "revoke"), 0.0)
    assert drain(queue) == ["chunk", "open", "revoke"]


def test_what_waits_is_not_queued_again() -> None:
    queue = DepartureQueue(RATE_KBPS)
    for _ in range(3):
        assert queue.put(
            departure(TrafficClass.FRAME_UNDER_WAY, "gate", "chunk", utility=always(), same_as="16..32"), 0.0
        )
    assert drain(queue) == ["chunk"]
    assert queue.counters == {"merged_chunk": 2}
    for _ in range(2):
        assert queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "gate", "revoke", same_as="revoke"), 0.0)
    assert drain(queue) == ["revoke"]
    assert queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "gate", "chunk", utility=always(), same_as="16..32"), 0.0)
    assert drain(queue) == ["chunk"], "asked again after it has left, it is sent again"


def test_a_full_traffic_class_refuses_and_leaves_the_others_alone() -> None:
    queue = DepartureQueue(RATE_KBPS)
    limit = TRAFFIC_CLASS_LIMITS[TrafficClass.FRAME_UNDER_WAY]
    assert all(queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "gate"), 0.0) for _ in range(limit))
    assert not queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "gate"), 0.0)
    opens(queue, "open", always())
    assert (queue.count(TrafficClass.FRAME_UNDER_WAY), queue.count(TrafficClass.OPEN)) == (limit, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CAMERAS), st.floats(0.5, 50.0)), min_size=1, max_size=8), st.integers(1, 6))
def test_nothing_that_can_be_in_time_starves(competing: list[tuple[str, float]], waiting: int) -> None:
    """A poor message leaves soon after the bound, though richer ones come faster than the uplink goes."""
    queue = DepartureQueue(RATE_KBPS)
    for number in range(waiting):
        opens(queue, f"poor{number}", always(0.01), camera="quiet")
    numbers, flood, now_s, takes_s = itertools.count(), itertools.cycle(competing), 0.0, 0.2
    left: list[str] = []
    while len([label for label in left if label.startswith("poor")]) < waiting:
        for _ in range(2):
            camera, gain = next(flood)
            rich = departure(
                TrafficClass.OPEN, camera, "rich", frame=next(numbers), utility=always(gain, leave_by_s=now_s + 20.0)
            )
            queue.put(rich, now_s)
        left.append(queue.pop(now_s).label)  # type: ignore[union-attr]
        now_s += takes_s
        # Ahead of the last of them: its elders, and once each the cameras that had waited as long.
        turns = LONG_WAIT_TURN * (waiting + len(CAMERAS) + 1)
        assert now_s <= MAX_WAIT_S + turns * takes_s


def test_a_camera_whose_frames_are_always_superseded_gets_its_turn() -> None:
    """Each of its messages waits for a second only; the camera has waited since its first one."""
    queue = DepartureQueue(RATE_KBPS)
    now_s, newest = 0.0, [0]

    def superseded_by_next(number: int) -> Callable[[float], Utility | None]:
        return lambda _now_s: Utility(0.01, 100, FAR_S, FAR_S) if newest[0] == number else None

    for step in itertools.count():
        if step % 5 == 0:
            newest[0] = step
            opens(queue, f"poor{step}", superseded_by_next(step), camera="quiet", now_s=now_s)
        queue.put(departure(TrafficClass.OPEN, "gate", "rich", frame=step, utility=always(5.0)), now_s)
        queue.put(departure(TrafficClass.OPEN, "gate", "rich", frame=-step - 1, utility=always(5.0)), now_s)
        if queue.pop(now_s).label.startswith("poor"):  # type: ignore[union-attr]
            break
        now_s += 0.2
    assert MAX_WAIT_S < now_s <= MAX_WAIT_S + LONG_WAIT_TURN * 0.2 * 2


def test_long_waits_do_not_turn_everything_into_first_come_first_served() -> None:
    queue = DepartureQueue(RATE_KBPS)
    for number in range(40):
        opens(queue, f"poor{number}", always(0.01))
    for number in range(40):
        opens(queue, f"rich{number}", always(5.0))
    left = drain(queue, MAX_WAIT_S + 1.0)[:40]
    assert sum(label.startswith("rich") for label in left) == 40 - 40 // LONG_WAIT_TURN


def test_a_pop_considers_a_bounded_number_of_messages() -> None:
    asked = []

    def utility(now_s: float) -> Utility:
        asked.append(now_s)
        return Utility(1.0, 100, FAR_S, FAR_S)

    queue = DepartureQueue(RATE_KBPS)
    many = 4 * COMPARED_MESSAGES
    for number in range(many):
        queue.put(departure(TrafficClass.OPEN, f"cam{number}", frame=number, utility=utility), 0.0)
    assert len(asked) == many, "each is asked once when it gets its place"
    asked.clear()
    queue.pop(1.0)
    assert len(asked) == 1


def test_a_lone_message_is_asked_when_it_comes_and_when_it_leaves() -> None:
    asked = []

    def utility(now_s: float) -> Utility:
        asked.append(now_s)
        return Utility(1.0, 100, FAR_S, FAR_S)

    queue = DepartureQueue(RATE_KBPS)
    opens(queue, "open", utility)
    assert drain(queue) == ["open"]
    assert len(asked) == 2


@given(st.lists(st.tuples(st.floats(0.1, 9.0), st.floats(0.0, 5.0), st.integers(10, 1500)), max_size=12))
def test_the_feasible_ones_all_leave_in_time(utilities: list[tuple[float, float, int]]) -> None:
    queue = DepartureQueue(RATE_KBPS)
    for number, (gain, leave_by_s, size) in enumerate(utilities):
        utility = always(gain, leave_by_s=leave_by_s, message_bytes=size)
        queue.put(departure(TrafficClass.OPEN, f"cam{number}", frame=number, utility=utility), 0.0)
    candidates = list(queue._competing.values())
    kept = feasible(candidates, 0.0)
    busy_until_s = 0.0
    for waiting in kept:
        busy_until_s += waiting.takes_s
        assert busy_until_s <= waiting.leave_by_s + 1e-9
    by_deadline = sorted(candidates, key=lambda waiting: waiting.leave_by_s)
    ends_s = list(itertools.accumulate(waiting.takes_s for waiting in by_deadline))
    if all(end_s <= waiting.leave_by_s for end_s, waiting in zip(ends_s, by_deadline, strict=True)):
        assert len(kept) == len(candidates), "when all fit, all are kept"


def test_history_leaves_when_nothing_else_waits_whatever_came_first() -> None:
    queue = DepartureQueue(RATE_KBPS)
    for label in ("history 1", "history 2"):
        assert queue.put(departure(TrafficClass.HISTORY, "gate", label), 0.0)
    opens(queue, "late", always(leave_by_s=0.0))
    opens(queue, "live", always())
    assert queue.put(departure(TrafficClass.REPORT, "gate", "report"), 0.0)
    assert queue.put(departure(TrafficClass.FRAME_UNDER_WAY, "gate", "revoke"), 0.0)
    assert len(queue) == 6
    assert queue.count(TrafficClass.HISTORY) == 2

    left = drain(queue, 0.5)
    assert set(left[:4]) == {"late", "live", "report", "revoke"}
    assert left[4:] == ["history 1", "history 2"]
    assert (len(queue), queue.count(TrafficClass.HISTORY)) == (0, 0)


def test_history_leaves_after_live_messages_that_nobody_wants_any_more() -> None:
    queue = DepartureQueue(RATE_KBPS)
    assert queue.put(departure(TrafficClass.HISTORY, "gate", "history"), 0.0)
    opens(queue, "ended", always(leave_by_s=1.0))
    assert drain(queue, 5.0) == ["history"]


def test_history_is_bounded_and_queued_once() -> None:
    queue = DepartureQueue(RATE_KBPS)
    limit = TRAFFIC_CLASS_LIMITS[TrafficClass.HISTORY]
    for number in range(limit):
        assert queue.put(departure(TrafficClass.HISTORY, "gate", str(number), same_as=str(number)), 0.0)
    assert queue.put(departure(TrafficClass.HISTORY, "gate", "0", same_as="0"), 0.0), "merged with the first"
    assert not queue.put(departure(TrafficClass.HISTORY, "gate", "one more"), 0.0)
    assert queue.counters["merged_0"] == 1
    assert len(drain(queue)) == limit
