"""What the two codecs have in common: tokens to coefficients, to symbols, and a prefix of them back to tokens.

A latent holds d symbols; each symbol is a *slot* of the transform. A slot usually stands for one coefficient. With
refinement planes a coefficient of large variance has several slots: a coarse one early in the latent, then one of -1, 0
or 1 for each finer plane, so that precision is progressive as well (successive refinement, Equitz and Cover 1991)::

    unit 9   round(c / 9)                      early latent
    unit 3   round(c / 3) - 3 * round(c / 9)   later
    unit 1   round(c)     - 3 * round(c / 3)   later still

Ratios are odd, so the intervals nest and the planes of an integer are exact.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from pipeline.codec.tables import MAX_SYMBOL

PLANE_RATIO = 3
MAX_PLANES = 4


class LatentTransform(nn.Module, abc.ABC):
    """Analysis and synthesis of one codec.

    ::

        tokens [B, N, D] -> analyse -> coefficients [B, K, d] -> quantise -> symbols [B, K, d]
                                                                               |  first k latents
        tokens [B, N, D] <- synthesise <---------------------------------------+

    Attributes:
        token_count: Visual tokens of a frame, N.
        token_dim: Width of a visual token, D.
        latent_count: Latents of a frame, K.
        latent_dim: Symbols of a latent, d.
        planes: Most refinement slots of a coefficient; 0 gives every coefficient one slot.
        shrink: How far magnitudes of 1, and of 2 and more, are moved towards zero, in units of the slot, [2, K, d].
        order: Place of each slot's coefficient among the N * D of the transform, int64 [K * d].
        parent: The slot that a slot refines, or -1; always an earlier one, int64 [K * d].
        root: The first slot of the same coefficient, int64 [K * d].
        unit: The steps that one unit of a slot stands for: a power of 3, int64 [K * d].
    """

    dead_zone: Tensor
    shrink: Tensor
    order: Tensor
    parent: Tensor
    root: Tensor
    unit: Tensor

    def __init__(
        self,
        token_count: int,
        token_dim: int,
        latent_count: int,
        latent_dim: int,
        *,
        dead_zone: float = 0.0,
        planes: int = 0,
    ) -> None:
        """Keep the shapes.

        Args:
            token_count: N.
            token_dim: D.
            latent_count: K.
            latent_dim: d.
            dead_zone: By how much the interval of symbol 0 is wider than the others on either side, in steps. Zeros
                are cheap, so a little more distortion there saves more bits than it costs (Sullivan, 1996).
            planes: Most refinement slots of a coefficient.
        """
        super().__init__()
        self.token_count = token_count
        self.token_dim = token_dim
        self.latent_count = latent_count
        self.latent_dim = latent_dim
        self.planes = planes
        slots = latent_count * latent_dim
        self.register_buffer("dead_zone", torch.tensor(dead_zone))
        self.register_buffer("order", torch.arange(slots))
        self.register_buffer("parent", torch.full((slots,), -1, dtype=torch.int64))
        self.register_buffer("root", torch.arange(slots))
        self.register_buffer("unit", torch.ones(slots, dtype=torch.int64))

    @abc.abstractmethod
    def analyse(self, tokens: Tensor) -> Tensor:
        """Coefficients in units of the quantiser's step.

        Args:
            tokens: Visual tokens [B, N, D].

        Returns:
            [B, K, d], the most important latents first; slots of one coefficient hold the same value.
        """

    @abc.abstractmethod
    def synthesise(self, symbols: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Tokens from a prefix.

        Args:
            symbols: Float [B, K, d]; what lies beyond the prefix is not looked at.
            prefix_lengths: How many latents of each frame count, int [B].

        Returns:
            [B, N, D].
        """

    def quantise(self, coefficients: Tensor) -> Tensor:
        """Symbols, still as floats, [B, K, d]."""
        magnitude = torch.floor(coefficients.abs() + (0.5 - self.dead_zone))
        whole = coefficients.sign() * magnitude.clamp(0, MAX_SYMBOL)
        flat, unit = whole.flatten(1), self.unit.to(whole.dtype)
        above = 3.0 * torch.floor((flat + (3 * unit - 1) / 2) / (3 * unit)) * (self.parent >= 0)
        return (torch.floor((flat + (unit - 1) / 2) / unit) - above).view_as(whole)

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] to symbols, int32 [B, K, d]."""
        return self.quantise(self.analyse(tokens)).to(torch.int32)

    def whole_units(self, symbols: Tensor) -> Tensor:
        """Each coefficient as far as its slot and those before it tell, in units of the slot, [B, K, d]."""
        flat = symbols.flatten(1)
        above, refines = self.parent.clamp_min(0), self.parent >= 0
        whole = flat
        for _ in range(self.planes):
            whole = flat + 3.0 * torch.where(refines, whole.index_select(1, above), 0.0)
        return whole.view_as(symbols)

    def restore(self, symbols: Tensor) -> Tensor:
        """Reconstruction points of the coefficients, as far as each slot and those before it tell.

        Args:
            symbols: Float [B, K, d].

        Returns:
            In steps, [B, K, d]; gradients flow to `shrink`.
        """
        whole = self.whole_units(symbols)
        shrink = torch.where(whole.abs() > 1.5, self.shrink[1], self.shrink[0])
        # The sign of zero is zero: a zero stays where it is, whatever the shrinkage.
        values = whole - whole.sign() * shrink
        return values * self.unit.view_as(self.shrink[0])

    def increments(self, values: Tensor) -> Tensor:
        """What each slot adds to what the slots before it tell about its coefficient, [B, K, d]."""
        flat = values.flatten(1)
        above = torch.where(self.parent >= 0, flat.index_select(1, self.parent.clamp_min(0)), 0.0)
        return (flat - above).view_as(values)

    def to_grid(self, increments: Tensor) -> Tensor:
        """Sum of the slots of each coefficient at its place, [B, K, d] to [B, N, D]."""
        grid = increments.new_zeros(len(increments), self.token_count * self.token_dim)
        return grid.index_add(1, self.order, increments.flatten(1)).view(-1, self.token_count, self.token_dim)

    def in_prefix(self, prefix_lengths: Tensor) -> Tensor:
        """Which latents count, bool [B, K, 1]."""
        places = torch.arange(self.latent_count, device=prefix_lengths.device)
        return (places < prefix_lengths[:, None])[:, :, None]
