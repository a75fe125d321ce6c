"""A worker's timers run while messages come faster than they are handled."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from cloud_workers.node import WorkerNode


async def test_what_is_due_is_done_though_something_wakes_the_timers_before_each_timeout() -> None:
    ticks: list[float] = []
    time_s = iter(range(100))
    woken = asyncio.Event()
    node = SimpleNamespace(
        _session=SimpleNamespace(next_wake_s=lambda: 0.5, tick=ticks.append),
        _timers_due=woken,
        _clock=lambda: float(next(time_s)),
        _ticked_s=float("-inf"),
        _hand_on=lambda: None,
    )
    node._tick_now = lambda: WorkerNode._tick_now(cast(Any, node))
    for _ in range(3):
        asyncio.get_running_loop().call_soon(woken.set)
        await WorkerNode._tick_once(cast(Any, node))
    assert len(ticks) == 3
