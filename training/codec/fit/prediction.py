"""Fits the weights by which a frame's symbols are foretold from a key frame, see :mod:`pipeline.codec.prediction`."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.prediction import CONTEXTS, contexts
from pipeline.codec.tables import FREQUENCY_TOTAL, MIN_SAME_WEIGHT, FrequencyTables, entries_of

Pairs: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Symbols of key frames, and of frames after them, each int32 [P, K, d]."""

LEVELS: Final = 4
"""Fitted levels of change. Eight saved half a percent more, one two percent less."""
_ROUNDS: Final = 12
_STEPS: Final = 8
_MAX_SYMBOLS: Final = 4_000_000


def fit_prediction(pairs: Pairs, tables: FrequencyTables, *, seed: int = 0) -> NDArray[np.uint16]:
    """Weights of the mixtures, by level and context.

    Frames are dealt to the levels by their share of unchanged symbols; then, in turns, each level's weights are fitted
    to its frames by expectation maximisation, and each frame goes to the level that codes it in the fewest bits. A last
    level codes a frame that equals its key frame, which every key frame does to itself.

    Args:
        pairs: What to learn from.
        tables: The codec's.
        seed: Of the choice, should there be more pairs than are needed.

    Returns:
        uint16 [LEVELS + 1, 2, contexts], see `FrequencyTables`.
    """
    count = min(len(pairs[0]), max(LEVELS, _MAX_SYMBOLS // (tables.latent_count * tables.latent_dim)))
    chosen = np.random.default_rng(seed).permutation(len(pairs[0]))[:count]
    chances, context = _candidates((pairs[0][chosen], pairs[1][chosen]), tables)
    order = np.argsort((chances[1] > 0).mean(axis=1))
    level = np.empty(count, dtype=np.int64)
    for number, part in enumerate(np.array_split(order, LEVELS)):
        level[part] = number
    weights = np.full((LEVELS, 3, CONTEXTS), 1 / 3, dtype=np.float32)
    for _ in range(_ROUNDS):
        for number in range(LEVELS):
            if (mine := level == number).any():
                weights[number] = _fit(chances[:, mine], context[mine], weights[number])
        bits = [-np.log2((chances * each[:, context]).sum(axis=0)).sum(axis=1) for each in weights]
        level = np.argmin(bits, axis=0)
    return _as_integers(weights)


def _candidates(pairs: Pairs, tables: FrequencyTables) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """How likely each way to foretell a symbol finds what came, and in which context.

    Returns:
        Chances under the static table, under "as in the key frame" and under "one off" [3, P, K * d]; contexts
        [P, K * d].
    """
    before, now = (entries_of(symbols, tables.support) for symbols in pairs)
    rows = tables.frequencies[None].astype(np.float32) / FREQUENCY_TOTAL
    static = np.take_along_axis(np.broadcast_to(rows, (*now.shape, rows.shape[-1])), now[..., None], axis=3)[..., 0]
    apart = np.abs(before - now)
    chances = np.stack([static, apart == 0, 0.5 * (apart == 1)]).astype(np.float32)
    return chances.reshape(3, len(now), -1), contexts(pairs[0], tables).reshape(len(now), -1)


def _fit(chances: NDArray[np.float32], context: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of the three candidates in each context, [3, contexts], from those before."""
    flat = context.ravel()
    total = np.bincount(flat, minlength=CONTEXTS) + 3
    for _ in range(_STEPS):
        shares = chances * weights[:, context]
        shares /= shares.sum(axis=0)
        found = [np.bincount(flat, weights=share.ravel(), minlength=CONTEXTS) + 1 for share in shares]
        weights = (np.stack(found) / total).astype(np.float32)
    return weights


def _as_integers(weights: NDArray[np.float32]) -> NDArray[np.uint16]:
    scaled = np.floor(weights[:, [0, 2]].astype(np.float64) * FREQUENCY_TOTAL)
    scaled *= np.minimum(1.0, (FREQUENCY_TOTAL - MIN_SAME_WEIGHT) / np.maximum(scaled.sum(axis=1, keepdims=True), 1))
    same = np.zeros((1, 2, CONTEXTS))
    return np.concatenate([scaled, same]).astype(np.uint16)
