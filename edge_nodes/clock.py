"""The edge's monotonic clock, as something that a test can turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol


class Clock(Protocol):
    """Monotonic time, and waiting for it."""

    def now_s(self) -> float:
        """Seconds since an arbitrary moment."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait; not at all for zero or less."""
        ...


class MonotonicClock:
    """The real one."""

    def now_s(self) -> float:
        """Seconds on this process' monotonic clock."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait, but let other tasks run in any case."""
        await asyncio.sleep(max(0.0, delay_s))


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of several ends; the others are cancelled. What it raises, this raises."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
