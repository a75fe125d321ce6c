"""One training run, as each of its processes does it.

What it leaves in its run directory::

    checkpoint.pt      continue from here
    looks.json         looks at held-out pictures so far
    best.safetensors   weights of the best one
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor

from cloud_workers.inference.registry import load_model
from pipeline.codec.klt_torch import LatentShape
from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder
from pipeline.codec.prefix_decoder_torch import read_transform, save_transform
from pipeline.codec.spec import WEIGHTS_FILE
from pipeline.codec.transform_torch import LatentTransform
from training.codec.calibrate.tokens import open_tokens
from training.codec.config import CodecBudget
from training.codec.fit.material import Material
from training.codec.fit.meta import REPORT_EVERY, TARGET_RAMP, MetaTrainer, StepParts, meta_config
from training.codec.fit.parallel import Parallel
from training.codec.fit.prompt_view import view_of
from training.codec.fit.rate_curve import CurvePoint, rate_curve
from training.codec.train.logs import TrainingLog
from training.codec.train.looks import Looks, Rungs
from training.codec.train.plan import Learning
from training.run import Progress, silent

START: Final = "start.pt"
CHECKPOINT: Final = "checkpoint.pt"
LOOKS: Final = "looks.json"
BEST: Final = "best.safetensors"
_HELD_IN_MEMORY: Final = 0.25
"""Share of an accelerator's free memory that visual tokens may take; more of them are read from their file."""
_TABLE_FRAMES: Final = 512
_CURVE_POINTS: Final = 8


@dataclass(frozen=True, slots=True)
class LearnJob:
    """A training, for each of its processes.

    Attributes:
        vlm_dir: The model.
        tiles_per_edge: As in `CodecSpec`.
        frame_size_px: Edge of a tile; None for the family's usual one.
        tokens: File of visual tokens.
        ranges: First row of each set in it, and one past its last.
        klt: Folder of the closed form's codec, with `START`.
        asked: Folder with the questions and answers about training and held-out pictures.
        run_dir: For checkpoints.
        logs: For TensorBoard.
        budget: How much of everything.
        learning: How it learns.
        seed: Of everything random.
        threads: CPU threads of each process.
        device: Where to learn.
    """

    vlm_dir: Path
    tiles_per_edge: int
    frame_size_px: int | None
    tokens: Path
    ranges: dict[str, tuple[int, int]]
    klt: Path
    asked: Path
    run_dir: Path
    logs: Path
    budget: CodecBudget
    learning: Learning
    seed: int
    threads: int
    device: str


def learn(job: LearnJob, parallel: Parallel, device: torch.device, report: Progress, model: Any = None) -> None:
    """Train to the end, from the last checkpoint if there is one.

    Args:
        job: What to do.
        parallel: This process among all of them.
        device: Where it computes.
        report: Called with a line of text now and then.
        model: The frozen model on that device, if it is loaded.
    """
    torch.set_num_threads(job.threads)
    if model is None:
        vlm = load_model(job.vlm_dir, tiles_per_edge=job.tiles_per_edge, frame_size_px=job.frame_size_px)
        model = vlm.model.to(device)
    tokens = open_tokens(job.tokens)
    material = Material.load(job.asked / "train", device, _placed(tokens, job.ranges["train"], device))
    held_out = Material.load(job.asked / "selection", device, tokens[slice(*job.ranges["selection"])])
    start = torch.load(job.klt / START, weights_only=True, map_location=device)
    meta = MetaAutoEncoder(meta_config(job.budget, int(tokens.shape[1]), int(tokens.shape[2]))).to(device)
    meta.load_state_dict(start["model"])
    half = device.type != "cpu" if job.learning.half is None else job.learning.half
    view = view_of(model, material.prompts, half=half)
    parts = StepParts(job.learning.accumulate, parallel, half)
    trainer = MetaTrainer(meta, material, view, start["prices"], job.budget, seed=job.seed, parts=parts)
    if trainer.resume(job.run_dir / CHECKPOINT):
        report(f"continues at step {trainer.step}")
    judge = None
    if parallel.rank == 0:
        tables = tokens[slice(*job.ranges["tables"])][:_TABLE_FRAMES]

        def curve(transform: LatentTransform) -> list[CurvePoint]:
            return rate_curve(transform, tables, held_out, view, points=_CURVE_POINTS)

        judge = _Judge(job, trainer, curve, report)
    try:
        _train(job, trainer, judge, parallel, report)
    finally:
        if judge is not None:
            judge.log.close()


def _train(job: LearnJob, trainer: MetaTrainer, judge: _Judge | None, parallel: Parallel, report: Progress) -> None:
    every = job.learning.evaluate_every
    quiet: Progress = report if judge is not None else silent
    while True:
        if trainer.step % every == 0 or trainer.progress >= 1:
            over = judge is not None and judge.look()
            # The first process has looked; all of them have to end at the same step.
            if bool(parallel.total(torch.tensor(float(over), device=trainer.device))):
                break
        if trainer.progress >= 1:
            break
        trainer.run(
            job.run_dir / CHECKPOINT,
            quiet,
            stop=(trainer.step // every + 1) * every,
            log=None if judge is None else judge.log.figures,
            log_every=min(REPORT_EVERY, every),
        )


class _Judge:
    """Looks at held-out pictures, for all processes."""

    def __init__(
        self,
        job: LearnJob,
        trainer: MetaTrainer,
        curve: Callable[[LatentTransform], list[CurvePoint]],
        report: Progress,
    ) -> None:
        self._job, self._trainer, self._curve, self._report = job, trainer, curve, report
        self.log = TrainingLog(job.logs, trainer.step)
        self._looks = Looks(job.run_dir / LOOKS, job.learning.patience)
        self._looks.go_back_to(trainer.step)
        if self._looks.rungs is None:
            self._looks.rungs = Rungs.of(curve(self._closed_form()))

    def _closed_form(self) -> LatentTransform:
        model = self._trainer.model
        shape = LatentShape(model.token_count, model.token_dim, model.latent_count, model.latent_dim)
        return read_transform(self._job.klt / WEIGHTS_FILE, "klt", shape).to(self._trainer.device)

    def look(self) -> bool:
        """Look, unless it was done before; whether the training is over."""
        trainer, looks, rungs = self._trainer, self._looks, self._looks.rungs
        found = looks.at(trainer.step)
        if found is None and rungs is not None:
            counts = trainer.progress > max(self._job.budget.view_from, TARGET_RAMP)
            found = rungs.look(self._curve(trainer.model.eval()), trainer.step, counts=counts)
            best = looks.best
            if best is None or found.is_better_than(best):
                # Before the look is noted: a run that is killed in between looks again.
                partial = (self._job.run_dir / BEST).with_suffix(".partial")
                save_transform(trainer.model, partial)
                partial.replace(self._job.run_dir / BEST)
            looks.add(found)
            self.log.look(found, rungs)
            self._report(
                f"held out, step {found.step}: agreement {found.agreement:.1%}, error {found.error:.4f} at the KLT's "
                f"sizes (KLT {fmean(rungs.agreement):.1%}, {fmean(rungs.error):.4f}), "
                f"whole latents {found.whole_bytes:.0f} bytes"
            )
        if over := looks.is_over():
            self._report(f"no better for {self._job.learning.patience} looks: ends at step {trainer.step}")
        return over


def _placed(tokens: Tensor, rows: tuple[int, int], device: torch.device) -> Tensor:
    """Tokens on an accelerator if they are small enough, or else in their file."""
    mine = tokens[slice(*rows)]
    if device.type != "cuda":
        return mine
    free, _ = torch.cuda.mem_get_info(device)
    return mine.to(device) if mine.nbytes < _HELD_IN_MEMORY * free else mine
