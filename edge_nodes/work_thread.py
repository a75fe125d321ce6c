"""One thread for a library that blocks and must not be entered twice at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WorkThread:
    """Runs calls one after the other in a thread of its own.

    A caller that is cancelled leaves its call running; the next one waits for it.

    Args:
        name: name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in the thread and wait for its result."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    async def close(self, last: Callable[[], None] | None = None) -> None:
        """Call ``last`` after all calls before it, then end the thread."""
        if last is not None:
            await self.call(last)
        self._executor.shutdown(wait=False)
