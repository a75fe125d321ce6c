"""Waiting for one of several tasks."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.node.tasks import first_of
from schemas.errors import SourceError


async def test_first_of_passes_errors_on_and_leaves_nothing_behind() -> None:
    async def fails() -> None:
        raise SourceError("a", "b")

    forever = asyncio.Event()
    with pytest.raises(SourceError):
        await first_of(forever.wait(), fails())
    await first_of(forever.wait(), asyncio.sleep(0))
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
