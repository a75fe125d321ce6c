"""Starts the processes of a fleet as an operator would, and leaves none behind, however it ends itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import yaml

from broker_config.launcher import LocalBroker
from latentbus.fleet import orphan_guard
from latentbus.fleet.process import START_TIMEOUT_S, FleetProcess, ReadySignal
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import LatentbusSettings
from schemas.errors import StateError

_NODE_STAGE: Final = 0
_BROKER_STAGE: Final = 1


class Launcher:
    """Starts a private broker, edges, workers and other commands. An async context manager: all of it ends with it.

    Each process has a session of its own: a Ctrl-C at the terminal reaches the process with the launcher alone, which
    drains the others in the right order. When that process is killed, a guard ends what it left
    (:mod:`latentbus.fleet.orphan_guard`).

    Args:
        run_dir: a folder for settings and logs.
        on_exit: told when a process ends that nobody told to.

    Attributes:
        run_dir: as given.
        on_exit: as given.
        processes: those that were started last under each name, and were not drained or killed since.
    """

    def __init__(self, run_dir: Path, *, on_exit: Callable[[FleetProcess], None] | None = None) -> None:
        self.run_dir = run_dir
        self.processes: dict[str, FleetProcess] = {}
        self.on_exit = on_exit
        self._brokers: list[LocalBroker] = []
        self._starts: dict[str, int] = {}
        self._sockets: Path | None = None
        self._socket_numbers = itertools.count(1)
        self._guard: subprocess.Popen[bytes] | None = None
        self._exit = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start the guard."""
        await asyncio.to_thread(self.run_dir.mkdir, parents=True, exist_ok=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="latentbus-fleet-"))
        self._guard = _start_guard()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill what still runs, then stop the brokers."""
        await self.kill()
        for broker in reversed(self._brokers):
            await asyncio.to_thread(broker.stop)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            await asyncio.to_thread(self._guard.wait)
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def start_broker(self, broker: LocalBroker | None = None) -> BrokerSettings:
        """Start a private broker; one that was killed is started again.

        Args:
            broker: it, plain or secured; None makes a plain one.

        Returns:
            Where it is.

        Raises:
            BrokerStartError: it did not come up.
        """
        broker = LocalBroker() if broker is None else broker
        await asyncio.to_thread(broker.start)
        if broker not in self._brokers:
            self._brokers.append(broker)
        self._tell_guard("add", broker.pid, _BROKER_STAGE)
        return BrokerSettings(host=broker.host, port=broker.port)

    async def start_node(self, name: str, settings: LatentbusSettings) -> FleetProcess:
        """Start an edge or a worker: one settings file, one command.

        Args:
            name: for people and file names.
            settings: written to its file; with an edge section they are an edge's.
        """
        config = write_settings(self._file_name(name, ahead=1), settings, self.run_dir)
        role = "worker" if settings.edge is None else "edge"
        return await self.start_command(name, [role, "--config", str(config)])

    async def start_command(self, name: str, arguments: Sequence[str]) -> FleetProcess:
        """Start a ``latentbus`` command in the background.

        Args:
            name: for people and file names.
            arguments: what follows ``latentbus``.
        """
        return await self.start_python(name, ["-m", "latentbus", *arguments])

    async def start_python(self, name: str, arguments: Sequence[str]) -> FleetProcess:
        """Start a Python program in the background.

        Args:
            name: for people and file names.
            arguments: what follows ``python``.

        Raises:
            StateError: one of this name runs, or the launcher was not entered.
        """
        if name in self.processes and self.processes[name].status is None:
            raise StateError(f"{name} is running")
        if self._sockets is None:
            raise StateError("the launcher was not entered")
        self._starts[name] = self._starts.get(name, 0) + 1
        log_path = self.run_dir / f"{self._file_name(name)}.log"
        ready = ReadySignal(self._sockets / str(next(self._socket_numbers)))
        try:
            with log_path.open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *arguments),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "NOTIFY_SOCKET": str(ready.path)},
                    start_new_session=True,
                )
        except BaseException:
            ready.close()
            raise
        self._tell_guard("add", process.pid, _NODE_STAGE)
        started = self.processes[name] = FleetProcess(name, process, log_path, ready, self._ended)
        return started

    @property
    def ended(self) -> list[FleetProcess]:
        """Processes that ended without being told to."""
        return [process for process in self.processes.values() if process.ended_on_its_own]

    async def wait_ready(self, *processes: FleetProcess, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until these say that they do their work; without any, until all do.

        Raises:
            NotReadyError: one did not in time.
            ProcessEndedError: one ended instead.
        """
        waits = [
            asyncio.create_task(process.wait_ready(timeout_s), name=f"{process.name} ready")
            for process in processes or self.processes.values()
        ]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def wait_end(self) -> FleetProcess:
        """Wait until a process ends that nobody told to, for ever if none does; the first that did."""
        while not self.ended:
            self._exit.clear()
            await self._exit.wait()
        return self.ended[0]

    async def drain(self, *processes: FleetProcess) -> list[int]:
        """Ask these to drain, all at once, and wait; without any, all.

        Returns:
            Their exit statuses.
        """
        return list(await asyncio.gather(*(process.drain() for process in processes or self.processes.values())))

    async def kill(self) -> None:
        """Kill every process; brokers go on."""
        await asyncio.gather(*(process.kill() for process in self.processes.values()))

    def _ended(self, process: FleetProcess) -> None:
        self._tell_guard("remove", process.pid)
        if process.told_to_end:
            if self.processes.get(process.name) is process:
                del self.processes[process.name]
            return
        self._exit.set()
        if self.on_exit is not None:
            self.on_exit(process)

    def _file_name(self, name: str, *, ahead: int = 0) -> str:
        start = self._starts.get(name, 0) + ahead
        return name if start <= 1 else f"{name}-{start}"

    def _tell_guard(self, *words: object) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            # At once: this process may be killed before its loop comes round.
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.write(f"{' '.join(map(str, words))}\n".encode())
                self._guard.stdin.flush()


def _start_guard() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - a file of this package, by this interpreter
        [sys.executable, "-I", "-S", orphan_guard.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def write_settings(name: str, settings: LatentbusSettings, run_dir: Path) -> Path:
    """The settings file of a node, written; the same settings give the same file.

    Args:
        name: of the file.
        settings: what is written.
        run_dir: where it goes.
    """
    config = run_dir / f"{name}.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True), sort_keys=False))
    return config
