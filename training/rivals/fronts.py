"""Which settings are worth a look: the best of each size, by a measure that is cheap to take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

_BINS: Final = 7
_A_BIN: Final = 2
"""So many settings are left for each of so many ranges of size."""


def best_of_each_size(
    sizes: Sequence[float], errors: Sequence[float], *, bins: int = _BINS, a_bin: int = _A_BIN
) -> list[int]:
    """Rows with the smallest errors in each of a few equal ranges of the logarithm of the size.

    Args:
        sizes: In bytes, above 0.
        errors: Of the same rows.
        bins: Ranges.
        a_bin: Rows of each range at most.
    """
    logs = np.log(sizes)
    place = np.minimum((logs - logs.min()) / max(float(np.ptp(logs)), 1e-9) * bins, bins - 1).astype(int)
    kept = set(front(sizes, [-error for error in errors]))
    rows = []
    for number in range(bins):
        mine = [row for row in np.flatnonzero(place == number).tolist() if row in kept]
        rows += sorted(mine, key=errors.__getitem__)[:a_bin]
    return rows


def front(sizes: Sequence[float], quality: Sequence[float]) -> list[int]:
    """Rows that no smaller row reaches, in order of size."""
    rows: list[int] = []
    best = -np.inf
    for row in sorted(range(len(sizes)), key=lambda index: (sizes[index], -quality[index])):
        if quality[row] > best:
            rows.append(row)
            best = quality[row]
    return rows
