"""Baselines that send visual tokens: all of them in few bits, or fewer of them, chosen, averaged or merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isqrt, log2
from typing import Final, NamedTuple

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

_SCALE_BYTES: Final = 2
"""One scale a frame, in half precision."""
_KEPT_SHARES: Final = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
_COARSE_BITS: Final = (4, 3)
_ZSTD_LEVEL: Final = 19


class TokenBaseline(NamedTuple):
    """Tokens as the far end gets them.

    Attributes:
        name: What it is.
        tokens: [F, N, D].
        payload_bytes: Of each frame, without any container [F].
    """

    name: str
    tokens: Tensor
    payload_bytes: NDArray[np.int64]


def token_baselines(
    tokens: Tensor, mean: Tensor, *, tiles_per_edge: int = 1, few: bool = False
) -> Iterator[TokenBaseline]:
    """Baselines one after the other, since each holds all tokens.

    Args:
        tokens: Uncompressed tokens [F, N, D].
        mean: Mean token of each position over other frames [N, D], which both ends know.
        tiles_per_edge: As in `CodecSpec`; decides which tokens are neighbours.
        few: Only whole tokens in 8 bits, and one setting of pruning and of merging.
    """
    frames, count, dim = tokens.shape

    def every(size_bytes: int) -> NDArray[np.int64]:
        return np.full(frames, size_bytes, dtype=np.int64)

    if not few:
        yield TokenBaseline("tokens, 16 bits", tokens.half().float(), every(2 * count * dim))
    rounded = round_to_bits(tokens, 8)
    yield TokenBaseline("tokens, 8 bits", rounded, every(count * dim + _SCALE_BYTES))
    if not few:
        yield TokenBaseline("tokens, 8 bits, zstd", rounded, zstd_bytes(tokens, 8))
        for bits in _COARSE_BITS:
            yield TokenBaseline(f"tokens, {bits} bits, zstd", round_to_bits(tokens, bits), zstd_bytes(tokens, bits))
        pooled = average_neighbours(tokens, tiles_per_edge)
        if pooled is not None:
            means, spread = pooled
            size_bytes = means.shape[1] * dim + _SCALE_BYTES
            yield TokenBaseline(
                f"{means.shape[1]} of {count} tokens, 2 x 2 averaged, 8 bits",
                spread(round_to_bits(means, 8)),
                every(size_bytes),
            )
    shares = _KEPT_SHARES[1:2] if few else _KEPT_SHARES
    ladder = sorted({max(1, round(share * count)) for share in shares})
    for kept in ladder:
        pruned = prune(tokens, rounded, mean, kept)
        size_bytes = kept * dim + ceil(count / 8) + _SCALE_BYTES
        yield TokenBaseline(f"{kept} of {count} tokens, 8 bits", pruned, every(size_bytes))
    for means, owner in merge(tokens, ladder):
        kept = means.shape[1]
        size_bytes = kept * dim + ceil(count * log2(kept) / 8) + _SCALE_BYTES
        merged = _given_back(round_to_bits(means, 8), owner)
        yield TokenBaseline(f"{kept} of {count} tokens, merged, 8 bits", merged, every(size_bytes))


def round_to_bits(tokens: Tensor, bits: int) -> Tensor:
    """Tokens after symmetric rounding to so many bits, one scale a frame; [F, N, D]."""
    levels, scale = _levels(tokens, bits)
    return levels.mul(scale)


def zstd_bytes(tokens: Tensor, bits: int) -> NDArray[np.int64]:
    """Size of each frame's rounded tokens after Zstandard, channel by channel, scale included [F]."""
    levels, _ = _levels(tokens, bits)
    packed = levels.to(torch.int8).transpose(1, 2).contiguous().numpy()
    compressor = zstandard.ZstdCompressor(
        level=_ZSTD_LEVEL, write_content_size=False, write_checksum=False, write_dict_id=False
    )
    return np.array([len(compressor.compress(frame.tobytes())) + _SCALE_BYTES for frame in packed], dtype=np.int64)


def prune(tokens: Tensor, sent: Tensor, mean: Tensor, kept: int) -> Tensor:
    """Keep the tokens that stand out most; the rest become the mean token of their position.

    VisionZip keeps the tokens that its tower attends to most. Connectors that merge patches have no attention of
    their own, so the distance from the mean token stands for it: it takes most off the error, in favour of the
    baseline.

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


def merge(tokens: Tensor, kept: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Merge the two tokens that this costs least, again and again: Ward's method, frame by frame.

    Token merging in towers (ToMe, Bolya et al., ICLR 2023) matches halves of the tokens, to be fast between layers.
    Here there is one layer and time enough, and the least squared error favours the baseline.

    Args:
        tokens: [F, N, D].
        kept: How many tokens are left, each 1 to N.

    Yields:
        For each number, the largest first, the means [F, kept, D], and the mean that each token is a part of, int64
        [F, N].
    """
    values = tokens.float()
    frames, count, dim = values.shape
    every = torch.arange(frames)
    owner = torch.arange(count).expand(frames, -1).clone()
    sizes = torch.ones(frames, count)
    cost = torch.cdist(values, values).square() / 2
    cost += torch.full((count,), torch.inf).diag().nan_to_num(nan=0.0, posinf=torch.inf)
    for wanted in sorted(kept, reverse=True):
        while count > wanted:
            place = cost.flatten(1).argmin(dim=1)
            low, high = place // cost.shape[1], place % cost.shape[1]
            both, one, other = cost[every, low, high], sizes[every, low], sizes[every, high]
            # Lance and Williams: what merging a third one with the two will cost.
            costs = (one[:, None] + sizes) * cost[every, low] + (other[:, None] + sizes) * cost[every, high]
            costs = (costs - sizes * both[:, None]) / (one + other)[:, None].add(sizes)
            costs[every, low] = costs[every, high] = torch.inf
            cost[every, low], cost[every, :, low] = costs, costs
            cost[every, high], cost[every, :, high] = torch.inf, torch.inf
            sizes[every, low] += other
            sizes[every, high] = 0
            owner = torch.where(owner == high[:, None], low[:, None], owner)
            count -= 1
        mine = ((sizes > 0).long().cumsum(dim=1) - 1).gather(1, owner)
        sums = torch.zeros(frames, count, dim).scatter_add_(1, mine[..., None].expand(-1, -1, dim), values)
        yield sums / sizes[sizes > 0].reshape(frames, count, 1), mine


class _Spread(NamedTuple):
    """Gives every position the mean of its block: [F, M, D] to [F, N, D]."""

    owner: Tensor

    def __call__(self, means: Tensor) -> Tensor:
        return _given_back(means, self.owner.expand(len(means), -1))


def average_neighbours(tokens: Tensor, tiles_per_edge: int = 1) -> tuple[Tensor, _Spread] | None:
    """Means of 2 x 2 blocks of each view's grid of tokens, and what gives them back to all positions.

    Args:
        tokens: [F, N, D], view after view, each row by row.
        tiles_per_edge: As in `CodecSpec`.

    Returns:
        Means [F, N / 4, D], or None where the tokens are no square grids of even edge.
    """
    count = tokens.shape[1]
    views = 1 if tiles_per_edge == 1 else tiles_per_edge**2 + 1
    edge = isqrt(count // views)
    if views * edge * edge != count or edge % 2:
        return None
    row, column = torch.arange(edge)[:, None] // 2, torch.arange(edge)[None] // 2
    block = (row * (edge // 2) + column).reshape(-1)
    owner = (torch.arange(views)[:, None] * (edge // 2) ** 2 + block).reshape(-1)
    sums = torch.zeros(len(tokens), count // 4, tokens.shape[2]).index_add_(1, owner, tokens.float())
    return sums / 4, _Spread(owner)


def _given_back(means: Tensor, owner: Tensor) -> Tensor:
    """Every token becomes the mean that it was a part of: [F, K, D] and [F, N] to [F, N, D]."""
    return means.gather(1, owner[..., None].expand(-1, -1, means.shape[2]))


def _levels(tokens: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Whole numbers that fit so many bits [F, N, D], and what one of them is worth [F, 1, 1]."""
    values = tokens.float()
    scale = values.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    return (values / scale).round(), scale
