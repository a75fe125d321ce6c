"""When to connect again, without a clock."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.bus.backoff import Backoff
from pipeline.bus.reconnecting import SILENT_ENDS, TAKEOVER_BACKOFF, Ending, Reconnecting

SOON = Backoff(initial_s=1.0, maximum_s=8.0, growth=2.0, stable_s=10.0)
TAKEOVER = Backoff(initial_s=100.0, maximum_s=400.0, growth=2.0, stable_s=1000.0)
LONGEST = 1.0


def waits() -> Reconnecting:
    return Reconnecting(SOON, TAKEOVER)


def after(state: Reconnecting, ending: Ending, lived_s: float) -> float:
    return state.delay_s(state.lost(ending, lived_s), LONGEST)


def test_failed_attempts_wait_longer_and_a_stable_connection_ends_the_series() -> None:
    state = waits()
    assert [state.attempt_failed(LONGEST) for _ in range(5)] == [1, 2, 4, 8, 8]
    assert after(state, Ending.OTHER, SOON.stable_s) == 1
    assert after(state, Ending.OTHER, SOON.stable_s / 2) == 2


def test_who_was_thrown_out_waits_long_and_longer_also_when_its_connections_live_between() -> None:
    state = waits()
    lives_s = [5000.0, 0.1, 120.0, 500.0, 999.0]
    assert [after(state, Ending.TAKEN_OVER, lived_s) for lived_s in lives_s] == [100, 200, 400, 400, 400]
    assert after(state, Ending.TAKEN_OVER, TAKEOVER.stable_s) == 100
    assert TAKEOVER_BACKOFF.stable_s > TAKEOVER_BACKOFF.maximum_s, (
        "a series ends only when the other had its turn and did not come"
    )


def test_silent_ends_in_a_row_mean_another_process_and_a_broker_that_was_away_does_not() -> None:
    state = waits()
    lost = [state.lost(Ending.SILENT, lived_s) for lived_s in (5000.0, 0.1, 0.1, 0.1)]
    assert lost == [count >= SILENT_ENDS for count in (1, 2, 3, 4)]
    between: tuple[Callable[[Reconnecting], object], ...] = (
        lambda state: state.attempt_failed(LONGEST),
        lambda state: state.lost(Ending.OTHER, 0.1),
        lambda state: state.lost(Ending.SILENT, SOON.stable_s),
    )
    for event in between:
        state = waits()
        assert not any(state.lost(Ending.SILENT, 0.1) for _ in range(SILENT_ENDS - 1))
        event(state)
        assert not state.lost(Ending.SILENT, 0.1)
