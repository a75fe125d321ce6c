"""Rivals that send visual tokens themselves: all of them in 16 or 8 bits, or a few of them in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor

_SCALE_BYTES: Final = 2
"""One scale a frame, in half precision."""
_KEPT_SHARES: Final = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)


class TokenRival(NamedTuple):
    """Tokens as the far end gets them.

    Attributes:
        name: What it is.
        tokens: [F, N, D].
        payload_bytes: Of each frame, without any container.
    """

    name: str
    tokens: Tensor
    payload_bytes: int


def token_rivals(tokens: Tensor, mean: Tensor, *, few: bool = False) -> Iterator[TokenRival]:
    """Rivals one after the other, since each holds all tokens.

    Args:
        tokens: Uncompressed tokens [F, N, D].
        mean: Mean token of each position over other frames [N, D], which both ends know.
        few: Only whole tokens in 8 bits and one pruned setting.
    """
    count, dim = tokens.shape[1:]
    if not few:
        yield TokenRival("tokens, 16 bits", tokens.half().float(), 2 * count * dim)
    rounded = round_to_8_bits(tokens)
    yield TokenRival("tokens, 8 bits", rounded, count * dim + _SCALE_BYTES)
    for share in _KEPT_SHARES[2:3] if few else _KEPT_SHARES:
        kept = max(1, round(share * count))
        bitmap = -(-count // 8)
        pruned = prune(tokens, rounded, mean, kept)
        yield TokenRival(f"{kept} of {count} tokens, 8 bits", pruned, kept * dim + bitmap + _SCALE_BYTES)


def round_to_8_bits(tokens: Tensor) -> Tensor:
    """Tokens after symmetric rounding to 8 bits, one scale a frame; [F, N, D]."""
    values = tokens.float()
    scale = values.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-12) / 127
    return (values / scale).round().mul(scale)


def prune(tokens: Tensor, sent: Tensor, mean: Tensor, kept: int) -> Tensor:
    """Keep the tokens that stand out most; the rest become the mean token of their position.

    VisionZip keeps the tokens that its tower attends to most. Connectors that merge patches have no attention of
    their own, so the distance from the mean token stands for it: it takes most off the error, which favours the rival.

    Args:
        tokens: Uncompressed tokens [F, N, D].
        sent: What arrives of them if they are kept [F, N, D].
        mean: Mean token of each position [N, D].
        kept: Tokens that travel, 1 to N.
    """
    distance = (tokens.float() - mean).square().sum(dim=2)
    chosen = distance.topk(kept, dim=1).indices
    mask = torch.zeros_like(distance, dtype=torch.bool).scatter_(1, chosen, True)
    return torch.where(mask[..., None], sent, mean)
