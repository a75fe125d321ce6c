"""The one thread that runs the model, so that the event loop never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import torch

from pipeline.node.work_thread import WorkThread

P = ParamSpec("P")
R = TypeVar("R")


class ModelThread:
    """Runs calls one after the other in a thread of its own; a context manager.

    Leaving it waits for nothing, and neither does the end of the process: a long batch must not outlive a drain.

    Args:
        threads: threads that torch may use within a call; None lets torch decide.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._set = threads is None
        self._thread = WorkThread("model")

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in the thread and wait for its result; what it raises is raised here."""

        def work() -> R:
            self._set_threads()
            return function(*args, **kwargs)

        return await self._thread.call(work)

    def _set_threads(self) -> None:
        if not self._set and self._threads is not None:
            # OpenMP keeps this number per thread: it must be set in the one that computes.
            torch.set_num_threads(self._threads)
            self._set = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.end()
