"""Tables of a frame's symbols, given those of an earlier one: the key frame of its camera.

Consecutive frames of a fixed camera have much in common, and so have their symbols. Given a key frame, the table of a
symbol is a mixture of three: the codec's static table, "as in the key frame", and "one off". The weights depend on
the context, which is how large the key frame's symbol is and how rare, and on a level that each chunk states: how much
has changed since the key frame. Everything is known before the first symbol is decoded, so a chunk decodes in one call,
and chunks decode in any order (docs/decisions/0013-temporal-redundancy.md).

All numbers are integers, as in :mod:`pipeline.codec.tables`, so both sides compute the same on every machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.tables import FREQUENCY_BITS, FREQUENCY_TOTAL, FrequencyTables, as_coder_weights, entries_of
from schemas.errors import StateError

SIZES: Final = 3
RARITIES: Final = 8
CONTEXTS: Final = SIZES * RARITIES


class KeyFramePrediction:
    """What the symbols of a key frame foretell.

    Args:
        symbols: int32 [K, d], of the key frame.
        tables: Tables of the codec.

    Attributes:
        levels: How many levels of change there are.

    Raises:
        StateError: the codec foretells nothing, or has other shapes.
    """

    def __init__(self, symbols: NDArray[np.int32], tables: FrequencyTables) -> None:
        if tables.prediction is None:
            raise StateError("this codec has no tables for frames given a key frame: latentbus train codec")
        if symbols.shape != (tables.latent_count, tables.latent_dim):
            raise StateError(f"symbols {list(symbols.shape)} are not [{tables.latent_count}, {tables.latent_dim}]")
        self._tables = tables
        self._entries = entries_of(symbols, tables.support)
        self._context = contexts(symbols, tables)
        self._weights = tables.prediction.astype(np.int64)
        self.levels = len(self._weights)

    def best_level(self, symbols: NDArray[np.int32], start: int) -> int:
        """The level that codes latents ``start..start + n`` in the fewest bits.

        Args:
            symbols: int32 [n, d].
            start: Index of the first latent.
        """
        return int(self.latent_bits(symbols, start).sum(axis=1).argmin())

    def latent_bits(self, symbols: NDArray[np.int32], start: int) -> NDArray[np.float64]:
        """Code length of each latent at each level, but for what follows escapes.

        Args:
            symbols: int32 [n, d].
            start: Index of the first latent.

        Returns:
            float64 [levels, n].
        """
        stop = start + len(symbols)
        entries = entries_of(symbols, self._tables.support)
        static = np.take_along_axis(self._tables.frequencies[start:stop], entries[..., None], axis=2)[..., 0]
        apart = np.abs(entries - self._entries[start:stop])
        by_static, by_off = (self._weights[:, kind, self._context[start:stop]] for kind in (0, 1))
        chances = by_static * (static / FREQUENCY_TOTAL)
        chances += np.where(apart == 0, FREQUENCY_TOTAL - by_static - by_off, np.where(apart == 1, by_off >> 1, 0))
        bits = FREQUENCY_BITS - np.log2(chances + 1)
        return np.asarray(bits.sum(axis=2), dtype=np.float64)

    def coder_weights(self, level: int, start: int, stop: int) -> NDArray[np.float32]:
        """Tables of latents ``start..stop`` as `FrequencyTables.coder_weights` gives them.

        Args:
            level: How much has changed.
            start: First latent.
            stop: One past the last latent.

        Returns:
            float32 [(stop - start) * d, 2 * support + 2].
        """
        entries, context = self._entries[start:stop].ravel(), self._context[start:stop].ravel()
        by_static, by_off = self._weights[level, 0, context], self._weights[level, 1, context] >> 1
        # Both factors are below 2**16, so the products fit; in place, because these are megabytes.
        products = self._tables.frequencies[start:stop].astype(np.uint32).reshape(len(entries), -1)
        products -= 1
        products *= by_static[:, None].astype(np.uint32)
        products >>= FREQUENCY_BITS
        rows = products.view(np.int32)
        rows += 1
        places = np.arange(len(rows))
        escape = 2 * self._tables.support + 1
        for step in (-1, 1):
            there = (entries != escape) & (entries + step >= 0) & (entries + step < escape)
            rows[places[there], entries[there] + step] += by_off[there]
        # What is left is the key frame's own symbol; `FrequencyTables` sees to it that something is.
        rows[places, entries] += FREQUENCY_TOTAL - rows.sum(axis=1)
        return as_coder_weights(rows)


def contexts(symbols: NDArray[np.int32], tables: FrequencyTables) -> NDArray[np.int64]:
    """Contexts of a key frame's symbols: how large each is, and how rare by the static tables.

    Args:
        symbols: int32 [..., K, d].
        tables: Tables of the codec.

    Returns:
        int64 [..., K, d], each in 0..CONTEXTS - 1.
    """
    entries = entries_of(symbols, tables.support)
    table = np.broadcast_to(tables.frequencies, (*entries.shape[:-2], *tables.frequencies.shape))
    frequency = np.take_along_axis(table, entries[..., None], axis=-1)[..., 0].astype(np.int64)
    # frexp of an integer this small is exact: the exponent is its bit length.
    rarity = np.clip(FREQUENCY_BITS - np.frexp((frequency - 1).astype(np.float64))[1], 0, RARITIES - 1)
    size = np.minimum(np.abs(symbols), SIZES - 1)
    return np.asarray(size * RARITIES + rarity, dtype=np.int64)
