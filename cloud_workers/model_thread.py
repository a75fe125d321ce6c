"""The one thread that runs the model, so that the event loop never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class ModelThread:
    """Runs calls one after the other in a thread of its own; a context manager.

    Args:
        threads: threads that torch may use within a call; None lets torch decide.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model", initializer=self._set_threads)

    def _set_threads(self) -> None:
        # OpenMP keeps this number per thread: it must be set in the one that computes.
        if self._threads is not None:
            torch.set_num_threads(self._threads)

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in the thread and wait for its result; what it raises is raised here."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Waiting here would stop the loop for the rest of a batch; the interpreter waits for the thread at its end.
        self._executor.shutdown(wait=False, cancel_futures=True)
