"""A measurement that Ctrl-C breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pipeline.node.runtime import Stop

T = TypeVar("T")


async def unless_stopped(measurement: Coroutine[Any, Any, T], stop: Stop) -> T | None:
    """The result of a measurement; None when the process is told to stop before.

    Nothing is kept of a measurement that was broken off: its folder and its processes go.
    """
    stop.set_ready()
    measuring = asyncio.ensure_future(measurement)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({measuring, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if measuring.done():
        return measuring.result()
    measuring.cancel()
    await asyncio.gather(measuring, return_exceptions=True)
    return None
