"""Fit the closed-form codec to visual tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pipeline.codec.klt_torch import KltTransform, LatentShape
from pipeline.codec.transform_torch import PLANE_RATIO
from schemas.errors import StateError
from training.codec.chunks import chunks_of
from training.codec.token_statistics import TokenStatistics

_DEAD_ZONE: Final = 0.15
"""Wider zeros save 20 % of the bytes for 0.2 % of the objects on the reference VLM's tokens; a larger step costs
more."""
_LAYOUT_FRAMES: Final = 2_000
"""Frames that the order of the slots and the step are estimated on."""
_STEP_FRAMES: Final = 600
"""And of these, those that the step is searched on."""
_CANDIDATES: Final = 2
"""Coefficients considered, in multiples of the slots."""
_LARGEST: Final = 40
"""Magnitudes from here on count as one symbol in the estimate of entropies."""
_PLANE_FROM: Final = 0.4
"""A coefficient gets a coarser plane when its standard deviation is at least this many units of that plane."""
_STEP_RANGE: Final = (0.02, 40.0)
_BISECTIONS: Final = 14


def fit_klt(
    tokens: Tensor,
    latent_count: int,
    latent_dim: int,
    *,
    step: float | None = None,
    target_bytes: float | None = None,
    planes: int = 0,
) -> KltTransform:
    """Fit bases, order and reconstruction points.

    Slots are ordered by what they take off the error for each bit that they cost, so that every prefix is the best of
    its size among those that these coefficients can make.

    Args:
        tokens: Visual tokens of calibration frames, of any float type [F, N, D]; may be mapped from a file, it is read
            by parts of bounded size.
        latent_count: Latents of a frame, K.
        latent_dim: Symbols of a latent, d.
        step: Quantiser step, in standard deviations of a token value about its mean.
        target_bytes: In place of `step`: the size of whole latents that the step is chosen for.
        planes: Most refinement slots of a coefficient.

    Raises:
        StateError: fewer than 2 frames, more symbols than tokens hold values, not one of step and target, or tokens
            that are all alike or not finite.
    """
    frames, count, dim = tokens.shape
    slots = latent_count * latent_dim
    if frames < 2 or slots > count * dim:
        raise StateError(f"{frames} frames of {count} x {dim} values do not give {latent_count} x {latent_dim} symbols")
    if (step is None) == (target_bytes is None):
        raise StateError("a KLT is fitted to either a step or a target of bytes")
    transform = KltTransform(LatentShape(count, dim, latent_count, latent_dim), planes).to(tokens.device)
    transform.dead_zone.fill_(_DEAD_ZONE)
    statistics = TokenStatistics(count, dim, tokens.device)
    for part in chunks_of(tokens):
        statistics.update(part)
    deviation = statistics.deviation()
    transform.mean.copy_(statistics.mean)
    transform.token_basis.copy_(_basis(statistics.rows))
    transform.channel_basis.copy_(_basis(statistics.columns))
    variance = torch.zeros_like(transform.mean)
    for part in chunks_of(tokens):
        variance += transform.coefficients(part.float()).square().sum(0)
    candidates = variance.flatten().argsort(descending=True)[: _CANDIDATES * slots]
    stride = max(1, frames // _LAYOUT_FRAMES)
    sample = torch.cat(
        [
            transform.coefficients(part.float()).flatten(1)[:, candidates]
            for part in chunks_of(tokens[::stride][:_LAYOUT_FRAMES])
        ]
    )
    chosen = step * deviation if step is not None else _step_for(sample, planes, slots, target_bytes or 0.0, deviation)
    layout = _lay_out(sample, chosen, planes, slots)
    transform.step.fill_(chosen)
    transform.order.copy_(candidates[layout.candidate])
    transform.parent.copy_(layout.parent)
    transform.root.copy_(layout.root)
    transform.unit.copy_(layout.unit)
    transform.shrink.copy_(_centroid_offsets(transform, tokens))
    return transform.eval()


def _basis(covariance: Tensor) -> Tensor:
    """Eigenvectors, largest eigenvalue first, as columns; signs fixed so that equal data gives equal files."""
    vectors: Tensor = torch.linalg.eigh(covariance.double().cpu()).eigenvectors.flip(1)
    largest = vectors.abs().argmax(dim=0)
    return (vectors * vectors[largest, torch.arange(len(largest))].sign()).float()


@dataclass(frozen=True, slots=True)
class _Layout:
    """Slots in order: candidate, parent, root and unit of each [slots], and the mean bits of all of them together."""

    candidate: Tensor
    parent: Tensor
    root: Tensor
    unit: Tensor
    bits: float


def _step_for(sample: Tensor, planes: int, slots: int, target_bytes: float, deviation: float) -> float:
    """The step at which whole latents have about the wanted size, by bisection of its logarithm."""
    low, high = (math.log(limit * deviation) for limit in _STEP_RANGE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _lay_out(sample[:_STEP_FRAMES], math.exp(middle), planes, slots).bits > 8 * target_bytes:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def _lay_out(sample: Tensor, step: float, planes: int, slots: int) -> _Layout:
    """Order the slots of candidates [F, M] by error taken off for each bit.

    A refinement never comes before what it refines: its gain counts as at most that of its parent.
    """
    scaled = sample / step
    variance = scaled.square().mean(0)
    whole = scaled.sign() * torch.floor(scaled.abs() + (0.5 - _DEAD_ZONE))
    units = [float(PLANE_RATIO**level) for level in range(planes + 1)]
    levels = [torch.floor((whole + (unit - 1) / 2) / unit) for unit in units]
    errors = [_error(level, scaled / unit) * unit**2 for level, unit in zip(levels, units, strict=True)]
    top = sum(((variance.sqrt() >= _PLANE_FROM * unit).long() for unit in units[1:]), torch.zeros_like(variance).long())
    ceiling = torch.full_like(variance, torch.inf)
    slopes, bits = [], []
    for index in reversed(range(planes + 1)):
        is_root, exists = top == index, top >= index
        finer = levels[index] - (PLANE_RATIO * levels[index + 1] if index < planes else 0.0)
        cost = _entropy(torch.where(is_root, levels[index], finer))
        before = torch.where(is_root, variance, errors[index + 1] if index < planes else variance)
        slope = torch.minimum((before - errors[index]) / (cost + 0.01), ceiling)
        # A hair below its parent, so that a tie cannot put it first.
        ceiling = torch.where(exists, slope - slope.abs() * 1e-6, ceiling)
        slopes.append(torch.where(exists, slope, -torch.inf))
        bits.append(cost)
    ranked = torch.stack(slopes).flatten().argsort(descending=True, stable=True)[:slots]
    count = sample.shape[1]
    level, candidate = planes - ranked // count, ranked % count
    place = torch.full((planes + 2, count), -1, dtype=torch.int64, device=sample.device)
    place[level, candidate] = torch.arange(len(ranked), device=sample.device)
    parent = torch.where(level < top[candidate], place[level + 1, candidate], -1)
    unit = torch.tensor([PLANE_RATIO**index for index in range(planes + 1)], device=sample.device)[level]
    total = float(torch.stack(bits).flatten()[ranked].sum())
    return _Layout(candidate, parent, place[top[candidate], candidate], unit, total)


def _error(whole: Tensor, scaled: Tensor) -> Tensor:
    """Mean squared error [M] of symbols [F, M] that are put back at the mean of what they stand for."""
    error = (whole - scaled).square().mean(0)
    for chosen in (whole.abs() == 1, whole.abs() > 1):
        count = chosen.sum(0).clamp_min(1)
        offset = torch.where(chosen, (whole - scaled) * whole.sign(), 0.0).sum(0)
        error = error - offset.square() / count / len(whole)
    return error


def _entropy(symbols: Tensor) -> Tensor:
    """Empirical entropy of each column of integers [F, M], in bits [M]."""
    frames, count = symbols.shape
    width = 2 * _LARGEST + 1
    index = symbols.long().clamp(-_LARGEST, _LARGEST) + _LARGEST
    index = index + width * torch.arange(count, device=symbols.device)
    share = torch.bincount(index.flatten(), minlength=width * count).view(count, width) / frames
    return -(share * torch.log2(share.clamp_min(1e-12))).sum(1)


def _centroid_offsets(transform: KltTransform, tokens: Tensor) -> Tensor:
    """Mean distance between symbols and what they stand for, towards zero: [2, K, d] for magnitudes 1, and 2 and more.

    A symbol that the calibration shows rarely takes over the mean of all symbols of its latent.
    """
    total = torch.zeros_like(transform.shrink)
    seen = torch.zeros_like(total)
    unit = transform.unit.view_as(total[0])
    for part in chunks_of(tokens):
        coefficients = transform.analyse(part.float())
        whole = transform.whole_units(transform.quantise(coefficients))
        offset = (whole - coefficients / unit) * whole.sign()
        for index, chosen in enumerate((whole.abs() == 1, whole.abs() > 1)):
            total[index] += torch.where(chosen, offset, 0.0).sum(0)
            seen[index] += chosen.sum(0)
    prior_weight = 20.0
    overall = total.sum(2, keepdim=True) / seen.sum(2, keepdim=True).clamp_min(1.0)
    return (total + prior_weight * overall) / (seen + prior_weight)
