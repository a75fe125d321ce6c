"""A site of which one camera is blocked in the kernel, as with a dead file server: a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import DRAIN_TIMEOUT_S
from tests.edge.support import ScriptedWorker

pytestmark = pytest.mark.broker


class EdgeProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def said(self, event: str) -> dict[str, Any]:
        """Wait for a log line."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"{event!r} is not in {self.lines}")

    async def stop(self) -> int:
        """SIGTERM, and the exit status; the documented time is the limit."""
        self.process.send_signal(signal.SIGTERM)
        _, status = await asyncio.wait_for(
            asyncio.gather(self.process.communicate(), self.process.wait()), DRAIN_TIMEOUT_S
        )
        return status


@asynccontextmanager
async def edge_process(
    folder: Path, broker: BrokerSettings, codec: Path, sources: Mapping[str, str], **edge: object
) -> AsyncIterator[EdgeProcess]:
    settings = {
        "broker": {"host": broker.host, "port": broker.port},
        "edge": {
            "site": "depot",
            "codec": str(codec),
            "cameras": {
                name: {"source": source, "interval_s": 0.1, "questions": ["car"]} for name, source in sources.items()
            },
            "questions": {"car": {"text": "Is there a car?"}},
            **edge,
        },
        "log": {"json_lines": True},
    }
    config = folder / "edge.yaml"
    config.write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "latentbus", "edge", "--config", str(config)), stderr=asyncio.subprocess.PIPE
    )
    try:
        yield EdgeProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe that nobody writes to: its opening never returns."""
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    return path


async def test_a_camera_that_never_opens_keeps_neither_the_others_nor_the_end_waiting(
    broker_settings: BrokerSettings, codec_dir: Path, tmp_path: Path, pipe: Path
) -> None:
    sources = {"dead": str(pipe), "yard": "test:1"}
    async with (
        ScriptedWorker(broker_settings) as worker,
        edge_process(tmp_path, broker_settings, codec_dir, sources) as edge,
    ):
        await edge.said("ready")
        camera, opened = await worker.next_open()
        assert camera == "yard"
        await worker.answer_all(camera, opened)
        assert await edge.stop() == 0


async def test_a_site_that_waits_for_its_only_camera_ends_when_it_is_told_to(
    broker_settings: BrokerSettings, codec_dir: Path, tmp_path: Path, pipe: Path
) -> None:
    async with edge_process(tmp_path, broker_settings, codec_dir, {"dead": str(pipe)}) as edge:
        await edge.said("connected")
        assert await edge.stop() == 0
