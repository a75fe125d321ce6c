"""The closed-form codec: a separable Karhunen-Loeve transform with reverse water-filling.

The covariance of all N * D values of a frame is modelled as a Kronecker product, token positions times channels, so
that a few hundred frames are enough to estimate it. One step for all coefficients in an orthonormal basis is reverse
water-filling at high rate; at low rate the coefficients below the water level quantise to zero by themselves. See
Cover and Thomas, Elements of Information Theory, 10.3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.codec.transform_torch import LatentTransform


@dataclass(frozen=True, slots=True)
class LatentShape:
    """Sizes of a codec: N tokens of width D, K latents of d symbols."""

    token_count: int
    token_dim: int
    latent_count: int
    latent_dim: int


class KltTransform(LatentTransform):
    """Mean removal, token basis times channel basis, the most useful coefficients first, one step for all of them.

    Symbols are put back at the mean of the coefficients that they stand for, not at the middle of their interval.

    Args:
        shape: Sizes.
        planes: Most refinement slots of a coefficient.

    Attributes:
        mean: [N, D].
        token_basis: Orthonormal columns, [N, N].
        channel_basis: Orthonormal columns, [D, D].
        step: Quantiser step, scalar.
    """

    mean: Tensor
    token_basis: Tensor
    channel_basis: Tensor
    step: Tensor

    def __init__(self, shape: LatentShape, planes: int = 0) -> None:
        super().__init__(
            shape.token_count, shape.token_dim, shape.latent_count, shape.latent_dim, dead_zone=0.0, planes=planes
        )
        n, d = shape.token_count, shape.token_dim
        self.register_buffer("mean", torch.zeros(n, d))
        self.register_buffer("token_basis", torch.eye(n))
        self.register_buffer("channel_basis", torch.eye(d))
        self.register_buffer("step", torch.ones(()))
        self.register_buffer("shrink", torch.zeros(2, shape.latent_count, shape.latent_dim))

    def coefficients(self, tokens: Tensor) -> Tensor:
        """All coefficients, [B, N, D] to [B, token basis vectors, channel basis vectors]."""
        grid: Tensor = torch.einsum("nt,bnd,dc->btc", self.token_basis, tokens - self.mean, self.channel_basis)
        return grid

    def analyse(self, tokens: Tensor) -> Tensor:
        """Coefficients in the order of the slots, in steps; see `LatentTransform.analyse`."""
        chosen = self.coefficients(tokens).flatten(1).index_select(1, self.order)
        return chosen.reshape(-1, self.latent_count, self.latent_dim) / self.step

    def synthesise(self, symbols: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Inverse transform of the prefix; what is missing is at its mean. See `LatentTransform.synthesise`."""
        in_prefix = self.in_prefix(prefix_lengths)
        values = self.restore(torch.where(in_prefix, symbols, 0.0)) * self.step
        grid = self.to_grid(torch.where(in_prefix, self.increments(values), 0.0))
        tokens: Tensor = torch.einsum("nt,btc,dc->bnd", self.token_basis, grid, self.channel_basis)
        return self.mean + tokens
