"""How late the event loop is while something else runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Final, Self

import numpy as np

STEP_S: Final = 0.005


class LoopLag:
    """Wakes up every 5 ms in its context and notes how late it does.

    Attributes:
        lags_ms: how late each time, in milliseconds.
    """

    def __init__(self) -> None:
        self.lags_ms: list[float] = []
        self._task: asyncio.Task[None] | None = None

    def percentile_ms(self, percent: float) -> float:
        """Lag that so many percent of all times do not exceed; 0 without any."""
        return float(np.percentile(self.lags_ms, percent)) if self.lags_ms else 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch(), name="loop lag")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(STEP_S)
            self.lags_ms.append(max(0.0, 1000 * (time.perf_counter() - began_s - STEP_S)))
