"""How late the event loop is: whoever waits for it, waits that much longer."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from pipeline.node.metrics import Metrics

PROBE_S: Final = 1.0
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class LoopLag:
    """Measures how much later than asked for the event loop runs something.

    Args:
        metrics: of the process.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._seconds = metrics.seconds(
            "loop_lag_seconds", "How late the event loop runs what is due", buckets=LAG_BUCKETS
        )

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due_s = time.monotonic() + PROBE_S
            await asyncio.sleep(PROBE_S)
            self._seconds.observe(max(0.0, time.monotonic() - due_s))
