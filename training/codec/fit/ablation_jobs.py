"""Variants of an ablation in several processes.

The kernels of small models do not fill an accelerator, and one variant's start, measurement or failure should not hold
up the others. A job is a JSON file; its process writes what it says to a log beside it::

    python -m training.codec.fit.ablation_jobs job.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils.logging import disable_progress_bar

from training.codec.config import CodecBudget
from training.codec.fit.ablation import AblationRun, run_variants, variants_named

_PATHS: Final = ("vlm_dir", "material_dir", "run_dir")
_ROOT: Final = Path(__file__).resolve().parents[3]


def describe_job(wanted: AblationRun, variants: Sequence[str] = (), *, threads: int = 1) -> dict[str, Any]:
    """Description of a job: a process that trains variants until none is left; several share one run directory.

    Args:
        wanted: What the variants share.
        variants: Names of those to train; all of them for none.
        threads: CPU threads.
    """
    paths = {name: str(getattr(wanted, name)) for name in _PATHS}
    return {
        "ablation": {**asdict(wanted), **paths, "budget": wanted.budget.as_dict()},
        "threads": threads,
        "variants": list(variants),
    }


def start_jobs(jobs: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, subprocess.Popen[bytes]]:
    """Start jobs at once.

    Args:
        jobs: Their descriptions by name.
        folder: Gets ``<name>.json`` and ``<name>.log``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    started = {}
    for name, job in jobs.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        with (folder / f"{name}.log").open("ab") as log:
            started[name] = subprocess.Popen(  # noqa: S603 - this module, by this interpreter
                [sys.executable, "-m", "training.codec.fit.ablation_jobs", str(path)],
                stdout=log,
                stderr=log,
                env=environment,
            )
    return started


def wait_for_jobs(started: Mapping[str, subprocess.Popen[bytes]]) -> dict[str, int]:
    """Wait until all have ended.

    Args:
        started: From `start_jobs`.

    Returns:
        Exit statuses by name.
    """
    return {name: process.wait() for name, process in started.items()}


def run_job(job: Mapping[str, Any]) -> None:
    """Do what a description says."""
    torch.set_num_threads(job["threads"])
    content = dict(job["ablation"])
    content |= {name: Path(content[name]) for name in _PATHS}
    wanted = AblationRun(**{**content, "budget": CodecBudget.from_dict(content["budget"])})
    run_variants(wanted, variants_named(job["variants"]), _say)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    disable_progress_bar()
    run_job(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
