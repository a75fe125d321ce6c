"""The command that makes an ablation from rendered frames, in several processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from cloud_workers.inference.adapter import ModelAdapter
from schemas.errors import ConfigError
from training.codec.config import CodecBudget
from training.codec.fit.ablation import (
    ABLATION_BUDGETS,
    HELD_OUT,
    TABLES,
    AblationRun,
    collect_results,
    drop_claims,
    run_variants,
    save_tables,
    variants_named,
)
from training.codec.fit.ablation_jobs import describe_job, start_jobs, wait_for_jobs
from training.codec.fit.material import LearningSet, Material, ask, training_material
from training.codec.frame_source import FrameSource
from training.codec.points import DOMAINS, point_of
from training.codec.vlm import open_vlm_at
from training.run import RunSettings

_HELD_OUT_FRAMES: Final = 600
_MEASURED_QUESTIONS: Final = 8
_MATERIAL: Final = "material"


@dataclass(frozen=True, slots=True)
class Ablation:
    """Which ablation to make.

    Attributes:
        budget: The default's, or a name in `ABLATION_BUDGETS`.
        processes: Variants at once.
        max_seconds: Break off after so many seconds; a second call continues.
        run_dir: Of this ablation; in the cache unless given. One that was begun elsewhere is only continued.
        variants: Names of those to train, in `VARIANTS`; all of them for none.
    """

    budget: CodecBudget | str = "full"
    processes: int = 1
    max_seconds: float | None = None
    run_dir: Path | None = None
    variants: Sequence[str] = ()

    def chosen_budget(self) -> CodecBudget:
        """The budget, by its name or as it is.

        Raises:
            ConfigError: an unknown name.
        """
        if not isinstance(self.budget, str):
            return self.budget
        if self.budget not in ABLATION_BUDGETS:
            raise ConfigError("budget", f"{self.budget!r} is none of {', '.join(ABLATION_BUDGETS)}")
        return ABLATION_BUDGETS[self.budget]


def ablate_codec(vlm_dir: Path, run: RunSettings, wanted: Ablation) -> dict[str, Any]:
    """Train variants of the Meta AutoEncoder and measure them on held-out frames.

    Args:
        vlm_dir: The VLM, in `save_pretrained` format.
        run: Cache, seed, threads, device.
        wanted: Which variants, and how.

    Returns:
        Budget, results so far, names of what is missing.

    Raises:
        ConfigError: an unknown name of a budget or a variant.
    """
    chosen, budget = variants_named(wanted.variants), wanted.chosen_budget()
    deadline = None if wanted.max_seconds is None else time.time() + wanted.max_seconds
    torch.set_num_threads(run.threads)
    run_dir = wanted.run_dir or run.cache_dir / "ablation"
    _prepare(vlm_dir, run_dir, run, budget)
    drop_claims(run_dir)
    ablation = AblationRun(vlm_dir, run_dir / _MATERIAL, run_dir, budget, run.device, run.seed, deadline)
    if wanted.processes == 1:
        run_variants(ablation, chosen, run.progress)
    else:
        job = describe_job(ablation, wanted.variants)
        started = start_jobs({f"ablation-{index}": job for index in range(wanted.processes)}, run_dir / "jobs")
        run.progress(f"exit statuses: {wait_for_jobs(started)}, logs in {run_dir / 'jobs'}")
    return {"seed": run.seed, "device": run.device, "budget": budget.as_dict(), **collect_results(run_dir, chosen)}


def _prepare(vlm_dir: Path, run_dir: Path, run: RunSettings, budget: CodecBudget) -> None:
    """What all variants learn from and are measured on, unless it is there."""
    vlm, frozen = open_vlm_at(vlm_dir, "ablation", budget.frame_scale)
    source = FrameSource(frozen, run, (DOMAINS[point_of(frozen)],))
    if not Material.is_saved(run_dir / _MATERIAL):
        training_material(source, vlm, budget).save(run_dir / _MATERIAL)
    if not Material.is_saved(run_dir / HELD_OUT):
        _held_out(source, vlm, budget).save(run_dir / HELD_OUT)
    if not (run_dir / TABLES).exists():
        save_tables(source.with_tokens("tables", budget.table_frames)[1], run_dir)


def _held_out(source: FrameSource, vlm: ModelAdapter, budget: CodecBudget) -> Material:
    """Frames that are measured on, with more questions than training asks."""
    count, device = min(budget.train_frames, _HELD_OUT_FRAMES), source.run.device
    frames, tokens = source.with_tokens("selection", count)
    learning = LearningSet.of(tokens, frames)
    return ask(
        vlm.model.to(device),
        vlm.processor,
        replace(learning, tokens=learning.tokens.to(device)),
        frames=count,
        questions=_MEASURED_QUESTIONS,
        answer_tokens=budget.answer_tokens,
        tiles_per_edge=source.frozen.tiles_per_edge,
        frame_size_px=source.frozen.tile_px,
    )
