"""Runs a process: event loop, signals, readiness and the two-phase stop.

The first SIGTERM or SIGINT asks the process to drain: take nothing new, finish or resolve what is there. The second,
or the end of the drain time, cancels it. SIGHUP does the same where a terminal hangs up; else it asks a process that
can do so to read its settings again.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from pipeline.config.logs import get_logger
from pipeline.node.service_manager import notify
from pipeline.node.work_thread import busy_threads
from schemas.errors import LatentbusError

_log = get_logger(__name__)

DRAIN_TIMEOUT_S = 15.0
EXIT_NOT_DRAINED = 3
"""Exit status when the drain time ended, or a second signal came, before everything was resolved."""


def software_version() -> str:
    """Version of this software, as it was installed."""
    try:
        return importlib.metadata.version("latentbus")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class Stop:
    """Tells a process when to stop, and others when it is ready.

    Attributes:
        drain_timeout_s: time from the first request until the process is cancelled.
        ready: set once the process does its work.
        reloads: SIGHUP asks for the settings to be read again, unless it comes from a terminal that closes.
    """

    def __init__(self, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        self.drain_timeout_s = drain_timeout_s
        self.ready = asyncio.Event()
        self.reloads = False
        self._reload = asyncio.Event()
        self._requested = asyncio.Event()

    @property
    def requested(self) -> bool:
        """Whether the process was asked to drain."""
        return self._requested.is_set()

    def request(self) -> None:
        """Ask the process to drain; again is harmless."""
        self._requested.set()
        notify("STOPPING=1")

    def request_reload(self) -> None:
        """Ask for the settings to be read again."""
        self._reload.set()

    async def wait_reload(self) -> None:
        """Wait until the settings shall be read again."""
        await self._reload.wait()
        self._reload.clear()

    async def wait(self) -> None:
        """Wait until the process is asked to drain."""
        await self._requested.wait()

    def set_ready(self) -> None:
        """Say that the process does its work now; systemd is told when it listens.

        What was loaded until now stays: the garbage collector need not walk through it again and again.
        """
        if not self.ready.is_set():
            gc.freeze()
            gc.set_threshold(10_000, 20, 20)  # messages make few cycles
            self.ready.set()
            notify("READY=1")


class PartStop(Stop):
    """The stop of one of several nodes in a process: one request stops all, and the process is ready when all are.

    Args:
        whole: of the process.
        waited_for: names of the parts that are not ready, shared by all of them.
        name: of this part.
    """

    def __init__(self, whole: Stop, waited_for: set[str], name: str) -> None:
        super().__init__(whole.drain_timeout_s)
        self._whole = whole
        self._waited_for = waited_for
        self._name = name

    @property
    def requested(self) -> bool:
        """Whether the process was asked to drain."""
        return self._whole.requested

    def request(self) -> None:
        """Ask the whole process to drain."""
        self._whole.request()

    async def wait(self) -> None:
        """Wait until the process is asked to drain."""
        await self._whole.wait()

    def set_ready(self) -> None:
        """Say that this part does its work now."""
        self.ready.set()
        self._waited_for.discard(self._name)
        if not self._waited_for:
            self._whole.set_ready()


def run(main: Callable[[Stop], Awaitable[int]], *, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> int:
    """Run a process to its end.

    Args:
        main: the process; returns its exit status soon after ``Stop.wait`` returns.
        drain_timeout_s: time it has for that.

    Returns:
        What ``main`` returned, or :data:`EXIT_NOT_DRAINED`.

    Raises:
        LatentbusError: the first one that ended ``main``, out of any exception group.
    """
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        return runner.run(supervise(main, drain_timeout_s=drain_timeout_s))


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed, as workers have it; an edge has too few messages to need it."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


def leave_blocked_threads(status: int) -> None:
    """End the process at once when a thread of it is blocked; return when none is.

    A thread whose call returns while the interpreter shuts down would tear the process down with another status.

    Args:
        status: exit status of the process.
    """
    if blocked := busy_threads():
        _log.warning("the process ends while threads are blocked", threads=blocked)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)


async def supervise(main: Callable[[Stop], Awaitable[int]], *, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> int:
    """The same as :func:`run`, in a loop that runs already."""
    stop = Stop(drain_timeout_s)
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(_as_coroutine(main(stop)), name="main")

    def on_signal(number: signal.Signals) -> None:
        if number is signal.SIGHUP and stop.reloads and not stop.requested and not (terminal and not _has_terminal()):
            stop.request_reload()
        elif stop.requested:
            _log.warning("second signal, not waiting any longer", signal=number.name)
            task.cancel()
        else:
            _log.info("draining", signal=number.name, drain_timeout_s=drain_timeout_s)
            stop.request()

    # A terminal that closes hangs up; frames under way are as dear then.
    terminal = _has_terminal()
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, on_signal, number)
    limit = asyncio.create_task(_cancel_after_drain(stop, task), name="drain limit")
    try:
        await asyncio.wait({task})
        if task.cancelled():
            return EXIT_NOT_DRAINED
        return task.result()
    except BaseExceptionGroup as group:
        error = first_latentbus_error(group)
        if error is None:
            raise
        raise error from group
    finally:
        limit.cancel()
        if not task.done():
            # This coroutine itself was cancelled: the process must not outlive it.
            task.cancel()
            await asyncio.wait({task})
        for number in signals:
            loop.remove_signal_handler(number)


def _has_terminal() -> bool:
    """Whether the process has a terminal that is open; one that has hung up cannot be opened any more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def first_latentbus_error(group: BaseExceptionGroup[BaseException]) -> LatentbusError | None:
    """The first error of ours in a group, if nothing but ours and cancellation is in it."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending = [*error.exceptions, *pending]
        else:
            leaves.append(error)
    ours = [error for error in leaves if isinstance(error, LatentbusError)]
    # A foreign exception is a bug and must keep its traceback.
    return ours[0] if len(ours) == len(leaves) else None


async def _cancel_after_drain(stop: Stop, task: asyncio.Task[int]) -> None:
    await stop.wait()
    await asyncio.sleep(stop.drain_timeout_s)
    _log.warning("drain time is over", drain_timeout_s=stop.drain_timeout_s)
    task.cancel()


async def _as_coroutine(awaitable: Awaitable[int]) -> int:
    return await awaitable
