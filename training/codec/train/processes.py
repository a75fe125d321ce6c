"""Processes that share a training, one for each device, by `accelerate`."""

from __future__ import annotations

import os
import tempfile
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, start_processes
from transformers.utils.logging import disable_progress_bar

from schemas.errors import ConfigError, LatentbusError
from training.codec.fit.parallel import ALONE
from training.codec.train.loop import LearnJob, learn
from training.run import Progress, silent

_POLL_S: Final = 0.2
_PATIENCE: Final = timedelta(hours=6)
"""The first process looks at held-out pictures while the others wait."""


class Accelerated:
    """A process of `accelerate`; see `training.codec.fit.parallel.Parallel`.

    Args:
        accelerator: Its `Accelerator`.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.count: int = accelerator.num_processes

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        summed: Tensor = self._accelerator.reduce(values, reduction="sum")
        return summed


def learn_together(job: LearnJob, report: Progress, model: Any) -> None:
    """Train in this process, or in several that this one starts and waits for.

    When this process is killed, the others end.

    Args:
        job: What to do.
        report: Called with a line of text now and then.
        model: The frozen model on the job's device, for a training in this process.

    Raises:
        ConfigError: there are fewer accelerators than processes, or one of the processes was ended.
    """
    count = job.learning.processes
    if count == 1:
        learn(job, ALONE, torch.device(job.device), report, model)
        return
    if job.device != "cpu" and (found := torch.cuda.device_count()) < count:
        raise ConfigError("--processes", f"{count} of them need as many devices, there are {found}")
    lines: Any = get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="latentbus-train-") as folder:
        started: Any = start_processes(  # type: ignore[no-untyped-call]
            _process, args=(job, str(Path(folder) / "store"), lines), nprocs=count, join=False, start_method="spawn"
        )
        try:
            while not started.join(timeout=_POLL_S):
                _pass_on(lines, report)
            _pass_on(lines, report)
        except ProcessException as error:
            _pass_on(lines, report)
            problem = str(error).strip().splitlines()
            raise ConfigError(
                "--processes",
                f"process {error.error_index + 1} of {count} ended ({problem[-1] if problem else 'no reason'}): the "
                "same command goes on from the last checkpoint; if memory is short, add --accumulate 2",
            ) from error
        finally:
            for process in started.processes:
                if process.is_alive():
                    process.terminate()
                process.join()


def _pass_on(lines: Any, report: Progress) -> None:
    """Lines of the processes to the report.

    Raises:
        LatentbusError: one of them met it.
    """
    while not lines.empty():
        said = lines.get()
        if isinstance(said, LatentbusError):
            raise said
        report(said)


def _process(rank: int, job: LearnJob, store: str, lines: Any) -> None:
    """What each of the processes does."""
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    count, on_cpu = job.learning.processes, job.device == "cpu"
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": str(job.threads),
        "ACCELERATE_USE_CPU": str(on_cpu).lower(),
    }
    # All on this machine.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    disable_progress_bar()
    # On a CPU accelerate hands rank and size over itself.
    meeting = f"file://{store}" + ("" if on_cpu else f"?rank={rank}&world_size={count}")
    try:
        group = InitProcessGroupKwargs(init_method=meeting, timeout=_PATIENCE)
        accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[group])
        report: Progress = lines.put if rank == 0 else silent
        # It calls a CPU by a number, which torch.load does not know.
        learn(job, Accelerated(accelerator), torch.device("cpu") if on_cpu else accelerator.device, report)
        accelerator.end_training()
    except LatentbusError as error:
        lines.put(error)
        raise
