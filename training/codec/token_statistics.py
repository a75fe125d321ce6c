"""Mean and covariances of visual tokens, gathered part by part: no set of tokens has to be in memory at once.

The covariance of all N * D values of a frame is never formed. Of it only two marginals are kept, over positions and
over channels, as the KLT needs them: N * N and D * D values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from schemas.errors import StateError


class TokenStatistics:
    """Running mean and centred sums of products, by the update of Chan, Golub and LeVeque (1979).

    Args:
        count: Visual tokens of a frame, N.
        dim: Values of a token, D.
        device: Where to compute.

    Attributes:
        frames: Frames that were taken in.
        mean: [N, D].
        rows: Sum over frames and channels of products of two positions, [N, N].
        columns: Sum over frames and positions of products of two channels, [D, D].
    """

    def __init__(self, count: int, dim: int, device: torch.device | str = "cpu") -> None:
        self.frames = 0
        self.mean = torch.zeros(count, dim, device=device)
        self.rows = torch.zeros(count, count, device=device)
        self.columns = torch.zeros(dim, dim, device=device)

    @torch.no_grad()
    def update(self, tokens: Tensor) -> None:
        """Take in some frames [F, N, D], of any float type."""
        part = tokens.float()
        count = len(part)
        if not count:
            return
        mean = part.mean(0)
        centred = part - mean
        self.rows += torch.einsum("fnd,fmd->nm", centred, centred)
        flat = centred.flatten(0, 1)
        self.columns += flat.T @ flat
        total = self.frames + count
        shift = mean - self.mean
        weight = self.frames * count / total
        self.rows += weight * (shift @ shift.T)
        self.columns += weight * (shift.T @ shift)
        self.mean += shift * (count / total)
        self.frames = total

    @property
    def variance(self) -> float:
        """Of all values about their means."""
        return float(self.columns.trace()) / max(self.frames * self.mean.numel(), 1)

    def deviation(self) -> float:
        """Standard deviation of all values about their means.

        Raises:
            StateError: tokens that are all alike or not finite.
        """
        deviation = math.sqrt(self.variance) if self.variance >= 0 else math.nan
        if not 0 < deviation < math.inf:
            raise StateError(
                f"tokens of {self.frames} frames have the standard deviation {deviation}: the tower sees nothing"
            )
        return deviation
