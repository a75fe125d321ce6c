"""Waiting for what nothing tells of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_S = 30.0


async def until(condition: Callable[[], object]) -> None:
    """Let everything else run until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
