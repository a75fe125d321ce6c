"""Which settings are worth a look: the best of each size, by a measure that is cheap to take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def best_of_each_size(sizes: Sequence[float], errors: Sequence[float], *, ranges: int) -> list[int]:
    """The row with the smallest error in each of a few equal ranges of the logarithm of the size.

    Args:
        sizes: In bytes, above 0.
        errors: Of the same rows.
        ranges: How many.
    """
    logs = np.log(sizes)
    place = np.minimum((logs - logs.min()) / max(float(np.ptp(logs)), 1e-9) * ranges, ranges - 1).astype(int)
    kept = set(front(sizes, [-error for error in errors]))
    rows = []
    for number in range(ranges):
        mine = [row for row in np.flatnonzero(place == number).tolist() if row in kept]
        rows += sorted(mine, key=errors.__getitem__)[:1]
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
