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
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils.logging import disable_progress_bar

from training.codec.config import CodecBudget
from training.codec.fit.ablation import run_variants, variants_named

_ROOT: Final = Path(__file__).resolve().parents[3]


def describe_job(
    vlm_dir: Path,
    material_dir: Path,
    run_dir: Path,
    budget: CodecBudget,
    *,
    device: str,
    seed: int = 0,
    deadline: float | None = None,
    threads: int = 1,
    variants: Sequence[str] = (),
) -> dict[str, Any]:
    """Description of a job: a process that trains variants until none is left; several share one run directory.

    Args:
        vlm_dir: The VLM, in `save_pretrained` format.
        material_dir: From `Material.save`.
        run_dir: Of the ablation.
        budget: How much of everything, and in what way.
        device: Where to compute.
        seed: Of weights, order and noise.
        deadline: Time, as `time.time` counts it, by which the weights must be written.
        threads: CPU threads.
        variants: Names of those to train; all of them for none.
    """
    return {
        "vlm_dir": str(vlm_dir),
        "material_dir": str(material_dir),
        "run_dir": str(run_dir),
        "budget": budget.as_dict(),
        "device": device,
        "seed": seed,
        "deadline": deadline,
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
    run_variants(
        Path(job["vlm_dir"]),
        Path(job["material_dir"]),
        Path(job["run_dir"]),
        budget=CodecBudget.from_dict(job["budget"]),
        device=job["device"],
        seed=job["seed"],
        deadline=job["deadline"],
        variants=variants_named(job["variants"]),
        progress=_say,
    )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    disable_progress_bar()
    run_job(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
