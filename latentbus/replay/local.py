"""A private broker and workers for one replay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

from latentbus.fleet.launcher import Launcher
from latentbus.fleet.settings import worker_node
from latentbus.replay.options import LocalOptions
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.fleet_file import Part
from pipeline.config.settings import load_settings, require_worker
from pipeline.config.worker_settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class LocalFleet:
    """What runs for a replay.

    Attributes:
        broker: where it is.
        launcher: of its workers.
    """

    broker: BrokerSettings
    launcher: Launcher

    async def ended(self) -> NoReturn:
        """Wait until a worker ends that should not, for ever if none does.

        Raises:
            ProcessEndedError: one did.
        """
        raise (await self.launcher.wait_end()).error()


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
    async with Launcher(options.work_dir.resolve()) as launcher:
        broker = await launcher.start_broker()
        for name in (f"replay-{number + 1}" for number in range(options.workers or 0)):
            await launcher.start_node(name, worker_node(broker, worker.model_copy(update={"name": name})))
        yield LocalFleet(broker, launcher)
        await launcher.drain()


def worker_settings(options: LocalOptions, pool: str | None) -> WorkerSettings:
    """Settings of the local workers; alike but for their names.

    Without a file each has one thread and looks at one frame at a time: the batch shape then depends on the frame
    alone, so that a model computes the same numbers in every run.
    """
    if options.worker_config is None:
        worker = WorkerSettings(threads=1, max_batch_frames=1)
    else:
        worker = require_worker(load_settings(options.worker_config, part=Part("worker")), options.worker_config)
    # Two processes cannot share a port or a log file.
    changes: dict[str, object] = {"metrics_port": None, "recording": None}
    return worker.model_copy(update=changes if pool is None else {**changes, "pool": pool})
