"""The timers of a session run while messages come faster than they are handled."""

from __future__ import annotations

import asyncio
from itertools import count

from pipeline.node.clock import MonotonicClock
from pipeline.node.timers import SessionTimers


class CountingClock(MonotonicClock):
    """Each look at it takes a second."""

    def __init__(self) -> None:
        self._seconds = count()

    def now_s(self) -> float:
        return float(next(self._seconds))


async def test_what_is_due_is_done_though_something_wakes_the_timers_before_each_timeout() -> None:
    ticks: list[float] = []
    timers = SessionTimers(lambda: 0.5, ticks.append, CountingClock())
    for _ in range(3):
        asyncio.get_running_loop().call_soon(timers.rearm)
        await timers.step()
    assert len(ticks) == 3
