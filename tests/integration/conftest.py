"""A whole fleet in one test process: real broker, real edge and workers, tiny models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloud_workers.node import run_worker
from edge_nodes.node import run_edge
from latentbus.demo.ledger import DemoLedger
from latentbus.fleet.client import FleetClient, reading
from latentbus.fleet.frame_log import FrameLogReader
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import Stop
from schemas.types import AnswerType
from tests.integration.tiny_fleet import write_models_dir

PATIENCE_S = 30.0
"""A test that waits longer than this has failed."""
DEADLINE_MS = 60_000
"""A machine that is busy with other things answers late, which is not what is tested here."""


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models_dir(tmp_path_factory.mktemp("models") / "tiny")


@dataclass
class RunningProcess:
    """An edge or a worker as a task."""

    stop: Stop
    task: asyncio.Task[int]

    async def drain(self) -> int:
        self.stop.request()
        return await self.task


@dataclass
class Fleet:
    """What a test holds of its fleet."""

    broker: BrokerSettings
    directory: Path
    stack: AsyncExitStack
    ledger: DemoLedger = field(default_factory=DemoLedger)

    async def start(self) -> None:
        self.client = FleetClient(self.broker, "test", self.ledger.observe)
        await self.stack.enter_async_context(reading(self.client))
        self.log = FrameLogReader(self.directory / "frames.jsonl")

    async def worker(self, name: str) -> RunningProcess:
        settings = LatentbusSettings(broker=self.broker, worker=WorkerSettings(name=name, threads=1))
        return await self._run(name, lambda stop: run_worker(settings, stop))

    async def edge(self, *, interval_s: float = 0.5, cameras: tuple[str, ...] = ("gate", "yard")) -> RunningProcess:
        edge = EdgeSettings(
            site="north",
            cameras={
                name: CameraSettings(source=f"test:{seed}", interval_s=interval_s, questions=("car", "count"))
                for seed, name in enumerate(cameras)
            },
            questions={
                "car": QuestionSettings(text="Is there a car?", answer_type=AnswerType.TEXT, deadline_ms=DEADLINE_MS),
                "count": QuestionSettings(
                    text="How many cars are there?", answer_type=AnswerType.TEXT, deadline_ms=DEADLINE_MS
                ),
            },
            state_dir=self.directory / "state",
            frame_log=self.directory / "frames.jsonl",
        )
        settings = LatentbusSettings(broker=self.broker, edge=edge)
        return await self._run("edge", lambda stop: run_edge(settings, stop))

    async def until_answered(self, count: int) -> None:
        """Wait until this many queries have an outcome."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self.ledger.read(self.log)
                if sum(row.outcome is not None for row in self.ledger.opened) >= count:
                    return
                await self.client.wait_change()

    async def finish(self, edge: RunningProcess) -> None:
        """Drain the edge and wait for its last outcomes."""
        assert await edge.drain() == 0
        self.ledger.read(self.log)
        await self.client.wait_until(lambda: not self.ledger.unfinished, PATIENCE_S)

    async def _run(self, name: str, main: Callable[[Stop], Awaitable[int]]) -> RunningProcess:
        stop = Stop(drain_timeout_s=20)
        task = asyncio.ensure_future(main(stop))
        self.stack.push_async_callback(_cancelled, task)
        ready = asyncio.create_task(stop.ready.wait(), name=f"{name} ready")
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            ready.cancel()
            task.result()
        return RunningProcess(stop, task)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _fleet(broker: BrokerSettings, directory: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        fleet = Fleet(broker, directory, stack)
        await fleet.start()
        yield fleet


@pytest.fixture
async def fleet(
    broker_settings: BrokerSettings, tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(models_dir))
    async with _fleet(broker_settings, tmp_path) as running:
        yield running
