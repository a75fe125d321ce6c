"""Fit the closed-form codec to visual tokens."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from pipeline.codec.klt_torch import KltTransform, LatentShape
from schemas.errors import StateError

_DEAD_ZONE: Final = 0.15
"""Wider zeros save 20 % of the bytes for 0.2 % of the objects on the reference VLM's tokens; a larger step costs
more."""


def fit_klt(tokens: Tensor, latent_count: int, latent_dim: int, step: float) -> KltTransform:
    """Fit bases, order and reconstruction points.

    Args:
        tokens: Visual tokens of calibration frames [F, N, D].
        latent_count: Latents of a frame, K.
        latent_dim: Symbols of a latent, d.
        step: Quantiser step, in standard deviations of a token value about its mean.

    Raises:
        StateError: fewer than 2 frames, or more symbols than tokens hold values.
    """
    frames, count, dim = tokens.shape
    if frames < 2 or latent_count * latent_dim > count * dim:
        raise StateError(f"{frames} frames of {count} x {dim} values do not give {latent_count} x {latent_dim} symbols")
    transform = KltTransform(LatentShape(count, dim, latent_count, latent_dim))
    transform.dead_zone.fill_(_DEAD_ZONE)
    transform.mean.copy_(tokens.mean(0))
    centred = tokens - transform.mean
    transform.step.fill_(step * centred.std())
    transform.token_basis.copy_(_basis(torch.einsum("fnd,fmd->nm", centred, centred)))
    transform.channel_basis.copy_(_basis(torch.einsum("fnd,fne->de", centred, centred)))
    variance = torch.cat([transform.coefficients(part).square() for part in torch.split(tokens, 512)]).mean(0)
    transform.order.copy_(variance.flatten().argsort(descending=True)[: latent_count * latent_dim])
    transform.shrink.copy_(_centroid_offsets(transform, tokens))
    return transform.eval()


def _basis(covariance: Tensor) -> Tensor:
    """Eigenvectors, largest eigenvalue first, as columns; signs fixed so that equal data gives equal files."""
    vectors: Tensor = torch.linalg.eigh(covariance.double()).eigenvectors.flip(1)
    largest = vectors.abs().argmax(dim=0)
    return (vectors * vectors[largest, torch.arange(len(largest))].sign()).float()


def _centroid_offsets(transform: KltTransform, tokens: Tensor) -> Tensor:
    """Mean distance between symbols and what they stand for, towards zero: [2, K, d] for magnitudes 1, and 2 and more.

    A symbol that the calibration shows rarely takes over the mean of all symbols of its latent.
    """
    total = torch.zeros(2, transform.latent_count, transform.latent_dim)
    seen = torch.zeros_like(total)
    for part in torch.split(tokens, 512):
        coefficients = transform.analyse(part)
        symbols = transform.quantise(coefficients)
        offset = (symbols - coefficients) * symbols.sign()
        for index, chosen in enumerate((symbols.abs() == 1, symbols.abs() > 1)):
            total[index] += torch.where(chosen, offset, 0.0).sum(0)
            seen[index] += chosen.sum(0)
    prior_weight = 20.0
    overall = total.sum(2, keepdim=True) / seen.sum(2, keepdim=True).clamp_min(1.0)
    return (total + prior_weight * overall) / (seen + prior_weight)
