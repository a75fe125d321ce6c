"""A process of a fleet: it says when it is ready, its log is kept, and it ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from schemas.errors import LocalError

KILL_AFTER_S: Final = 20.0
START_TIMEOUT_S: Final = 120.0
"""Workers import torch and load a model; on a slow disk that takes its time."""
_LOG_LINES: Final = 12
_DATAGRAM_BYTES: Final = 4096


class ProcessEndedError(LocalError):
    """A process of a fleet ended that should not have.

    Attributes:
        name: its name.
        status: its exit status, negative for a signal.
    """

    def __init__(self, name: str, status: int, log: str) -> None:
        super().__init__(f"{name} ended with status {status}; its last lines:\n{log}")
        self.name = name
        self.status = status


class NotReadyError(LocalError):
    """A process of a fleet did not become ready in time.

    Attributes:
        name: its name.
        timeout_s: the time that it had.
    """

    def __init__(self, name: str, timeout_s: float, log: str) -> None:
        super().__init__(f"{name} was not ready within {timeout_s:.0f} s; its last lines:\n{log}")
        self.name = name
        self.timeout_s = timeout_s


class ReadySignal:
    """Where a process says that it is ready: a socket after sd_notify(3), as systemd's.

    Args:
        path: of the socket; short, the system takes about a hundred bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.event = asyncio.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        """Listen no longer. Harmless twice."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if b"READY=1" in self._socket.recv(_DATAGRAM_BYTES).split(b"\n"):
                self.event.set()


class FleetProcess:
    """A process that a :class:`~latentbus.fleet.launcher.Launcher` started.

    Args:
        name: for people and file names.
        process: it.
        log_path: what it writes to its standard output and error.
        ready: its signal.
        ended: told when it has ended.

    Attributes:
        name: as given.
        log_path: as given.
        told_to_end: it was drained or killed by its launcher; else it ended on its own.
    """

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        log_path: Path,
        ready: ReadySignal,
        ended: Callable[[FleetProcess], None],
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.told_to_end = False
        self._process = process
        self._ready = ready
        self._reaping = asyncio.create_task(self._reap(ended), name=f"{name} ended")

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def ended_on_its_own(self) -> bool:
        """It has ended, and nobody told it to."""
        return self.status is not None and not self.told_to_end

    async def wait(self) -> int:
        """Wait for its end; the exit status."""
        return await asyncio.shield(self._reaping)

    async def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it says that it does its work.

        Raises:
            NotReadyError: it did not say so in time.
            ProcessEndedError: it ended instead.
        """
        said = asyncio.create_task(self._ready.event.wait(), name=f"{self.name} ready")
        try:
            await asyncio.wait({said, self._reaping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if said.done():
                return
            if self._reaping.done():
                raise self.error()
            raise NotReadyError(self.name, timeout_s, self.last_lines())
        finally:
            said.cancel()

    async def drain(self) -> int:
        """Ask it to drain, wait, and kill it if it does not end.

        Returns:
            Its exit status.
        """
        self.told_to_end = self.told_to_end or self.status is None
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(KILL_AFTER_S):
                return await self.wait()
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """SIGKILL, and wait until it is gone; the exit status."""
        self.told_to_end = self.told_to_end or self.status is None
        self._send(signal.SIGKILL)
        return await self.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)

    def log(self) -> str:
        """Everything that it wrote."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def last_lines(self) -> str:
        """The end of its log, for an error."""
        return "\n".join(self.log().splitlines()[-_LOG_LINES:])

    def error(self) -> ProcessEndedError:
        """The error that it ended."""
        return ProcessEndedError(self.name, self.status or 0, self.last_lines())

    def _send(self, number: signal.Signals) -> None:
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _reap(self, ended: Callable[[FleetProcess], None]) -> int:
        status = await self._process.wait()
        self._ready.close()
        ended(self)
        return status
