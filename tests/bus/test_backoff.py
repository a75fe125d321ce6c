"""Waits between connection attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bus.backoff import Backoff


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_waits_grow_to_the_maximum_with_jitter_over_their_upper_half(failures: int, draw: float) -> None:
    backoff = Backoff(initial_s=0.5, maximum_s=30.0, growth=2.0)
    longest = min(30.0, 0.5 * 2.0 ** min(failures - 1, 100))
    assert longest / 2 <= backoff.delay_s(failures, draw) <= longest


@pytest.mark.parametrize(("initial_s", "maximum_s"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_waits_that_make_no_sense_are_refused(initial_s: float, maximum_s: float) -> None:
    with pytest.raises(ValueError, match="initial_s"):
        Backoff(initial_s, maximum_s)


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40))
def test_an_attempt_comes_at_the_latest_when_the_outage_has_lasted_twice_as_long(draws: list[float]) -> None:
    backoff = Backoff()
    outage_s = 0.0
    for failures, draw in enumerate(draws, start=1):
        wait_s = backoff.delay_s(failures, draw)
        assert wait_s <= min(backoff.maximum_s, backoff.initial_s + outage_s)
        outage_s += wait_s
