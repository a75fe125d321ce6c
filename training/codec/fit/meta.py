"""Train the Meta AutoEncoder, from the KLT on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline.codec.klt_torch import KltTransform
from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder, MetaAutoEncoderConfig
from schemas.errors import ConfigError
from training.codec.chunks import frames_at_once
from training.codec.config import CodecBudget
from training.codec.fit.language_view import AnswerView
from training.codec.fit.material import Material
from training.codec.fit.parallel import ALONE, Parallel
from training.codec.fit.rate import RateModel
from training.run import Progress

REPORT_EVERY: Final = 100
_CHECKPOINT_EVERY_S: Final = 40.0
_WARMUP: Final = 0.02
"""Share of the training."""
TARGET_RAMP: Final = 0.3
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
    config = replace(
        meta_config(budget, klt.token_count, klt.token_dim),
        latent_count=klt.latent_count,
        latent_dim=klt.latent_dim,
        planes=klt.planes,
    )
    model = MetaAutoEncoder(config).to(tokens.device)
    with torch.no_grad():
        sample = tokens.float()
        model.start_at(klt, klt.analyse(sample).std(0), float((sample - klt.mean).std()))
    return model


def meta_config(budget: CodecBudget, token_count: int, token_dim: int) -> MetaAutoEncoderConfig:
    """Sizes of the Meta AutoEncoder that a budget makes for tokens [.., N, D]."""
    return MetaAutoEncoderConfig(
        token_count=token_count,
        token_dim=token_dim,
        latent_count=budget.latent_count,
        latent_dim=budget.latent_dim,
        encoder_width=budget.encoder_width,
        decoder_width=budget.decoder_width,
        decoder_layers=budget.decoder_layers,
        planes=budget.planes,
    )


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


@dataclass(frozen=True, slots=True)
class StepParts:
    """How the batch of a step is computed; the result is the same but for rounding, whatever is chosen.

    Attributes:
        accumulate: Parts, one after the other, on each process; less memory for the same batch.
        parallel: The processes that share the batch.
        half: Compute residual branches in bfloat16; what decides about symbols stays in single precision. None does so
            on accelerators.
    """

    accumulate: int = 1
    parallel: Parallel = ALONE
    half: bool | None = None

    @property
    def count(self) -> int:
        """Parts of a batch."""
        return self.accumulate * self.parallel.count

    @property
    def mine(self) -> range:
        """Those of this process."""
        return range(self.parallel.rank, self.count, self.parallel.count)


WHOLE_BATCH: Final = StepParts()


@dataclass(frozen=True, slots=True)
class _Draw:
    """What a step learns from: the whole batch, of which each part takes every n-th frame.

    Attributes:
        frames: Rows of the visual tokens [B].
        shown: Rows of the frames with questions, which come first [V].
        lengths: Prefix lengths [B].
        noise: Between -0.5 and 0.5 [B, K, d].
        asked: Questions about those that are shown, at least 1.
    """

    frames: Tensor
    shown: Tensor
    lengths: Tensor
    noise: Tensor
    asked: Tensor

    def part(self, number: int, count: int) -> _Draw:
        if count == 1:
            return self
        shown = self.shown[number::count]
        rest = slice(len(self.shown) + number, None, count)

        def of(whole: Tensor) -> Tensor:
            return torch.cat([whole[: len(self.shown)][number::count], whole[rest]])

        return _Draw(of(self.frames), shown, of(self.lengths), of(self.noise), self.asked)


class MetaTrainer:
    """One training run: model, running statistics, optimiser, and how far it has come.

    Loss: feature error over the tokens' variance, plus the divergence of the frozen language model's answers, plus the
    price of the prefix's bits. No label is used.

    Args:
        model: From `start_meta`.
        material: What to learn from; its tokens may lie elsewhere than the model, or in a file.
        view: The frozen language model's view; None trains on feature error and rate alone.
        prices: Of a bit at each prefix length, see `prefix_prices`; zeros where the analysis is kept.
        budget: Steps, batches and weights.
        seed: Order of frames, prefix lengths and noise.
        parts: How a batch is computed.

    Attributes:
        model: The model, trained in place.
        device: Where it is trained.
        step: Steps done.
        spent_s: Seconds of training, those before a resumption included.
        figures: Means of the last report.

    Raises:
        ConfigError: a batch of fewer frames than parts.
    """

    def __init__(
        self,
        model: MetaAutoEncoder,
        material: Material,
        view: AnswerView | None,
        prices: Tensor,
        budget: CodecBudget,
        *,
        seed: int,
        parts: StepParts = WHOLE_BATCH,
    ) -> None:
        if budget.batch < parts.count:
            raise ConfigError("--batch", f"{budget.batch} frames are not enough for {parts.count} parts")
        self.model = model
        self._material = material
        self._view = view if budget.view_weight else None
        self._budget = budget
        self._seed = seed
        self._parts = parts
        self.device = device = model.mean.device
        self._half = device.type != "cpu" if parts.half is None else parts.half
        self._generator = torch.Generator(device)
        self._rate = RateModel(model.latent_count, model.latent_dim).to(device)
        self._optimiser = _optimiser(model, budget.learning_rate)
        self._variance = (self._sample(2048) - model.mean.detach()).square().mean()
        self._price = prices if budget.rate == "slope" else torch.full_like(prices, float(prices[-1]))
        self._log_factor = torch.zeros((), device=device)
        self._factor = torch.ones((), device=device)
        self._zero = torch.zeros((), device=device)
        self.step = 0
        self.spent_s = 0.0
        self.figures: dict[str, float] = {}
        with torch.no_grad():
            self._rate.observe(model.quantise(model.analyse(self._sample(1024))), momentum=0.0)
            symbols = model.quantise(model.analyse(self._sample(256)))
            self._start_bytes = float(self._rate.bits(symbols, self._zero).sum((1, 2)).mean()) / 8

    def _sample(self, most: int) -> Tensor:
        """The first frames, float32 [F, N, D]."""
        tokens = self._material.tokens
        return tokens[: frames_at_once(tokens[0].numel(), most)].to(self.device).float()

    def resume(self, checkpoint: Path) -> bool:
        """Continue where a checkpoint was written, if there is one."""
        if not checkpoint.exists():
            return False
        state = torch.load(checkpoint, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self._rate.load_state_dict(state["rate"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._log_factor.copy_(state["log_factor"])
        self._factor = state.get("factor", torch.exp(self._log_factor)).to(self.device)
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
            "factor": self._factor,
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
        self,
        checkpoint: Path,
        report: Progress,
        *,
        stop: int | None = None,
        until: float | None = None,
        log: Callable[[int, dict[str, float]], None] | None = None,
        log_every: int = REPORT_EVERY,
    ) -> dict[str, float]:
        """Train to the end of the budget; writes checkpoints now and then and at the end.

        Args:
            checkpoint: File of weights, optimiser and progress; the first of several processes writes it.
            report: Called with a line of text now and then.
            stop: Step to stop at, for a later call to continue.
            until: Time to stop at, as `time.time` counts it, for a later call to continue.
            log: Called with a step and figures, as often as `report`.
            log_every: Steps between two reports.

        Returns:
            Means of the last report: error, divergence in nats, bytes of whole latents, factor of the price.
        """
        budget = self._budget
        self.model.train()
        self.model.fast_branches = self._half
        sums: dict[str, Tensor] = {}
        reported, saved, began, spent_s = self.step, time.monotonic(), time.monotonic(), self.spent_s
        first = self.step
        while self.progress < 1 and (stop is None or self.step < stop):
            for name, value in self.one_step(spent_s + time.monotonic() - began).items():
                sums[name] = sums[name] + value if name in sums else value
            self.step += 1
            done = self.progress >= 1 or self.step == stop or (until is not None and time.time() > until)
            if self.step % log_every == 0 or done:
                self.figures = {name: float(value) / (self.step - reported) for name, value in sums.items()}
                sums, reported = {}, self.step
                speed = (self.step - first) / (time.monotonic() - began)
                text = " ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
                report(f"step {self.step} of {budget.steps}, {speed:.1f} steps/s, {self.progress:.0%}, {text}")
                if log is not None:
                    rate = self._optimiser.param_groups[0]["lr"]
                    log(self.step, {**self.figures, "learning_rate": float(rate), "steps_per_s": speed})
            if done or time.monotonic() - saved > _CHECKPOINT_EVERY_S:
                saved = time.monotonic()
                if self._parts.parallel.rank == 0:
                    self.save(checkpoint)
            if done:
                break
        self.model.eval()
        self.model.fast_branches = False
        return self.figures

    def one_step(self, spent_s: float) -> dict[str, Tensor]:
        """Learn from one batch; `run` calls it.

        Args:
            spent_s: Seconds of training before it, by this process's clock.

        Returns:
            Means over the batch.
        """
        budget, model, done = self._budget, self.model, self.progress
        self._generator.manual_seed(hash((self._seed, self.step)) & 0x7FFF_FFFF)
        for group in self._optimiser.param_groups:
            group["lr"] = group["share"] * _learning_rate(done, budget.learning_rate)
        draw = self._drawn(viewing=self._view is not None and done >= budget.view_from)
        found = _Sums.nothing(model)
        for number in self._parts.mine:
            found += self._backward(draw.part(number, self._parts.count))
        self.spent_s = self._together(found, spent_s)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        # Statistics and price of the next step: parts that are computed elsewhere have the same.
        self._rate.observe_means(found.zero, found.magnitude)
        self._control(found.size_bytes, done)
        figures = {"error": found.error, "divergence": found.divergence, "whole_bytes": found.size_bytes}
        return figures | {"factor": self._factor}

    def _drawn(self, *, viewing: bool) -> _Draw:
        """Frames, prefix lengths and noise of a step: those of the whole batch, whoever computes which part."""
        budget, model, material, generator = self._budget, self.model, self._material, self._generator
        shown = self._draw(len(material.frames), budget.view_frames if viewing else 0)
        others = self._draw(len(material.tokens), max(budget.batch - len(shown), 0))
        frames = torch.cat([material.frames[shown], others])
        lengths = draw_prefix_lengths(generator, len(frames), model.latent_count, budget.full_share)
        shape = (len(frames), model.latent_count, model.latent_dim)
        noise = torch.rand(shape, generator=generator, device=self.device) - 0.5
        asked = material.questions.asked[shown].sum().clamp_min(1)
        return _Draw(frames, shown, lengths, noise, asked)

    def _backward(self, draw: _Draw) -> _Sums:
        """Add the gradients of a part of a batch; what it gives is its share of the batch's means."""
        budget, model, material = self._budget, self.model, self._material
        of_batch = 1 / max(budget.batch, budget.view_frames if len(draw.shown) else 0)
        tokens = material.tokens[draw.frames.to(material.tokens.device)].to(self.device).float()
        in_prefix = model.in_prefix(draw.lengths)
        coefficients = model.analyse(tokens)
        symbols = model.quantise(coefficients.detach())
        decoded = model.synthesise_values(self._values(coefficients, symbols, draw.noise), in_prefix)
        error = (decoded - tokens).square().mean((1, 2)) / self._variance
        bits = torch.where(in_prefix, self._bits(coefficients, symbols, draw.noise), 0.0).sum((1, 2))
        loss = (error + self._factor * self._price[draw.lengths] * bits).sum() * of_batch
        divergence = self._zero
        if len(draw.shown) and self._view is not None:
            questions, reference = material.questions.of(draw.shown), material.reference.of(draw.shown)
            each = self._view.divergence(decoded[: len(draw.shown)], questions, reference)
            divergence = each.detach().sum() / draw.asked
            scale = budget.view_scale
            counted = scale * torch.log1p(each.clamp_min(0) / scale) if scale else each
            loss = loss + budget.view_weight * counted.sum() / draw.asked
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            size_bytes = self._rate.bits(symbols, self._zero).sum() * of_batch / 8
            zero, magnitude = (symbols == 0).float().sum(0) * of_batch, symbols.abs().sum(0) * of_batch
        return _Sums(zero, magnitude, size_bytes, error.detach().sum() * of_batch, divergence)

    def _together(self, found: _Sums, spent_s: float) -> float:
        """Sum gradients and figures over all processes; the first one's clock counts for all."""
        parallel = self._parts.parallel
        if parallel.count == 1:
            return spent_s
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.requires_grad]
        known = [gradient for gradient in gradients if gradient is not None]
        clock = torch.tensor(spent_s if parallel.rank == 0 else 0.0, device=self.device)
        values = [*known, *found.values(), clock]
        total = parallel.total(torch.cat([value.flatten() for value in values]))
        for value, summed in zip(values, torch.split(total, [value.numel() for value in values]), strict=True):
            value.copy_(summed.view_as(value))
        return float(clock)

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
    def _control(self, size_bytes: Tensor, done: float) -> None:
        """Move the price of bits so that whole latents approach the target."""
        ramp = min(done / TARGET_RAMP, 1.0)
        target = self._start_bytes + (self._budget.target_bytes - self._start_bytes) * ramp
        miss = (size_bytes / target - 1).clamp(-1, 1)
        self._log_factor += _CONTROL * miss
        self._log_factor.clamp_(-4, 4)
        self._factor = torch.exp(self._log_factor + _CONTROL_NOW * miss)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Means over a batch, or what a part adds to them: symbols that are zero and their magnitude [K, d], figures."""

    zero: Tensor
    magnitude: Tensor
    size_bytes: Tensor
    error: Tensor
    divergence: Tensor

    @classmethod
    def nothing(cls, model: MetaAutoEncoder) -> _Sums:
        slots = torch.zeros_like(model.spread)
        nothing = slots.new_zeros(())
        return cls(slots, slots, nothing, nothing, nothing)

    def values(self) -> Iterator[Tensor]:
        yield from (self.zero, self.magnitude, self.size_bytes, self.error, self.divergence)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(*(mine + theirs for mine, theirs in zip(self.values(), other.values(), strict=True)))


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
