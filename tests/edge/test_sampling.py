from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_nodes.sampling import Sampler


@given(
    interval_s=st.floats(0.02, 100),
    start_s=st.floats(0, 1e6),
    delays=st.lists(st.floats(0, 300), max_size=30),
)
def test_the_next_slot_is_never_in_the_past_and_no_slot_is_lost(
    interval_s: float, start_s: float, delays: list[float]
) -> None:
    sampler = Sampler(interval_s, start_s)
    for taken, delay_s in enumerate(delays, 1):
        before_s = sampler.due_s
        now_s = before_s + delay_s
        sampler.taken(now_s)
        assert sampler.due_s > before_s
        assert sampler.due_s >= now_s - 1e-6 * max(now_s, 1)
        slots = round((sampler.due_s - start_s) / interval_s)
        assert slots == taken + sampler.missed


def test_a_frame_in_time_misses_nothing() -> None:
    sampler = Sampler(0.5, 10.0)
    for expected_s in (10.0, 10.5, 11.0):
        assert sampler.due_s == expected_s
        sampler.taken(expected_s + 0.1)
    assert sampler.missed == 0


def test_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="interval"):
        Sampler(0.0, 0.0)
