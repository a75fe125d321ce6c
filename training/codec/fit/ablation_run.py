"""The command that makes an ablation from rendered frames, in several processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoProcessor

from schemas.errors import ConfigError
from training.codec.config import CodecBudget
from training.codec.data import cached_tokens, scene_set
from training.codec.fit.ablation import (
    ABLATION_BUDGETS,
    HELD_OUT,
    TABLES,
    collect_results,
    drop_claims,
    run_variants,
    save_tables,
    variants_named,
)
from training.codec.fit.ablation_jobs import describe_job, start_jobs, wait_for_jobs
from training.codec.fit.material import LearningSet, Material, ask
from training.codec.fit.train import DOMAINS, open_vlm

Progress = Callable[[str], None]

_HELD_OUT_FRAMES: Final = 600
_MEASURED_QUESTIONS: Final = 8
_MATERIAL: Final = "material"


def ablate_codec(
    vlm_dir: Path,
    cache_dir: Path,
    *,
    budget: CodecBudget | str = "full",
    device: str = "cpu",
    processes: int = 1,
    max_seconds: float | None = None,
    run_dir: Path | None = None,
    seed: int = 0,
    threads: int = 2,
    variants: Sequence[str] = (),
    progress: Progress = print,
) -> dict[str, Any]:
    """Train variants of the Meta AutoEncoder and measure them on held-out frames.

    Args:
        vlm_dir: The VLM, in `save_pretrained` format.
        cache_dir: For frames and tokens.
        budget: The default's, or a name in `ABLATION_BUDGETS`.
        device: Where to compute.
        processes: Variants at once.
        max_seconds: Break off after so many seconds; a second call continues.
        run_dir: Of this ablation; in the cache unless given. One that was begun elsewhere is only continued.
        seed: Of frames, weights, order and noise.
        threads: CPU threads, and rendering processes.
        variants: Names of those to train, in `VARIANTS`; all of them for none.
        progress: Called with a line of text now and then.

    Returns:
        Budget, results so far, names of what is missing.

    Raises:
        ConfigError: an unknown name of a budget or a variant.
    """
    chosen = variants_named(variants)
    if isinstance(budget, str):
        if budget not in ABLATION_BUDGETS:
            raise ConfigError("budget", f"{budget!r} is none of {', '.join(ABLATION_BUDGETS)}")
        budget = ABLATION_BUDGETS[budget]
    deadline = None if max_seconds is None else time.time() + max_seconds
    torch.set_num_threads(threads)
    run_dir = run_dir or cache_dir / "ablation"
    _prepare(vlm_dir, cache_dir, run_dir, budget, device=device, seed=seed, threads=threads, progress=progress)
    drop_claims(run_dir)
    if processes == 1:
        run_variants(
            vlm_dir,
            run_dir / _MATERIAL,
            run_dir,
            budget=budget,
            device=device,
            seed=seed,
            deadline=deadline,
            variants=chosen,
            progress=progress,
        )
    else:
        job = describe_job(
            vlm_dir,
            run_dir / _MATERIAL,
            run_dir,
            budget,
            device=device,
            seed=seed,
            deadline=deadline,
            variants=variants,
        )
        started = start_jobs({f"ablation-{index}": job for index in range(processes)}, run_dir / "jobs")
        progress(f"exit statuses: {wait_for_jobs(started)}, logs in {run_dir / 'jobs'}")
    return {"seed": seed, "device": device, "budget": budget.as_dict(), **collect_results(run_dir, chosen)}


def _prepare(
    vlm_dir: Path,
    cache_dir: Path,
    run_dir: Path,
    budget: CodecBudget,
    *,
    device: str,
    seed: int,
    threads: int,
    progress: Progress,
) -> None:
    vlm, frozen = open_vlm(vlm_dir, "ablation", tiles_per_edge=budget.tiles_per_edge)
    domains = DOMAINS["small" if budget.tiles_per_edge == 1 else "detailed"]
    processor = AutoProcessor.from_pretrained(vlm_dir)

    def tokens_of(name: str, count: int) -> LearningSet:
        data = scene_set(
            name,
            cache_dir,
            count=count,
            size=frozen.image_size_px,
            seed=seed,
            processes=threads,
            progress=progress,
            domains=domains,
        )
        path = (
            cache_dir
            / f"tokens-{frozen.sha256[:12]}"
            / f"{name}-{'-'.join(domains)}-{frozen.image_size_px}-{seed}-{count}.npy"
        )
        return LearningSet.of(cached_tokens(frozen.image_path, data.frames, path), data)

    vlm.model.to(device)
    for name, folder, count, questions in (
        ("train", run_dir / _MATERIAL, budget.train_frames, budget.view_questions),
        ("selection", run_dir / HELD_OUT, min(budget.train_frames, _HELD_OUT_FRAMES), _MEASURED_QUESTIONS),
    ):
        if not Material.is_saved(folder):
            learning = tokens_of(name, count)
            material = ask(
                vlm.model,
                processor,
                replace(learning, tokens=learning.tokens.to(device)),
                frames=budget.asked_frames if name == "train" else count,
                questions=questions,
                answer_tokens=budget.answer_tokens,
                tiles_per_edge=budget.tiles_per_edge,
            )
            material.save(folder)
    if not (run_dir / TABLES).exists():
        save_tables(tokens_of("tables", budget.table_frames).tokens, run_dir)
