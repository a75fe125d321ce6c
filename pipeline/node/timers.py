"""Lets time pass for a protocol session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

from pipeline.node.clock import Clock

TICK_S: Final = 0.05
"""Resolution of deadlines and leases; a sixth of the margin by which a worker's session finalises early."""


class SessionTimers:
    """Ticks a session when it is due; any input may make it due earlier.

    Args:
        next_wake_s: when the session is due, None for never.
        tick: called with the time when it is.
        clock: monotonic time.
    """

    def __init__(self, next_wake_s: Callable[[], float | None], tick: Callable[[float], None], clock: Clock) -> None:
        self._next_wake_s = next_wake_s
        self._tick = tick
        self._clock = clock
        self._rearmed = asyncio.Event()
        self._ticked_s = -inf

    def rearm(self) -> None:
        """The session may be due at another time than before."""
        self._rearmed.set()

    async def step(self) -> None:
        """Wait until the session is due or :meth:`rearm` is called; tick it if it is due."""
        due_s = self._next_wake_s()
        self._rearmed.clear()
        try:
            async with asyncio.timeout(None if due_s is None else max(TICK_S, due_s - self._clock.now_s())):
                await self._rearmed.wait()
        except TimeoutError:
            self._tick_now()
        else:
            # Under a flood something wakes this task before each timeout; what is due is due all the same.
            if due_s is not None and self._clock.now_s() >= max(due_s, self._ticked_s + TICK_S):
                self._tick_now()

    def _tick_now(self) -> None:
        self._ticked_s = self._clock.now_s()
        self._tick(self._ticked_s)
