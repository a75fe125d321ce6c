from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.bucket import UplinkBucket

SIZES = st.lists(st.tuples(st.integers(1, 4000), st.floats(0, 2)), min_size=1, max_size=60)


@given(rate_kbps=st.floats(1, 10_000), burst_s=st.floats(0, 0.5), messages=SIZES)
def test_no_window_of_time_carries_more_than_rate_burst_and_one_message(
    rate_kbps: float, burst_s: float, messages: list[tuple[int, float]]
) -> None:
    bucket = UplinkBucket(rate_kbps, burst_s)
    bytes_per_s = rate_kbps * 125
    now_s = 50.0
    departures: list[tuple[float, int]] = []
    for size_bytes, pause_s in messages:
        now_s += pause_s
        now_s += bucket.wait_s(now_s)
        bucket.charge(size_bytes, now_s)
        departures.append((now_s, size_bytes))
    for first in range(len(departures)):
        for last in range(first, len(departures)):
            window_s = departures[last][0] - departures[first][0]
            carried = sum(size for _, size in departures[first : last + 1])
            largest = max(size for _, size in departures[first : last + 1])
            assert carried <= bytes_per_s * (window_s + burst_s) + largest + 1e-3


@given(rate_kbps=st.floats(1, 10_000), messages=SIZES)
def test_a_full_queue_uses_the_whole_rate(rate_kbps: float, messages: list[tuple[int, float]]) -> None:
    bucket = UplinkBucket(rate_kbps, 0.02)
    now_s = 0.0
    for size_bytes, _ in messages:
        now_s += bucket.wait_s(now_s)
        bucket.charge(size_bytes, now_s)
    total_s = sum(size for size, _ in messages) / (rate_kbps * 125)
    assert now_s <= total_s + 1e-6
    assert bucket.backlog_s(now_s) <= total_s - now_s + 1e-6


def test_a_late_timer_does_not_slow_a_fast_uplink_down() -> None:
    bucket = UplinkBucket(10_000)
    now_s, late_s = 0.0, 0.001
    for _ in range(1000):
        wait_s = bucket.wait_s(now_s)
        now_s += wait_s + (late_s if wait_s else 0.0)
        bucket.charge(400, now_s)
    assert now_s == pytest.approx(1000 * 400 / 1_250_000, abs=0.03)


def test_without_a_rate_nothing_waits() -> None:
    bucket = UplinkBucket(None)
    bucket.charge(10**9, 1.0)
    assert bucket.wait_s(1.0) == 0.0


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0"):
        UplinkBucket(0)
