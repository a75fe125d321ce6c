"""A private broker and workers for one replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from broker_config.launcher import LocalBroker
from latentbus.demo.children import Child, running_child
from latentbus.replay.options import LocalOptions
from pipeline.config.settings import (
    BrokerSettings,
    LatentbusSettings,
    LogSettings,
    WorkerSettings,
    load_settings,
    require_worker,
)


@dataclass(frozen=True, slots=True)
class LocalFleet:
    """What runs for a replay.

    Attributes:
        broker: where it is.
        workers: its workers.
    """

    broker: BrokerSettings
    workers: list[Child]

    async def ended(self) -> None:
        """Wait until a worker ends that should not, for ever if none does.

        Raises:
            ChildError: one did.
        """
        waits = {asyncio.ensure_future(child.process.wait()): child for child in self.workers}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            raise waits[next(iter(done))].error()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


@asynccontextmanager
async def local_fleet(options: LocalOptions, pool: str | None) -> AsyncIterator[LocalFleet]:
    """Run a broker and workers while the context lasts; on exit the workers drain.

    Args:
        options: how many, and what they compute with.
        pool: pool that they serve; None takes their settings'.

    Raises:
        BrokerStartError: the broker did not come up.
        ConfigError: the settings of the workers are wrong.
    """
    worker = worker_settings(options, pool)
    run_dir = options.work_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(LocalBroker())
        broker = BrokerSettings(host=local.host, port=local.port)
        workers = [
            await stack.enter_async_context(
                running_child(
                    name,
                    "worker",
                    LatentbusSettings(
                        broker=broker,
                        worker=worker.model_copy(update={"name": name}),
                        log=LogSettings(json_lines=True),
                    ),
                    run_dir,
                )
            )
            for name in (f"replay-{number + 1}" for number in range(options.workers))
        ]
        yield LocalFleet(broker, workers)
        await asyncio.gather(*(child.drain() for child in workers))


def worker_settings(options: LocalOptions, pool: str | None) -> WorkerSettings:
    """Settings of the local workers; alike but for their names.

    Without a file each has one thread and looks at one frame at a time: the batch shape then depends on the frame
    alone, so that a model computes the same numbers in every run.
    """
    if options.config is None:
        worker = WorkerSettings(threads=1, max_batch_frames=1)
    else:
        worker = require_worker(load_settings(options.config), options.config)
    # Two processes cannot share a port or a log file.
    changes: dict[str, object] = {"metrics_port": None, "recording": None}
    return worker.model_copy(update=changes if pool is None else {**changes, "pool": pool})
