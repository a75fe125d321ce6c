"""Features as pictures, as MPEG's Feature Coding for Machines has them: fewer channels, each a plane of one picture.

The learned reduction of that standard is here a Karhunen-Loève transform of the channels, fitted on other frames. Mean
token, basis and scale are known to both ends; only the picture travels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isqrt, sqrt
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MIDDLE: Final = 128
_SPREADS: Final = 4.0
"""Values up to so many standard deviations of the largest channel fit eight bits; the others are cut off."""
_MULTIPLE: Final = 8
_LEAST_EDGE: Final = 16
"""Edges of a picture are so large and such multiples, so that every encoder takes it as it is."""


@dataclass(frozen=True, slots=True)
class PlanePacking:
    """How visual tokens become one grey picture and come back.

    Attributes:
        mean: Mean token of each position [N, D].
        basis: Orthonormal channels, the largest variance first [D, C].
        step: What one grey level is worth.
        views: Grids of tokens that a frame has.
    """

    mean: Tensor
    basis: Tensor
    step: float
    views: int = 1

    @classmethod
    def fit(cls, tokens: Tensor, channels: int, *, tiles_per_edge: int = 1) -> Self:
        """Learn mean, basis and scale.

        Args:
            tokens: Uncompressed tokens of other frames [F, N, D].
            channels: Planes of each view that are kept, at most D.
            tiles_per_edge: As in `CodecSpec`.
        """
        values = tokens.float()
        mean = values.mean(0)
        flat = (values - mean).reshape(-1, values.shape[2]).double()
        variances, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        basis = vectors.flip(1)[:, :channels].float()
        step = _SPREADS * sqrt(max(float(variances[-1]), 1e-12)) / (_MIDDLE - 1)
        return cls(mean, basis, step, 1 if tiles_per_edge == 1 else tiles_per_edge**2 + 1)

    @property
    def channels(self) -> int:
        """Planes of each view."""
        return int(self.basis.shape[1])

    def pack(self, tokens: Tensor) -> NDArray[np.uint8]:
        """Tokens [F, N, D] to grey pictures, uint8 [F, H, W]."""
        values = (tokens.float() - self.mean) @ self.basis / self.step
        levels = (values.round() + _MIDDLE).clamp(0, 255).to(torch.uint8)
        height, width = self._plane()
        frames = len(levels)
        planes = levels.reshape(frames, self.views, height, width, self.channels).permute(0, 4, 1, 2, 3)
        planes = planes.reshape(frames, self.channels * self.views, height, width)
        rows, columns = self._mosaic()
        picture = torch.full((frames, rows * columns, height, width), _MIDDLE, dtype=torch.uint8)
        picture[:, : planes.shape[1]] = planes
        picture = picture.reshape(frames, rows, columns, height, width).permute(0, 1, 3, 2, 4)
        tall, wide = rows * height, columns * width
        padded = torch.full((frames, _padded(tall), _padded(wide)), _MIDDLE, dtype=torch.uint8)
        padded[:, :tall, :wide] = picture.reshape(frames, tall, wide)
        return padded.numpy()

    def unpack(self, pictures: NDArray[np.uint8]) -> Tensor:
        """Grey pictures uint8 [F, H, W] to tokens [F, N, D]."""
        height, width = self._plane()
        rows, columns = self._mosaic()
        frames = len(pictures)
        picture = torch.tensor(pictures)[:, : rows * height, : columns * width]
        planes = picture.reshape(frames, rows, height, columns, width).permute(0, 1, 3, 2, 4)
        planes = planes.reshape(frames, rows * columns, height, width)[:, : self.channels * self.views]
        levels = planes.reshape(frames, self.channels, self.views, height, width).permute(0, 2, 3, 4, 1)
        values = (levels.reshape(frames, -1, self.channels).float() - _MIDDLE) * self.step
        return values @ self.basis.T + self.mean

    def _plane(self) -> tuple[int, int]:
        """Height and width of a plane: those of the tokens' grid, or one as square as their number allows."""
        count = self.mean.shape[0] // self.views
        height = next(edge for edge in range(isqrt(count), 0, -1) if count % edge == 0)
        return height, count // height

    def _mosaic(self) -> tuple[int, int]:
        """Rows and columns of planes in a picture."""
        count = self.channels * self.views
        columns = ceil(sqrt(count))
        return ceil(count / columns), columns


def _padded(edge: int) -> int:
    return max(_LEAST_EDGE, -(-edge // _MULTIPLE) * _MULTIPLE)
