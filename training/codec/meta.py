"""Train the Meta AutoEncoder, from the KLT on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.codec.klt_torch import KltTransform
from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder, MetaAutoEncoderConfig
from training.codec.config import CodecBudget
from training.codec.language_view import LanguageView
from training.codec.rate import RateModel

Progress = Callable[[str], None]

_REPORT_EVERY: Final = 50
_CHECKPOINT_EVERY: Final = 200
_WARMUP_STEPS: Final = 50
_RATE_RAMP: Final = 0.3
"""Share of the steps over which the rate term grows to its weight. At full weight from the first step it empties the
later latents before the decoder has learned to use them."""
_LINEAR_SHARE: Final = 0.2
_BIT: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Material:
    """What one training run learns from.

    Attributes:
        tokens: Uncompressed visual tokens, float16 [F, N, D].
        questions: Texts of the questions about each frame; frames without any are not shown to the language model.
        answers: The model's own answers to them, from `LanguageView.greedy_answers`.
    """

    tokens: Tensor
    questions: Sequence[Sequence[str]]
    answers: Sequence[Tensor]


def start_meta(klt: KltTransform, tokens: Tensor, budget: CodecBudget, *, seed: int) -> MetaAutoEncoder:
    """A Meta AutoEncoder that equals a KLT.

    Args:
        klt: Fitted at the step to start from.
        tokens: Visual tokens of calibration frames [F, N, D], for the coefficients' spread.
        budget: Sizes.
        seed: Seed of the residual branches.
    """
    torch.manual_seed(seed)
    config = MetaAutoEncoderConfig(
        token_count=klt.token_count,
        token_dim=klt.token_dim,
        latent_count=klt.latent_count,
        latent_dim=klt.latent_dim,
        encoder_width=budget.encoder_width,
        decoder_width=budget.decoder_width,
        decoder_layers=budget.decoder_layers,
    )
    model = MetaAutoEncoder(config)
    model.start_at(klt, klt.analyse(tokens).std(0), float((tokens - klt.mean).std()))
    return model


def draw_prefix_lengths(
    rng: np.random.Generator, count: int, latent_count: int, full_share: float
) -> NDArray[np.int64]:
    """Prefix lengths of a batch: log-uniform, so that short prefixes are not starved, and a share of whole latents."""
    lengths = np.exp(rng.uniform(0.0, math.log(latent_count + 1), count)).astype(np.int64)
    lengths[rng.random(count) < full_share] = latent_count
    return np.clip(lengths, 1, latent_count)


def train_meta(
    model: MetaAutoEncoder,
    material: Material,
    view: LanguageView | None,
    budget: CodecBudget,
    *,
    seed: int,
    checkpoint: Path,
    progress: Progress,
    stop: int | None = None,
) -> dict[str, float]:
    """Train in place; continues from the checkpoint if there is one.

    Loss: feature error over the tokens' variance, plus the divergence of the frozen language model's answers, plus a
        ramped term of
    the code length of the prefix. No labels.

    Args:
        model: From `start_meta`.
        material: Frames to learn from.
        view: The frozen language model's view; None trains on feature error and rate alone.
        budget: Steps, batches and weights.
        seed: Order of frames, prefix lengths and noise.
        checkpoint: File of weights, optimiser and step.
        progress: Called with a line every 50 steps.
        stop: Step to stop at, for a later call to continue; None goes to the end of the budget.

    Returns:
        Means of the last report: loss, feature error, divergence in nats, bytes of whole latents. And `seconds`: the
        wall time of all steps, those before a resumption included.
    """
    rate = RateModel(model.latent_count, model.latent_dim)
    optimiser = _optimiser(model, budget.learning_rate)
    start, figures, spent_s = 0, dict[str, float](), 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        rate.load_state_dict(state["rate"])
        optimiser.load_state_dict(state["optimiser"])
        start, figures = int(state["step"]), state["figures"]
        spent_s = figures.get("seconds", 0.0)
        progress(f"meta autoencoder: continues at step {start} of {budget.steps}")
    else:
        with torch.no_grad():
            rate.observe(model.quantise(model.analyse(material.tokens[:1024].float())), momentum=0.0)
    variance = (material.tokens[:2048].float() - model.mean.detach()).square().mean()
    askable = np.array([index for index, texts in enumerate(material.questions) if texts], dtype=np.int64)
    last = budget.steps if stop is None else stop
    sums: dict[str, float] = {}
    reported, began = start, time.monotonic()
    model.train()
    for step in range(start, last):
        rng = np.random.default_rng([seed, step])
        for group in optimiser.param_groups:
            group["lr"] = group["share"] * _learning_rate(step, budget)
        shown = rng.choice(askable, min(budget.view_frames, len(askable)), replace=False) if view else askable[:0]
        others = rng.choice(len(material.tokens), max(budget.batch - len(shown), 0), replace=False)
        chosen = np.concatenate([shown, others])
        tokens = material.tokens[chosen].float()
        lengths = torch.from_numpy(draw_prefix_lengths(rng, len(chosen), model.latent_count, budget.full_share))
        coefficients = model.analyse(tokens)
        symbols = model.quantise(coefficients)
        decoded = model.synthesise(coefficients + (symbols - coefficients).detach(), lengths)
        error = (decoded - tokens).square().mean() / variance
        divergence = torch.zeros(())
        if view is not None and len(shown):
            divergence = view.divergence(
                decoded[: len(shown)],
                tokens[: len(shown)],
                [material.questions[index] for index in shown],
                [material.answers[index] for index in shown],
            )
        rate.observe(symbols.detach())
        noise = torch.from_numpy(rng.random(coefficients.shape, dtype=np.float32) - np.float32(0.5))
        bits = torch.where(model.in_prefix(lengths), rate.bits(coefficients, noise), 0.0).sum((1, 2)).mean()
        ramp = min(1.0, step / max(_RATE_RAMP * budget.steps, 1.0))
        loss = error + budget.view_weight * divergence + budget.rate_weight * _BIT * ramp * bits
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            whole_bytes = rate.bits(symbols, torch.zeros(())).sum((1, 2)).mean().item() / 8
        values = {"loss": loss, "error": error, "divergence": divergence}
        for name, value in {**{k: v.item() for k, v in values.items()}, "whole_bytes": whole_bytes}.items():
            sums[name] = sums.get(name, 0.0) + value
        done = step + 1
        if done % _REPORT_EVERY == 0 or done == last:
            figures = {name: value / (done - reported) for name, value in sums.items()}
            figures["seconds"] = spent_s + time.monotonic() - began
            sums, reported = {}, done
            speed = (done - start) / (time.monotonic() - began)
            text = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
            progress(f"meta autoencoder: step {done} of {budget.steps}, {speed:.2f} steps/s, {text}")
        if done % _CHECKPOINT_EVERY == 0 or done == last:
            _save(checkpoint, model, rate, optimiser, done, figures)
    model.eval()
    return figures


def _learning_rate(step: int, budget: CodecBudget) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    warmup = min(_WARMUP_STEPS, max(budget.steps // 10, 1))
    if step < warmup:
        return budget.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(budget.steps - warmup, 1)
    return budget.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def _optimiser(model: MetaAutoEncoder, rate: float) -> torch.optim.AdamW:
    """Residual branches at the full rate; what came from the KLT more slowly, and never decayed towards zero."""
    residual = [*model.decoder.parameters(), *(model.encoder.parameters() if model.encoder is not None else ())]
    known = {id(parameter) for parameter in residual}
    linear = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [
        {"params": [p for p in residual if p.ndim >= 2], "weight_decay": 0.02, "share": 1.0},
        {"params": [p for p in residual if p.ndim < 2], "weight_decay": 0.0, "share": 1.0},
        {"params": linear, "weight_decay": 0.0, "share": _LINEAR_SHARE},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def _save(
    path: Path,
    model: MetaAutoEncoder,
    rate: RateModel,
    optimiser: torch.optim.Optimizer,
    step: int,
    figures: dict[str, float],
) -> None:
    """Write a checkpoint whole or not at all."""
    state: dict[str, Any] = {
        "step": step,
        "figures": figures,
        "model": model.state_dict(),
        "rate": rate.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
