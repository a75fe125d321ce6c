"""The pure parts of live sources: states, key frames, lag."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_nodes.sources.key_frames import MAX_PACKETS_BEFORE_KEY, KeyFrames
from edge_nodes.sources.lag import SETTLE_S, Lag
from edge_nodes.sources.state import SourceMachine, SourceState
from schemas.types import SourceReason


def test_a_source_goes_through_its_states() -> None:
    machine = SourceMachine()
    assert (machine.state, machine.up) == (SourceState.CONNECTING, False)
    assert machine.shows()
    assert (machine.state, machine.up, machine.reason) == (SourceState.RUNNING, True, None)
    assert not machine.shows(), "no news"
    assert machine.silent()
    assert (machine.state, machine.reason) == (SourceState.STALLED, SourceReason.TIMEOUT)
    machine.lost(SourceReason.TIMEOUT)
    machine.opening()
    assert (machine.state, machine.reason) == (SourceState.CONNECTING, SourceReason.TIMEOUT), "why is still known"
    machine.shows()
    machine.ended()
    assert (machine.state, machine.up, machine.reason) == (SourceState.ENDED, False, SourceReason.ENDED)


@pytest.mark.parametrize("reason", SourceReason)
def test_only_what_was_running_can_stall(reason: SourceReason) -> None:
    machine = SourceMachine()
    machine.lost(reason)
    assert machine.state is SourceState.FAILED
    machine.opening()
    machine.shows()
    machine.lost(reason)
    stalled = reason is SourceReason.TIMEOUT
    assert machine.state is (SourceState.STALLED if stalled else SourceState.FAILED)
    assert machine.reason is reason


def packets(count: int, every: int, period_s: float = 0.1, start: int = 0) -> list[tuple[bool, float]]:
    return [(number % every == 0, number * period_s) for number in range(start, start + count)]


def wanted(keys: KeyFrames, sent: list[tuple[bool, float]]) -> list[bool]:
    return [keys.wanted(key, stamp_s) for key, stamp_s in sent]


def test_at_a_long_interval_only_key_frames_are_decoded_once_their_distance_is_known() -> None:
    keys = KeyFrames(interval_s=5.0)
    taken = wanted(keys, packets(50, every=10))  # a key frame a second
    assert all(taken[:20])
    assert taken[20:] == [number % 10 == 0 for number in range(20, 50)]
    assert keys.only
    assert keys.distance_s == pytest.approx(1.0)


def test_at_a_short_interval_every_frame_is_decoded() -> None:
    keys = KeyFrames(interval_s=1.0)
    assert all(wanted(keys, packets(100, every=20)))
    assert not keys.only


def test_a_camera_whose_key_frames_become_rare_is_decoded_in_full_from_a_key_frame_on() -> None:
    keys = KeyFrames(interval_s=5.0)
    wanted(keys, packets(31, every=10))
    assert keys.only
    assert wanted(keys, [(False, 9.0), (True, 13.0), (False, 13.1)]) == [False, True, True]


def test_what_comes_before_the_first_key_frame_is_not_decoded() -> None:
    keys = KeyFrames(interval_s=1.0)
    assert wanted(keys, [(False, 0.1), (False, 0.2), (True, 0.3), (False, 0.4)]) == [False, False, True, True]


def test_a_stream_without_key_frames_is_decoded_all_the_same() -> None:
    keys = KeyFrames(interval_s=100.0)
    taken = wanted(keys, [(False, number / 10) for number in range(MAX_PACKETS_BEFORE_KEY + 5)])
    assert taken == [False] * (MAX_PACKETS_BEFORE_KEY - 1) + [True] * 6


def test_stamps_that_jump_back_measure_nothing() -> None:
    keys = KeyFrames(interval_s=5.0)
    wanted(keys, packets(31, every=10))
    assert keys.wanted(True, -100.0)
    assert (keys.only, keys.distance_s) == (False, None)


@given(st.lists(st.tuples(st.booleans(), st.none() | st.floats(-1e9, 1e9)), max_size=60), st.floats(0.02, 1e5))
def test_a_key_frame_is_always_decoded_and_nothing_else_while_only_key_frames_are(
    sent: list[tuple[bool, float | None]], interval_s: float
) -> None:
    keys = KeyFrames(interval_s)
    for key, stamp_s in sent:
        taken = keys.wanted(key, stamp_s)
        assert taken or not key
        assert key or not (taken and keys.only)
        assert not keys.only or (keys.distance_s is not None and keys.distance_s < interval_s)


def test_frames_that_waited_in_a_buffer_are_as_old_as_they_are() -> None:
    lag = Lag()
    assert [lag.place(number / 10, 100 + number / 10) for number in range(10)] == pytest.approx([0.0] * 10)
    # Seven seconds of silence, then what had piled up, at once.
    late = [lag.place(1.0 + number / 10, 108.0) for number in range(70)]
    assert late == pytest.approx([7.0 - number / 10 for number in range(70)], abs=0.02)
    assert lag.place(8.1, 108.1) == pytest.approx(0.0, abs=0.02)


def test_a_camera_that_paused_without_counting_it_is_believed_after_a_while() -> None:
    lag = Lag()
    for number in range(10):
        lag.place(number / 10, number / 10)
    lags = [lag.place(1 + number / 10, 31 + number / 10) for number in range(100)]
    assert lags[0] == pytest.approx(30.0, abs=0.1)
    settled = round(SETTLE_S * 10)
    assert lags[settled + 1 :] == pytest.approx([0.0] * (99 - settled), abs=0.01)


@pytest.mark.parametrize("drift", [0.9995, 1.0005])
def test_a_clock_that_drifts_adds_up_to_nothing(drift: float) -> None:
    lag = Lag()
    assert max(lag.place(number * drift, float(number)) for number in range(100_000)) < 0.01


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 10)), max_size=50))
def test_no_frame_comes_from_the_future(steps: list[tuple[float, float]]) -> None:
    lag, arrival_s = Lag(), 0.0
    for stamp_s, step_s in steps:
        arrival_s += step_s
        assert lag.place(stamp_s, arrival_s) >= 0.0


def test_a_stream_that_begins_with_old_frames_catches_up() -> None:
    lag = Lag()
    catching_up = []
    for number in range(25):
        lag.place(number / 10, max(2.0, number / 10))  # twenty frames were read to learn what the stream is
        catching_up.append(lag.catching_up)
    assert catching_up == [True] * 21 + [False] * 4
