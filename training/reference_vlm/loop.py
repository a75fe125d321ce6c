"""What every training stage shares: schedule, optimiser, checkpoints that a later run continues from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from training.reference_vlm.config import StageBudget

Progress = Callable[[str], None]

_WARMUP_STEPS: Final = 100
_REPORT_EVERY: Final = 50
_CHECKPOINT_EVERY: Final = 200


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the training.

    Attributes:
        name: Name in checkpoints and progress lines.
        budget: Steps, batch and learning rate.
        modules: What is trained, by name; also what a checkpoint holds.
        frozen: Parameters of `modules` that must not move.
        loss: Computes (loss, figures to report) of step `step`.
    """

    name: str
    budget: StageBudget
    modules: dict[str, nn.Module]
    frozen: Iterable[nn.Parameter]
    loss: Callable[[int], tuple[Tensor, dict[str, float]]]


def learning_rate(step: int, budget: StageBudget) -> float:
    """Linear warm-up over at most 100 steps, then a cosine down to 3 % of the peak."""
    warmup = min(_WARMUP_STEPS, max(budget.steps // 10, 1))
    if step < warmup:
        return budget.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(budget.steps - warmup, 1)
    return budget.learning_rate * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share)))


def _optimiser(parameters: list[nn.Parameter], rate: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def run_stage(stage: Stage, checkpoint_dir: Path, *, progress: Progress) -> dict[str, float]:
    """Train one stage to its end, or load the result of a run that already did.

    Args:
        stage: What to train.
        checkpoint_dir: Holds `<stage>.pt`; an existing one is continued.
        progress: Called with a line every 50 steps.

    Returns:
        The last figures that the stage reported, means over the last 50 steps, and `seconds`: the wall time of the
        stage over all runs that worked on it.
    """
    frozen = {id(parameter) for parameter in stage.frozen}
    unique = {id(p): p for module in stage.modules.values() for p in module.parameters() if id(p) not in frozen}
    parameters = list(unique.values())
    optimiser = _optimiser(parameters, stage.budget.learning_rate)
    path = checkpoint_dir / f"{stage.name}.pt"
    start, figures, earlier_s = 0, dict[str, float](), 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        for name, module in stage.modules.items():
            module.load_state_dict(state["modules"][name])
        start, figures, earlier_s = int(state["step"]), state["figures"], float(state["seconds"])
        if start < stage.budget.steps:
            optimiser.load_state_dict(state["optimiser"])
        progress(f"{stage.name}: continues at step {start} of {stage.budget.steps}")
    sums: dict[str, float] = {}
    reported = start
    began = time.monotonic()
    for step in range(start, stage.budget.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, stage.budget)
        loss, values = stage.loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for name, value in {"loss": loss.item(), **values}.items():
            sums[name] = sums.get(name, 0.0) + value
        done = step + 1
        if done % _REPORT_EVERY == 0 or done == stage.budget.steps:
            figures = {name: value / (done - reported) for name, value in sums.items()}
            sums, reported = {}, done
            text = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
            rate = (done - start) / (time.monotonic() - began)
            progress(f"{stage.name}: step {done} of {stage.budget.steps}, {rate:.2f} steps/s, {text}")
        if done % _CHECKPOINT_EVERY == 0 or done == stage.budget.steps:
            _save(path, stage, optimiser, done, figures, earlier_s + time.monotonic() - began)
    return {"seconds": round(earlier_s + time.monotonic() - began, 1), **figures}


def _save(
    path: Path, stage: Stage, optimiser: torch.optim.Optimizer, step: int, figures: dict[str, float], seconds: float
) -> None:
    """Write a checkpoint whole or not at all."""
    state: dict[str, Any] = {
        "step": step,
        "figures": figures,
        "seconds": seconds,
        "modules": {name: module.state_dict() for name, module in stage.modules.items()},
        "optimiser": optimiser.state_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
