"""Child processes of the demo: started, watched, drained, never left behind."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from pipeline.config.settings import LatentbusSettings
from schemas.errors import LocalError

KILL_AFTER_S: Final = 20.0
_LOG_LINES: Final = 12


class ChildError(LocalError):
    """A child process ended that should not have.

    Attributes:
        name: its name.
        status: its exit status, negative for a signal.
    """

    def __init__(self, name: str, status: int, log: str) -> None:
        super().__init__(f"{name} ended with status {status}; its last lines:\n{log}")
        self.name = name
        self.status = status


@dataclass(slots=True)
class Child:
    """A running ``latentbus`` command.

    Attributes:
        name: for people.
        process: the process.
        log_path: what it writes.
    """

    name: str
    process: asyncio.subprocess.Process
    log_path: Path

    def error(self) -> ChildError:
        """The error that it ended."""
        lines = self.log_path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return ChildError(self.name, self.process.returncode or 0, "\n".join(lines))

    async def drain(self) -> int:
        """Ask it to drain, wait, and kill it if it does not end.

        Returns:
            Its exit status.
        """
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(KILL_AFTER_S):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()


def write_settings(name: str, settings: LatentbusSettings, run_dir: Path) -> Path:
    """The settings file of a child, written; the same settings give the same file.

    Args:
        name: the child's.
        settings: what is written.
        run_dir: where it goes.
    """
    config = run_dir / f"{name}.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True), sort_keys=False))
    return config


@asynccontextmanager
async def running_child(name: str, role: str, settings: LatentbusSettings, run_dir: Path) -> AsyncIterator[Child]:
    """A process of the fleet, as an operator would start it: one settings file, one command.

    Args:
        name: for people and file names.
        role: ``edge`` or ``worker``.
        settings: written to its file.
        run_dir: where settings and log go.

    Yields:
        The child; it is gone when the context ends.
    """
    config = write_settings(name, settings, run_dir)
    async with running_command(name, [role, "--config", str(config), "--exit-with-parent"], run_dir) as child:
        yield child


@asynccontextmanager
async def running_command(name: str, arguments: Sequence[str], run_dir: Path) -> AsyncIterator[Child]:
    """A ``latentbus`` command in the background.

    Args:
        name: for people and file names.
        arguments: what follows ``latentbus``.
        run_dir: where its log goes.

    Yields:
        The child; it is gone when the context ends.
    """
    log_path = run_dir / f"{name}.log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "latentbus", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            # Ctrl-C reaches the whole foreground group; the fleet must hear of it in order, from the demo.
            start_new_session=True,
        )
    try:
        yield Child(name, process, log_path)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()
