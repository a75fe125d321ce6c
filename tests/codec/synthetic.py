"""Visual tokens with the structure that codecs live from, without any model."""

from __future__ import annotations

import torch
from torch import Tensor

TOKENS, DIM = 12, 16


def separable_tokens(frames: int, *, seed: int, sparse: bool = False) -> Tensor:
    """Tokens [F, 12, 16] of falling variances in a random token basis times a random channel basis, about a mean.

    Args:
        frames: How many.
        seed: Of everything but the bases and the mean, which are always the same.
        sparse: Coefficients are either nothing or one of two values, which no linear decoder can make use of.
    """
    fixed = torch.Generator().manual_seed(99)
    rows = torch.linalg.qr(torch.randn(TOKENS, TOKENS, generator=fixed)).Q
    columns = torch.linalg.qr(torch.randn(DIM, DIM, generator=fixed)).Q
    mean = torch.randn(TOKENS, DIM, generator=fixed)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(frames, TOKENS, DIM, generator=generator)
    if sparse:
        values = values.sign() * (torch.rand(values.shape, generator=generator) < 0.3)
    scale = torch.exp(-torch.arange(TOKENS) / 4)[:, None] * torch.exp(-torch.arange(DIM) / 4)[None, :]
    return mean + torch.einsum("nt,ftc,dc->fnd", rows, 4 * values * scale, columns)
