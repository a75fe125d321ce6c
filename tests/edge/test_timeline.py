from __future__ import annotations

from itertools import pairwise

import pytest

from edge_nodes.sources.timeline import MAX_GAP_S, Timeline

PERIOD_S = 0.1


def placed(stamps: list[float | None], period_s: float | None = PERIOD_S) -> tuple[list[float], int]:
    timeline = Timeline(period_s)
    return [timeline.place(stamp) for stamp in stamps], timeline.splices


def pass_from(start_s: float, count: int = 5) -> list[float | None]:
    return [start_s + PERIOD_S * number for number in range(count)]


def even(count: int) -> list[float]:
    return [PERIOD_S * number for number in range(count)]


@pytest.mark.parametrize("start_s", [0.0, -4.0, 95_443.7])
def test_time_counts_from_the_first_stamp(start_s: float) -> None:
    times, splices = placed(pass_from(start_s))
    assert times == pytest.approx(even(5))
    assert splices == 0


@pytest.mark.parametrize("jump_s", [95_443.7, MAX_GAP_S + 0.2, -1.0, -95_443.7])
def test_after_a_jump_either_way_the_video_goes_on_at_its_pace(jump_s: float) -> None:
    times, splices = placed([*pass_from(0.0), *pass_from(0.4 + jump_s)])
    assert times == pytest.approx(even(10))
    assert splices == 1


def test_every_jump_counts() -> None:
    times, splices = placed([*pass_from(0.0), *pass_from(500.0), *pass_from(3.0)])
    assert times == pytest.approx(even(15))
    assert splices == 2


def test_a_pause_of_seconds_is_no_splice() -> None:
    times, splices = placed([0.0, 0.1, 5.0, 5.1])
    assert times == pytest.approx([0.0, 0.1, 5.0, 5.1])
    assert splices == 0


def test_a_file_that_announces_a_slow_rate_may_have_long_gaps() -> None:
    times, splices = placed([0.0, 60.0, 120.0, 4000.0], period_s=60.0)
    assert times == pytest.approx([0.0, 60.0, 120.0, 130.0])
    assert splices == 1


def test_jitter_goes_forwards_and_does_not_add_up() -> None:
    times, splices = placed([0.0, 0.1, 0.2, 0.2, 0.15, 0.3, 0.4])
    assert all(low < high for low, high in pairwise(times))
    assert times[-2:] == pytest.approx([0.3, 0.4])
    assert splices == 0


@pytest.mark.parametrize("stamps", [[7.0] * 50, [7.0, 7.3] * 25])
def test_stamps_that_stand_still_are_not_believed(stamps: list[float | None]) -> None:
    times, splices = placed(stamps)
    assert all(low < high for low, high in pairwise(times))
    assert 4.0 < times[-1] < 15.0
    assert splices >= 1


def test_frames_without_stamps_come_at_the_announced_rate() -> None:
    assert placed([None] * 5)[0] == pytest.approx(even(5))
    assert placed([None] * 3, period_s=None)[0] == pytest.approx([0.0, 0.04, 0.08])


@pytest.mark.parametrize("period_s", [1e9, 1e-9, -1.0, 0.0])
def test_an_absurd_rate_freezes_nothing(period_s: float) -> None:
    times, _ = placed([0.0, 1e12, None], period_s)
    assert times[-1] <= 2 * MAX_GAP_S
