"""Train the Meta AutoEncoder, from the KLT on."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline.codec.klt_torch import KltTransform
from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder, MetaAutoEncoderConfig
from training.codec.config import CodecBudget
from training.codec.fit.language_view import LanguageView
from training.codec.fit.material import Material
from training.codec.fit.rate import RateModel
from training.run import Progress

_REPORT_EVERY: Final = 100
_CHECKPOINT_EVERY_S: Final = 40.0
_WARMUP: Final = 0.02
"""Share of the training."""
_TARGET_RAMP: Final = 0.3
"""Share of the training over which the size comes down from that of the start to the target. At once, it would empty
the later latents before the decoder has learned to use them."""
_CONTROL: Final = 0.03
"""How fast the price of bits follows a size beside the target: change of its logarithm a step for a relative miss of
1."""
_CONTROL_NOW: Final = 3.0
"""And how much of it follows at once."""
_LINEAR_SHARE: Final = 0.2


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
        planes=klt.planes,
    )
    model = MetaAutoEncoder(config).to(tokens.device)
    with torch.no_grad():
        sample = tokens.float()
        model.start_at(klt, klt.analyse(sample).std(0), float((sample - klt.mean).std()))
    return model


def keep_analysis(model: MetaAutoEncoder) -> None:
    """Freeze all that decides about symbols; what is left to learn only reads them."""
    kept = [model.mean, model.token_analysis, model.channel_analysis, model.log_step, *model.encoder.parameters()]
    for parameter in kept:
        parameter.requires_grad_(False)


def draw_prefix_lengths(generator: torch.Generator, count: int, latent_count: int, full_share: float) -> Tensor:
    """Prefix lengths of a batch, int64 [count], on the generator's device.

    Half of them are uniform, half log-uniform, which do not starve short prefixes; a share is whole in any case.

    Args:
        generator: Of random numbers.
        count: How many.
        latent_count: The longest.
        full_share: Share of whole latents besides.
    """
    place, kind, whole = torch.rand(3, count, generator=generator, device=generator.device)
    logarithmic = torch.exp(place * math.log(latent_count + 1)).long()
    even = (place * latent_count).long() + 1
    lengths = torch.where(kind < 0.5, even, logarithmic)
    return torch.where(whole < full_share, latent_count, lengths).clamp(1, latent_count)


class MetaTrainer:
    """One training run: model, running statistics, optimiser, and how far it has come.

    Loss: feature error over the tokens' variance, plus the divergence of the frozen language model's answers, plus the
    price of the prefix's bits. No label is used.

    Args:
        model: From `start_meta`.
        material: What to learn from, on the model's device.
        view: The frozen language model's view; None trains on feature error and rate alone.
        prices: Of a bit at each prefix length, see `prefix_prices`; zeros where the analysis is kept.
        budget: Steps, batches and weights.
        seed: Order of frames, prefix lengths and noise.

    Attributes:
        model: The model, trained in place.
        step: Steps done.
        spent_s: Seconds of training, those before a resumption included.
        figures: Means of the last report.
    """

    def __init__(
        self,
        model: MetaAutoEncoder,
        material: Material,
        view: LanguageView | None,
        prices: Tensor,
        budget: CodecBudget,
        *,
        seed: int,
    ) -> None:
        self.model = model
        self._material = material
        self._view = view if budget.view_weight else None
        self._budget = budget
        self._seed = seed
        device = material.tokens.device
        self._generator = torch.Generator(device)
        self._rate = RateModel(model.latent_count, model.latent_dim).to(device)
        self._optimiser = _optimiser(model, budget.learning_rate)
        self._variance = (material.tokens[:2048].float() - model.mean.detach()).square().mean()
        self._price = prices if budget.rate == "slope" else torch.full_like(prices, float(prices[-1]))
        self._log_factor = torch.zeros((), device=device)
        self._factor = torch.ones((), device=device)
        self._zero = torch.zeros((), device=device)
        self.step = 0
        self.spent_s = 0.0
        self.figures: dict[str, float] = {}
        with torch.no_grad():
            self._rate.observe(model.quantise(model.analyse(material.tokens[:1024].float())), momentum=0.0)
            symbols = model.quantise(model.analyse(material.tokens[:256].float()))
            self._start_bytes = float(self._rate.bits(symbols, self._zero).sum((1, 2)).mean()) / 8

    def resume(self, checkpoint: Path) -> bool:
        """Continue where a checkpoint was written, if there is one."""
        if not checkpoint.exists():
            return False
        state = torch.load(checkpoint, weights_only=True, map_location=self._material.tokens.device)
        self.model.load_state_dict(state["model"])
        self._rate.load_state_dict(state["rate"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._log_factor.copy_(state["log_factor"])
        self.step, self.spent_s, self.figures = int(state["step"]), float(state["spent_s"]), state["figures"]
        self._start_bytes = float(state["start_bytes"])
        return True

    def save(self, checkpoint: Path) -> None:
        """Write a checkpoint whole or not at all."""
        state: dict[str, Any] = {
            "step": self.step,
            "spent_s": self.spent_s,
            "start_bytes": self._start_bytes,
            "figures": self.figures,
            "log_factor": self._log_factor,
            "model": self.model.state_dict(),
            "rate": self._rate.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)

    @property
    def progress(self) -> float:
        """How much of the training is done, by steps or by time, whichever is more; 1 at its end."""
        share = self.step / self._budget.steps
        if self._budget.max_seconds is not None:
            share = max(share, self.spent_s / self._budget.max_seconds)
        return min(share, 1.0)

    def run(
        self, checkpoint: Path, report: Progress, *, stop: int | None = None, until: float | None = None
    ) -> dict[str, float]:
        """Train to the end of the budget; writes checkpoints now and then and at the end.

        Args:
            checkpoint: File of weights, optimiser and progress.
            report: Called with a line of text now and then.
            stop: Step to stop at, for a later call to continue.
            until: Time to stop at, as `time.time` counts it, for a later call to continue.

        Returns:
            Means of the last report: error, divergence in nats, bytes of whole latents, factor of the price.
        """
        budget, cuda = self._budget, self._material.tokens.is_cuda
        self.model.train()
        self.model.fast_branches = cuda
        sums: dict[str, Tensor] = {}
        reported, saved, began, spent_s = self.step, time.monotonic(), time.monotonic(), self.spent_s
        first = self.step
        while self.progress < 1 and (stop is None or self.step < stop):
            for name, value in self._one_step().items():
                sums[name] = sums[name] + value if name in sums else value
            self.step += 1
            self.spent_s = spent_s + time.monotonic() - began
            done = self.progress >= 1 or self.step == stop or (until is not None and time.time() > until)
            if self.step % _REPORT_EVERY == 0 or done:
                self.figures = {name: float(value) / (self.step - reported) for name, value in sums.items()}
                sums, reported = {}, self.step
                speed = (self.step - first) / (time.monotonic() - began)
                text = " ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
                report(f"step {self.step} of {budget.steps}, {speed:.1f} steps/s, {self.progress:.0%}, {text}")
            if done or time.monotonic() - saved > _CHECKPOINT_EVERY_S:
                saved = time.monotonic()
                self.save(checkpoint)
            if done:
                break
        self.model.eval()
        self.model.fast_branches = False
        return self.figures

    def _one_step(self) -> dict[str, Tensor]:
        budget, model, material, generator = self._budget, self.model, self._material, self._generator
        done = self.progress
        generator.manual_seed(hash((self._seed, self.step)) & 0x7FFF_FFFF)
        for group in self._optimiser.param_groups:
            group["lr"] = group["share"] * _learning_rate(done, budget.learning_rate)
        viewing = self._view is not None and done >= budget.view_from
        shown = self._draw(len(material.frames), budget.view_frames if viewing else 0)
        others = self._draw(len(material.tokens), max(budget.batch - len(shown), 0))
        tokens = material.tokens[torch.cat([material.frames[shown], others])].float()
        lengths = draw_prefix_lengths(generator, len(tokens), model.latent_count, budget.full_share)
        in_prefix = model.in_prefix(lengths)
        coefficients = model.analyse(tokens)
        symbols = model.quantise(coefficients.detach())
        noise = torch.rand(coefficients.shape, generator=generator, device=tokens.device) - 0.5
        decoded = model.synthesise_values(self._values(coefficients, symbols, noise), in_prefix)
        error = (decoded - tokens).square().mean((1, 2)) / self._variance
        self._rate.observe(symbols)
        bits = torch.where(in_prefix, self._bits(coefficients, symbols, noise), 0.0).sum((1, 2))
        whole_bytes = self._control(symbols, done)
        loss = (error + self._factor * self._price[lengths] * bits).mean()
        divergence = self._zero
        if viewing and self._view is not None:
            asked = material.questions.of(shown)
            each = self._view.divergence(decoded[: len(shown)], asked, material.reference.of(shown))
            count = asked.asked.sum().clamp_min(1)
            divergence = each.sum() / count
            scale = budget.view_scale
            counted = scale * torch.log1p(each.clamp_min(0) / scale) if scale else each
            loss = loss + budget.view_weight * counted.sum() / count
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        figures = {"error": error.mean(), "divergence": divergence, "whole_bytes": whole_bytes}
        return {name: value.detach() for name, value in figures.items()} | {"factor": self._factor}

    def _draw(self, count: int, size: int) -> Tensor:
        return torch.randint(max(count, 1), (size,), generator=self._generator, device=self._generator.device)

    def _values(self, coefficients: Tensor, symbols: Tensor, noise: Tensor) -> Tensor:
        """What the decoder is given for coefficients, in steps, with gradients to them."""
        model = self.model
        if self._budget.quantiser == "noise":
            return coefficients + noise * model.unit.view_as(model.log_step)
        # The value is that of the symbols, the gradient that of the coefficients.
        return model.restore(symbols) + (coefficients - coefficients.detach())

    def _bits(self, coefficients: Tensor, symbols: Tensor, noise: Tensor) -> Tensor:
        """Code length with gradients; that of a refinement is about the same whatever the coefficient."""
        model = self.model
        unit, refines = (part.view_as(model.log_step) for part in (model.unit, model.parent >= 0))
        smooth = torch.where(refines, symbols, coefficients / unit)
        return self._rate.bits(smooth, torch.where(refines, 0.0, noise))

    @torch.no_grad()
    def _control(self, symbols: Tensor, done: float) -> Tensor:
        """Move the price of bits so that whole latents approach the target; returns their size in bytes."""
        size = self._rate.bits(symbols, self._zero).sum((1, 2)).mean() / 8
        ramp = min(done / _TARGET_RAMP, 1.0)
        target = self._start_bytes + (self._budget.target_bytes - self._start_bytes) * ramp
        miss = (size / target - 1).clamp(-1, 1)
        self._log_factor += _CONTROL * miss
        self._log_factor.clamp_(-4, 4)
        self._factor = torch.exp(self._log_factor + _CONTROL_NOW * miss)
        return size


def _learning_rate(done: float, peak: float) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if done < _WARMUP:
        return peak * (0.02 + 0.98 * done / _WARMUP)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - _WARMUP) / (1 - _WARMUP))))


def _optimiser(model: MetaAutoEncoder, rate: float) -> torch.optim.AdamW:
    """Residual branches and steps at the full rate, bases more slowly; what came from the KLT is never decayed.

    What needs no gradient stays as it is.
    """
    residual = [*model.decoder.parameters(), *model.encoder.parameters()]
    quantiser = [model.log_step, model.shrink]
    known = {id(parameter) for parameter in (*residual, *quantiser)}
    linear = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in residual if p.ndim >= 2], "weight_decay": 0.02, "share": 1.0},
        {"params": [p for p in residual if p.ndim < 2] + quantiser, "weight_decay": 0.0, "share": 1.0},
        {"params": linear, "weight_decay": 0.0, "share": _LINEAR_SHARE},
    ]
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=model.mean.is_cuda)
