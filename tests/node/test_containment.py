"""Bugs of ours: counted by kind, logged once with their traceback, backed off, and fatal to a test run."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from pipeline.config.logs import get_logger
from pipeline.node.containment import MAX_KINDS, RETRY, Containment


class Slept:
    """Waits for no time, and remembers it; ends the loop that sleeps after so many waits."""

    def __init__(self, waits: int) -> None:
        self.delays_s: list[float] = []
        self._waits = waits

    async def __call__(self, delay_s: float) -> None:
        self.delays_s.append(delay_s)
        if len(self.delays_s) == self._waits:
            raise asyncio.CancelledError


def fail() -> None:
    raise KeyError("lost")


@pytest.mark.usefixtures("contained")
def test_an_error_is_counted_each_time_and_logged_once_with_its_traceback() -> None:
    containment = Containment(get_logger(__name__))
    with structlog.testing.capture_logs() as logs:
        for where in ("receive/open", "receive/open", "receive/open", "timers"):
            with containment.around(where):
                fail()
    assert containment.counts == {"receive/open/KeyError": 3, "timers/KeyError": 1}
    assert [entry["kind"] for entry in logs] == ["receive/open/KeyError", "timers/KeyError"]
    assert all(isinstance(entry["exc_info"], KeyError) for entry in logs)


@pytest.mark.usefixtures("contained")
def test_kinds_are_bounded() -> None:
    containment = Containment(get_logger(__name__))
    with structlog.testing.capture_logs() as logs:
        for number in range(MAX_KINDS + 5):
            containment.note(f"kind {number}", ValueError())
    assert len(containment.counts) == MAX_KINDS + 1
    assert containment.counts["other"] == 5
    assert len(logs) == MAX_KINDS + 1


@pytest.mark.usefixtures("contained")
async def test_a_loop_that_fails_for_ever_waits_longer_and_longer() -> None:
    slept = Slept(20)

    async def step() -> None:
        raise RuntimeError("each time")

    with structlog.testing.capture_logs(), pytest.raises(asyncio.CancelledError):
        await Containment(get_logger(__name__), sleep=slept).repeat("timers", step)
    assert slept.delays_s == sorted(slept.delays_s)
    assert (slept.delays_s[0], slept.delays_s[-1]) == (RETRY.initial_s, RETRY.maximum_s)


@pytest.mark.usefixtures("contained")
async def test_a_pass_that_works_ends_the_series() -> None:
    slept, passes = Slept(3), 0

    async def step() -> None:
        nonlocal passes
        passes += 1
        if passes % 2:
            raise RuntimeError("every other time")

    with structlog.testing.capture_logs(), pytest.raises(asyncio.CancelledError):
        await Containment(get_logger(__name__), sleep=slept).repeat("timers", step)
    assert slept.delays_s == [RETRY.initial_s] * 3


def test_a_test_run_fails_on_what_a_process_contains() -> None:
    containment = Containment(get_logger(__name__))
    with structlog.testing.capture_logs(), pytest.raises(KeyError), containment.around("receive/open"):
        fail()
    assert containment.counts.total() == 1
