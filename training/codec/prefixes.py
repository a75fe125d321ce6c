"""Symbols and prefixes of many frames at once."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codec.transform_torch import LatentTransform
from training.codec.chunks import chunks_of, frames_at_once

_ENCODED_TOGETHER: Final = 256
_DECODED_TOGETHER: Final = 128


@torch.no_grad()
def encode_all(transform: LatentTransform, tokens: Tensor) -> NDArray[np.int32]:
    """Symbols of many frames: tokens [F, N, D] of any float type to int32 [F, K, d]."""
    parts: list[NDArray[np.int32]] = [
        transform.encode(part.float()).numpy() for part in chunks_of(tokens, _ENCODED_TOGETHER)
    ]
    return np.concatenate(parts)


@torch.no_grad()
def decode_prefixes(transform: LatentTransform, symbols: NDArray[np.int32], length: int) -> Tensor:
    """Tokens from equally long prefixes, float16 [F, N, D]."""
    together = frames_at_once(transform.token_count * transform.token_dim, _DECODED_TOGETHER)
    parts = [
        transform.synthesise(part.float(), torch.full((len(part),), length)).half()
        for part in torch.split(torch.from_numpy(symbols), together)
    ]
    return torch.cat(parts)


def even_ladder(latent_bits: NDArray[np.float64], rungs: int) -> tuple[int, ...]:
    """Prefix lengths that are evenly spaced in bytes.

    Args:
        latent_bits: Mean code length of each latent [K].
        rungs: How many lengths, at most K.

    Returns:
        Ascending lengths, the last one K.
    """
    total = np.cumsum(latent_bits)
    targets = total[-1] * np.arange(1, rungs + 1) / rungs
    lengths = {int(np.abs(total - target).argmin()) + 1 for target in targets[:-1]}
    return (*sorted(lengths - {len(latent_bits)}), len(latent_bits))
