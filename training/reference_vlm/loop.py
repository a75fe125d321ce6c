"""What every training stage shares: schedule, optimiser, checkpoints that a later run continues from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from training.reference_vlm.config import StageBudget
from training.run import Progress

_WARMUP_SHARE: Final = 0.04
_REPORT_EVERY: Final = 50
_CHECKPOINT_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the training.

    Attributes:
        name: Name in checkpoints and progress lines.
        budget: Steps, batch, learning rate and perhaps a time.
        modules: What is trained, by name; also what a checkpoint holds.
        loss: Computes (loss, figures to report) of step `step`; figures stay on the device until they are reported.
    """

    name: str
    budget: StageBudget
    modules: dict[str, nn.Module]
    loss: Callable[[int], tuple[Tensor, dict[str, Tensor]]]
    slower: Mapping[str, float] = field(default_factory=dict)
    """Modules that learn at a share of the learning rate, by name."""
    watch: Callable[[int], str] | None = None
    """Measures the model after a step and says what it found; called at every `watch_every`th step and the last."""
    watch_every: int = 500


def share_done(step: int, spent_s: float, budget: StageBudget) -> float:
    """How much of a stage is over, 0 to 1: by steps, or by time where that is scarcer."""
    by_time = spent_s / budget.max_seconds if budget.max_seconds else 0.0
    return min(max(step / max(budget.steps, 1), by_time), 1.0)


def learning_rate(share: float, budget: StageBudget) -> float:
    """Linear warm-up over the first 4 %, then a cosine down to 2 % of the peak."""
    if share < _WARMUP_SHARE:
        return budget.learning_rate * max(share / _WARMUP_SHARE, 0.02)
    rest = (share - _WARMUP_SHARE) / (1 - _WARMUP_SHARE)
    return budget.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * rest)))


def _optimiser(parameters: list[nn.Parameter], rate: float, factors: dict[int, float]) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; `factors` of the learning rate by the id of a parameter."""
    groups = [
        {"params": chosen, "weight_decay": decay, "factor": factor}
        for factor in sorted({factors.get(id(parameter), 1.0) for parameter in parameters}, reverse=True)
        for decay in (0.05, 0.0)
        if (
            chosen := [
                parameter
                for parameter in parameters
                if factors.get(id(parameter), 1.0) == factor and (parameter.ndim >= 2) == (decay > 0)
            ]
        )
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=parameters[0].is_cuda or None)


def run_stage(stage: Stage, checkpoint_dir: Path, *, progress: Progress) -> dict[str, float]:
    """Train one stage to its end, or load the result of a run that already did.

    Args:
        stage: What to train.
        checkpoint_dir: Holds `<stage>.pt`; an existing one is continued.
        progress: Called with a line every 50 steps.

    Returns:
        The last figures that the stage reported, means over the last 50 steps; `seconds` and `steps`: the wall time and
        the steps of the stage over all runs that worked on it.
    """
    unique = {id(p): p for module in stage.modules.values() for p in module.parameters()}
    parameters = [parameter for parameter in unique.values() if parameter.requires_grad]
    factors = {id(p): factor for name, factor in stage.slower.items() for p in stage.modules[name].parameters()}
    optimiser = _optimiser(parameters, stage.budget.learning_rate, factors)
    path = checkpoint_dir / f"{stage.name}.pt"
    step, figures, earlier_s, share = 0, dict[str, float](), 0.0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True, map_location=parameters[0].device)
        for name, module in stage.modules.items():
            module.load_state_dict(state["modules"][name])
        step, figures, earlier_s, share = int(state["step"]), state["figures"], state["seconds"], state["share"]
        if share < 1:
            optimiser.load_state_dict(state["optimiser"])
        progress(f"{stage.name}: continues at step {step}, {share:.0%} done")
    sums: dict[str, list[Tensor]] = {}
    first = step
    began = saved = time.monotonic()
    while share < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(share, stage.budget) * group["factor"]
        loss, parts = stage.loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for name, value in {"loss": loss, **parts}.items():
            sums.setdefault(name, []).append(value.detach())
        step += 1
        now = time.monotonic()
        share = share_done(step, earlier_s + now - began, stage.budget)
        if step % _REPORT_EVERY == 0 or share >= 1:
            figures = {name: torch.stack(values).float().mean().item() for name, values in sums.items()}
            sums = {}
            text = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
            rate = (step - first) / (time.monotonic() - began)
            progress(f"{stage.name}: step {step}, {share:.0%}, {rate:.2f} steps/s, {text}")
        if stage.watch is not None and (step % stage.watch_every == 0 or share >= 1):
            progress(f"{stage.name}: step {step}, {stage.watch(step)}")
        if now - saved > _CHECKPOINT_EVERY_S or share >= 1:
            saved = now
            _save(path, stage, optimiser, _Done(step, share, figures, earlier_s + now - began))
    return {"seconds": round(earlier_s + time.monotonic() - began, 1), "steps": step, **figures}


@dataclass(frozen=True, slots=True)
class _Done:
    """How far a stage has come."""

    step: int
    share: float
    figures: dict[str, float]
    seconds: float


def _save(path: Path, stage: Stage, optimiser: torch.optim.Optimizer, done: _Done) -> None:
    """Write a checkpoint whole or not at all; a finished stage needs no optimiser."""
    state: dict[str, Any] = {
        "step": done.step,
        "share": done.share,
        "figures": done.figures,
        "seconds": done.seconds,
        "modules": {name: module.state_dict() for name, module in stage.modules.items()},
    }
    if done.share < 1:
        state["optimiser"] = optimiser.state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
