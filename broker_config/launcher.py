"""A private Mosquitto: own port, own directory, ready when it says so.

Demo, tests and benchmarks use it; it listens on the loopback interface only and lets everybody in, unless told
otherwise.

    with LocalBroker() as broker:
        ...  # broker.host, broker.port
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from broker_config.limits import LIMITS
from schemas.errors import BrokerStartError, StateError

BINARY_ENVIRONMENT_VARIABLE = "LATENTBUS_MOSQUITTO"
"""Path of the Mosquitto to start, when it is none of the usual ones."""
SEARCH_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/opt/homebrew/opt/mosquitto/sbin")
"""Where package managers put it without having it on every user's PATH."""
INSTALL_COMMANDS = {
    "linux": "sudo apt-get install mosquitto (Debian, Ubuntu), sudo dnf install mosquitto (Fedora)",
    "darwin": "brew install mosquitto",
    "win32": "winget install EclipseFoundation.Mosquitto",
}
LOG_LINES_IN_ERROR = 20
PORT_ATTEMPTS = 5
STOP_TIMEOUT_S = 5.0
STOP_RETRY_S = 0.25
_HOST = "127.0.0.1"


def find_mosquitto() -> Path:
    """The Mosquitto binary.

    Raises:
        BrokerStartError: there is none; the message names the command that installs it.
    """
    named = os.environ.get(BINARY_ENVIRONMENT_VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise BrokerStartError(f"{BINARY_ENVIRONMENT_VARIABLE}={named} is no program that can be run")
        return Path(named)
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(SEARCH_DIRECTORIES))
    if found is None:
        command = INSTALL_COMMANDS.get(sys.platform, "see https://mosquitto.org/download/")
        raise BrokerStartError(f"Mosquitto is not installed. Install it: {command}")
    return Path(found)


class LocalBroker:
    """A private Mosquitto in a child process.

    A context manager, sync or async; or used with :meth:`start` and :meth:`stop`.

    Args:
        directory: for configuration, log and database; None makes a temporary one that goes away with the broker.
        port: TCP port on the loopback interface; None takes a free one.
        anonymous: let clients in without a password.
        persistent: keep retained messages and sessions across :meth:`restart`.
        options: limits to change, by the names of ``mosquitto.conf``; others are those of production.
        listener_lines: further lines after the listener, such as TLS files or a plug-in.
        start_timeout_s: longest wait for the broker to be ready.

    Attributes:
        host: address to connect to.
        port: port to connect to; 0 before the first start when none was given.
    """

    host = _HOST

    def __init__(
        self,
        *,
        directory: Path | None = None,
        port: int | None = None,
        anonymous: bool = True,
        persistent: bool = False,
        options: Mapping[str, str] | None = None,
        listener_lines: Sequence[str] = (),
        start_timeout_s: float = 10.0,
    ) -> None:
        self.port = port or 0
        self._chosen_port = port is None
        self._given_directory = directory
        self._directory: Path | None = directory
        self._anonymous = anonymous
        self._persistent = persistent
        self._options = {**LIMITS, **(options or {})}
        self._listener_lines = tuple(listener_lines)
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._tail: deque[str] = deque(maxlen=LOG_LINES_IN_ERROR)

    @property
    def directory(self) -> Path:
        """Its directory.

        Raises:
            StateError: not started.
        """
        if self._directory is None:
            raise StateError("the broker was not started")
        return self._directory

    @property
    def log_path(self) -> Path:
        """Everything that the broker wrote."""
        return self.directory / "mosquitto.log"

    @property
    def config_path(self) -> Path:
        """The configuration that it was started with."""
        return self.directory / "mosquitto.conf"

    @property
    def pid(self) -> int:
        """Process id.

        Raises:
            StateError: not running.
        """
        if self._process is None:
            raise StateError("the broker is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """The process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and wait until the broker says that it is running.

        Raises:
            BrokerStartError: it is not installed, or did not come up; with the end of its log.
            StateError: it is running.
        """
        if self._process is not None:
            raise StateError("the broker is running")
        binary = find_mosquitto()
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="latentbus-broker-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        problem = ""
        for _ in range(PORT_ATTEMPTS):
            if self.port == 0:
                self.port = _free_port()
            problem = self._launch(binary)
            if not problem:
                return
            # Between choosing a port and binding it another process may take it.
            if not (self._chosen_port and any("Address already in use" in line for line in self._tail)):
                break
            self.port = 0
        log = "\n".join(self._tail)
        self._remove_directory()
        raise BrokerStartError(problem, log)

    def stop(self) -> None:
        """End it in good order and remove a temporary directory. Harmless twice.

        A persistent one saves its database before it ends.
        """
        self._terminate()
        self._remove_directory()

    def kill(self) -> None:
        """End it as a power cut does: no will, no DISCONNECT, nothing saved."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port and directory.

        Raises:
            BrokerStartError: it did not come up again.
        """
        self._terminate()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _config(self) -> str:
        lines = [
            f"listener {self.port} {_HOST}",
            *self._listener_lines,
            f"allow_anonymous {str(self._anonymous).lower()}",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",
            f"persistence {str(self._persistent).lower()}",
            *(f"{option} {value}" for option, value in self._options.items()),
        ]
        if self._persistent:
            lines += [f"persistence_location {self.directory}{os.sep}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            # Started by root it would become the user `mosquitto`, who may not write to this directory.
            lines += [f"user {getpass.getuser()}"]
        return "\n".join(lines) + "\n"

    def _launch(self, binary: Path) -> str:
        """One attempt; returns what went wrong, or nothing."""
        self.config_path.write_text(self._config(), encoding="utf-8")
        ready = threading.Event()
        self._tail.clear()
        process = subprocess.Popen(  # noqa: S603
            [binary, "-c", str(self.config_path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the process that started it, which stops it in order
        )
        self._process = process
        if process.stderr is None:
            raise AssertionError("a pipe was asked for")
        self._reader = threading.Thread(
            target=self._read_log, args=(process.stderr, ready), name=f"mosquitto-log[{self.port}]", daemon=True
        )
        self._reader.start()
        if not ready.wait(self._start_timeout_s):
            process.kill()
            problem = f"Mosquitto did not say that it is running within {self._start_timeout_s} s"
        elif not any(_says_running(line) for line in self._tail):
            problem = f"Mosquitto ended with status {process.wait()}"
        else:
            return ""
        self._reap()
        return problem

    def _read_log(self, stream: IO[str], ready: threading.Event) -> None:
        with stream, self.log_path.open("a", encoding="utf-8") as log:
            for line in stream:
                log.write(line)
                log.flush()
                self._tail.append(line.rstrip())
                if _says_running(line):
                    ready.set()
        ready.set()

    def _terminate(self) -> None:
        if self._process is None:
            return
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)  # a frozen one could not hear the next
            for _ in range(round(STOP_TIMEOUT_S / STOP_RETRY_S)):
                # Mosquitto says that it is running shortly before it heeds this signal, so one may be lost.
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_RETRY_S)
                    break
            else:
                self._process.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._reader is not None:
            self._reader.join()
            self._reader = None

    def _remove_directory(self) -> None:
        if self._given_directory is None and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


def _says_running(line: str) -> bool:
    return line.rstrip().endswith(" running")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
