"""The part of constriction that the bitstream needs, in Python: the same bits, on machines that it has no wheel for.

Linux on arm64 is one (boards; servers decode many frames and want the other). An edge codes some 1,300 symbols a frame,
which takes this a millisecond. Names and meanings are those of ``constriction.stream.queue`` and
``constriction.stream.model``; numbers are probabilities of 24 bits, words of 32 and a state of 64.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS: Final = 24
WORD_BITS: Final = 32
STATE_BITS: Final = 64
_TOTAL: Final = 1 << PRECISION_BITS
_FEWEST: Final = 1 << (STATE_BITS - WORD_BITS)
"""A width below it is widened by a word."""
_WHOLE: Final = (1 << STATE_BITS) - 1


class Uniform:
    """Symbols that are equally likely; the last one has what the division leaves.

    Args:
        size: of the alphabet, at least 2.
    """

    def __init__(self, size: int) -> None:
        self._last = size - 1
        self._each = _TOTAL // size

    def interval(self, symbol: int) -> tuple[int, int]:
        """Start and width of a symbol, in parts of ``2**24``."""
        left = symbol * self._each
        return left, (_TOTAL - left if symbol == self._last else self._each)

    def symbol(self, place: int) -> int:
        """The symbol whose interval holds a place."""
        return min(place // self._each, self._last)


class Categorical:
    """Symbols of tables, see `as_coder_weights`.

    Args:
        perfect: as constriction has it; False.
    """

    def __init__(self, *, perfect: bool = False) -> None:
        self.perfect = perfect


def _edges(weights: NDArray[np.float32]) -> list[list[int]]:
    """Start of each symbol's interval, and the end of the last, row by row."""
    widths = weights.astype(np.int64) + 1
    edges = np.zeros((widths.shape[0], widths.shape[1] + 1), dtype=np.int64)
    np.cumsum(widths, axis=1, out=edges[:, 1:])
    rows: list[list[int]] = edges.tolist()
    return rows


class RangeEncoder:
    """Narrows an interval symbol by symbol."""

    def __init__(self) -> None:
        self._first, self._width, self._words = 0, _WHOLE, 0

    def encode(
        self, symbols: int | NDArray[np.int32], model: Uniform | Categorical, weights: NDArray[np.float32] | None = None
    ) -> None:
        """Code one symbol of a uniform model, or one of each row of tables.

        Args:
            symbols: a number, or int [n].
            model: what they are coded by.
            weights: float32 [n, entries], for tables.
        """
        if isinstance(model, Uniform):
            self._narrow(*model.interval(int(symbols)))
        elif weights is not None:
            for symbol, edges in zip(np.atleast_1d(symbols).tolist(), _edges(weights), strict=True):
                self._narrow(edges[symbol], edges[symbol + 1] - edges[symbol])

    def interval(self) -> tuple[int, int, int]:
        """First number of the interval, its width, and how many bits these numbers have."""
        return self._first, self._width, self._words * WORD_BITS + STATE_BITS

    def _narrow(self, left: int, width: int) -> None:
        scale = self._width >> PRECISION_BITS
        self._first += scale * left
        self._width = scale * width
        if self._width < _FEWEST:
            self._first <<= WORD_BITS
            self._width <<= WORD_BITS
            self._words += 1


class RangeDecoder:
    """Finds the symbols again.

    Args:
        words: uint32; zeros follow without end.
    """

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._words = iter(words.tolist())
        self._width = _WHOLE
        self._distance = next(self._words, 0) << WORD_BITS | next(self._words, 0)

    def decode(
        self, model: Uniform | Categorical, weights: NDArray[np.float32] | None = None
    ) -> int | NDArray[np.int32]:
        """One symbol of a uniform model, or int32 [n], one of each row of tables.

        Raises:
            AssertionError: these words are no code.
        """
        if isinstance(model, Uniform):
            symbol = model.symbol(self._place())
            self._narrow(*model.interval(symbol))
            return symbol
        found = []
        for edges in [] if weights is None else _edges(weights):
            symbol = bisect_right(edges, self._place()) - 1
            self._narrow(edges[symbol], edges[symbol + 1] - edges[symbol])
            found.append(symbol)
        return np.array(found, dtype=np.int32)

    def _place(self) -> int:
        place = self._distance // (self._width >> PRECISION_BITS)
        if place >= _TOTAL:
            raise AssertionError("beyond the interval")
        return place

    def _narrow(self, left: int, width: int) -> None:
        scale = self._width >> PRECISION_BITS
        self._distance -= scale * left
        self._width = scale * width
        if self._width < _FEWEST:
            self._width <<= WORD_BITS
            self._distance = self._distance << WORD_BITS | next(self._words, 0)
