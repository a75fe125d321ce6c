"""One thread for a library that blocks and must not be entered twice at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import ParamSpec, Self, TypeVar
from weakref import WeakSet

from schemas.errors import StateError

P = ParamSpec("P")
T = TypeVar("T")


class WorkThread:
    """Runs calls one after the other in a thread of its own.

    A caller that is cancelled leaves its call running; the next one waits for it. The process does not wait for the
    thread when it ends: a call may block for ever, in a file system whose server is dead for example. A context manager
    as well, which ends the thread on leaving and waits for nothing.

    Args:
        name: name of the thread.
        prepare: called in the thread before its first call, for what a library keeps per thread; what it raises, that
            call raises.
    """

    def __init__(self, name: str, *, prepare: Callable[[], None] | None = None) -> None:
        self.name = name
        self._prepare = prepare
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ended = False
        self._began_s: float | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()
        _threads.add(self)

    @property
    def busy(self) -> bool:
        """Whether a call runs."""
        return self._began_s is not None

    @property
    def busy_s(self) -> float:
        """How long the call that runs has taken so far; 0 when none runs."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in the thread and wait for its result.

        Raises:
            StateError: the thread was ended.
        """
        if self._ended:
            raise StateError(f"thread {self.name} has ended")

        def work() -> T:
            if self._prepare is not None:
                self._prepare()
                self._prepare = None
            return function(*args, **kwargs)

        return await asyncio.wrap_future(self._submit(work))

    def end(self, last: Callable[[], None] | None = None) -> Future[None]:
        """End the thread after the calls before, without waiting for it.

        Args:
            last: called at the end.

        Returns:
            Done when that was called.
        """
        self._ended = True
        future = self._submit(last or _nothing)
        self._calls.put(None)
        return future

    async def close(self, last: Callable[[], None] | None = None) -> None:
        """Call ``last`` after all calls before it, then end the thread. Without ``last`` it waits for nothing."""
        future = self.end(last)
        if last is not None:
            # Shielded: who does not wait any longer does not call it off.
            await asyncio.shield(asyncio.wrap_future(future))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        self._calls.put(partial(_perform, work, future))
        return future

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._began_s = time.monotonic()
            call()
            self._began_s = None
            del call  # neither arguments nor result are kept until the next one


def _perform(work: Callable[[], T], future: Future[T]) -> None:
    try:
        if future.set_running_or_notify_cancel():
            future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it belongs to the caller
        future.set_exception(error)
    finally:
        # The traceback of an error holds this frame, and the future holds the error: a cycle would keep all that the
        # call worked with until the garbage collector looks at old objects.
        del work, future


_threads: WeakSet[WorkThread] = WeakSet()


def busy_threads() -> list[str]:
    """Names of the threads whose calls run at this moment."""
    return sorted(thread.name for thread in tuple(_threads) if thread.busy)


def _nothing() -> None:
    pass
