"""A worker as its users start it: a process of its own, on tiny models."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.broker_settings import BrokerSettings

PATIENCE_S = 60.0
"""A test that waits longer than this has failed."""


class WorkerProcess:
    """A running ``latentbus worker``.

    Args:
        process: it; standard error is a pipe with its log.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._said = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(), name="worker log")

    async def said(self, event: str) -> dict[str, Any]:
        """Wait for a line of the log; it may have come already."""
        async with asyncio.timeout(PATIENCE_S), self._said:
            while True:
                for line in self.lines:
                    if line.get("event") == event:
                        return line
                if self._reading.done():
                    raise AssertionError(f"the worker ended with {self.process.returncode}: {self.lines[-5:]}")
                await self._said.wait()

    async def stop(self) -> int:
        """Ask it to stop; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            await self._reading
            return await self.process.wait()

    def resident_mb(self) -> float:
        """Memory that it has, in MiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no resident memory: the worker has ended")

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            line = raw.decode(errors="replace")
            async with self._said:
                self.lines.append(json.loads(line) if line.startswith("{") else {"event": line})
                self._said.notify_all()
        async with self._said:
            self._said.notify_all()


@asynccontextmanager
async def worker_process(folder: Path, broker: BrokerSettings, vlm: Path, codec: Path) -> AsyncIterator[WorkerProcess]:
    """A worker named ``w-1``, ready."""
    settings = {
        "broker": {"host": broker.host, "port": broker.port},
        "worker": {"name": "w-1", "vlm": str(vlm), "codec": str(codec), "threads": 1},
        "log": {"json_lines": True},
    }
    config = folder / "worker.yaml"
    config.write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "latentbus", "worker", "--config", str(config)), stderr=asyncio.subprocess.PIPE
    )
    worker = WorkerProcess(process)
    try:
        await worker.said("ready")
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
