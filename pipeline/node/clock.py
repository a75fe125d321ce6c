"""The monotonic clock of a process, as something that a test can turn."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time, and waiting for it."""

    def now_s(self) -> float:
        """Seconds since an arbitrary moment."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait; not at all for zero or less."""
        ...


def wall_clock() -> tuple[float, float]:
    """Seconds of UTC as the device knows them, and seconds since it started, those of its sleep included."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time(), time.monotonic()


class MonotonicClock:
    """The real one."""

    def now_s(self) -> float:
        """Seconds on this process' monotonic clock."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait, but let other tasks run in any case."""
        await asyncio.sleep(max(0.0, delay_s))
