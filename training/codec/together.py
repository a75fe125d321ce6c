"""Everything that is learned about codecs, at once: both operating points and the ablation, side by side.

For a machine with one accelerator that is there for minutes. What it leaves in the run directory is all that the
finishing steps need, which run anywhere later::

    small/material  detailed/material    tokens, questions, answers (can be deleted)
    small/run       detailed/run         what `training.codec.learn` leaves
    ablation/                            what `training.codec.ablation` leaves
    jobs/                                descriptions and logs
"""

from __future__ import annotations

import json
import subprocess
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.codec.ablation import (
    ABLATION_BUDGETS,
    HELD_OUT,
    TABLES,
    VARIANTS_DIR,
    collect_results,
    drop_claims,
    save_tables,
)
from training.codec.config import BUDGETS, DETAILED_BUDGETS, CodecBudget
from training.codec.jobs import describe_job, start_jobs, wait_for_jobs
from training.codec.learn import KLT_WEIGHTS, LEARNED, META_WEIGHTS, tokens_on
from training.codec.material import LearningSet, Material, ask

if TYPE_CHECKING:
    from training.codec.data import AskedFrames, Progress

_ENDING_S = 8.0
"""What processes need at their end to write and go."""
_MEASURED = 8
"""Questions about each held-out frame."""


def learn_together(
    model: Any,
    processor: Any,
    vlm_dir: Path,
    frames: Mapping[str, AskedFrames],
    run_dir: Path,
    *,
    device: str,
    deadline_s: float,
    processes: int = 6,
    seed: int = 0,
    small: CodecBudget = BUDGETS["gpu"],
    detailed: CodecBudget = DETAILED_BUDGETS["gpu"],
    ablation: CodecBudget = ABLATION_BUDGETS["gpu"],
    progress: Progress = print,
) -> dict[str, Any]:
    """Learn both operating points and as much of the ablation as the time allows.

    A second call on the same directory continues what is unfinished; frames whose tokens are there are not looked at
    again.

    Args:
        model: The frozen VLM in float32; it is moved to the device.
        processor: Its processor.
        vlm_dir: The same model in `save_pretrained` format, for the other processes.
        frames: ``small``: to learn from, one view each. ``held_out``: the ablation is measured on them. ``tables``:
            the ablation's frequency tables come from them; questions are not needed. ``detailed``: larger frames to
            learn from; may be left out.
        run_dir: For everything; material and checkpoints take a few gigabytes.
        device: Of the accelerator.
        deadline_s: Seconds from now until everything must be written.
        processes: That share the ablation; 0 leaves it out.
        seed: Of weights, order and noise.
        small: Budget of the small point.
        detailed: Budget of the detailed point.
        ablation: Budget of each of the ablation's variants.
        progress: Called with a line of text now and then.

    Returns:
        Exit statuses of the processes, results of the ablation so far.
    """
    deadline = time.time() + deadline_s - _ENDING_S
    model = model.to(device).float().eval().requires_grad_(False)
    started: dict[str, subprocess.Popen[bytes]] = {}
    ablation_dir = run_dir / "ablation"
    (ablation_dir / VARIANTS_DIR).mkdir(parents=True, exist_ok=True)
    for name, budget in (("small", small), ("detailed", detailed)):
        if name not in frames:
            continue
        material, jobs = run_dir / name / "material", dict[str, dict[str, Any]]()
        _prepare(model, processor, frames[name], material, budget, budget.view_questions, device, progress)
        if name == "small" and processes:
            _prepare(model, processor, frames["held_out"], ablation_dir / HELD_OUT, budget, _MEASURED, device, progress)
            if not (ablation_dir / TABLES).exists():
                save_tables(tokens_on(device, model, processor.image_processor, frames["tables"].frames), ablation_dir)
            drop_claims(ablation_dir)
            for index in range(processes):
                jobs[f"ablation-{index}"] = describe_job(
                    "ablate", vlm_dir, material, ablation_dir, ablation, device=device, seed=seed, deadline=deadline
                )
        jobs[name] = describe_job(
            "learn", vlm_dir, material, run_dir / name / "run", budget, device=device, seed=seed, deadline=deadline
        )
        # What is ready starts while the next is made ready.
        started |= start_jobs(jobs, run_dir / "jobs")
        progress(f"{', '.join(jobs)} started, {deadline - time.time():.0f} s left")
    statuses = wait_for_jobs(started, deadline + _ENDING_S)
    progress(f"exit statuses: {statuses}")
    return {"statuses": statuses, "ablation": collect_results(ablation_dir) if processes else None}


def pack_learned(run_dir: Path, output_dir: Path, *, variants: Sequence[str] = ()) -> list[Path]:
    """Put what the finishing steps need into few small files.

    Args:
        run_dir: Of `learn_together`.
        output_dir: Gets ``codec-small.zip`` and ``codec-detailed.zip``, each to be unpacked to the run directory of
            `latentbus train codec`; ``codec-<variant>.zip``; ``ablation.json``; ``codec-logs.zip``.
        variants: Of the ablation, whose weights are wanted too.

    Returns:
        The files.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    folders = {name: run_dir / name / "run" for name in ("small", "detailed")}
    folders |= {name: run_dir / "ablation" / VARIANTS_DIR / name for name in variants}
    made = []
    for name, folder in folders.items():
        if (folder / LEARNED).exists():
            kept = [folder / file for file in (KLT_WEIGHTS, META_WEIGHTS, LEARNED)]
            made.append(_zip(output_dir / f"codec-{name}.zip", kept))
    made.append(_zip(output_dir / "codec-logs.zip", sorted((run_dir / "jobs").glob("*.log"))))
    if (run_dir / "ablation" / VARIANTS_DIR).is_dir():
        results = output_dir / "ablation.json"
        results.write_text(json.dumps(collect_results(run_dir / "ablation"), indent=2) + "\n", encoding="utf-8")
        made.append(results)
    return made


def _zip(path: Path, files: Sequence[Path]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return path


def _prepare(
    model: Any,
    processor: Any,
    data: AskedFrames,
    folder: Path,
    budget: CodecBudget,
    questions: int,
    device: str,
    progress: Progress,
) -> None:
    """Tokens, questions and answers in a folder."""
    if Material.is_saved(folder):
        return
    began = time.monotonic()
    tokens = tokens_on(device, model, processor.image_processor, data.frames, tiles_per_edge=budget.tiles_per_edge)
    material = ask(
        model,
        processor,
        LearningSet.of(tokens, data),
        frames=budget.asked_frames,
        questions=questions,
        answer_tokens=budget.answer_tokens,
        tiles_per_edge=budget.tiles_per_edge,
    )
    material.save(folder)
    progress(f"{folder}: {len(tokens)} frames, {len(material.frames)} asked, {time.monotonic() - began:.1f} s")
