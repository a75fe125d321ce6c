"""A picture as a fixed camera would see it again: what key frame tables are fitted to where there is no video."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CHANGES: Final = ("nothing new", "something moved", "light and something moved", "camera shaken")
"""What happens from one view to the next; the sensor's noise is always new."""
_NOISE: Final = 1.5
"""Standard deviation, in grey levels: a small sensor by day."""
_LIGHT: Final = 0.04
_OBJECT_EDGE: Final = (0.12, 0.3)
_SHAKE: Final = 0.02


def seen_again(frame: NDArray[np.uint8], other: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A frame seen again, once for each of `CHANGES`.

    Args:
        frame: uint8 [S, S, 3].
        other: A picture that pieces are cut from.
        rng: Draws noise, places and sizes.

    Returns:
        uint8 [len(CHANGES), S, S, 3].
    """
    brighter = frame * (1 + rng.uniform(-_LIGHT, _LIGHT))
    views = (frame.astype(float), _with_piece(frame, other, rng), _with_piece(brighter, other, rng), _moved(frame, rng))
    noisy = [view + rng.normal(0, _NOISE, view.shape) for view in views]
    return np.clip(np.rint(np.stack(noisy)), 0, 255).astype(np.uint8)


def _with_piece(frame: NDArray[Any], other: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float64]:
    size = len(frame)
    edge = max(1, round(size * float(rng.uniform(*_OBJECT_EDGE))))
    top, left, from_top, from_left = rng.integers(0, size - edge + 1, 4).tolist()
    changed: NDArray[np.float64] = frame.astype(float)
    changed[top : top + edge, left : left + edge] = other[from_top : from_top + edge, from_left : from_left + edge]
    return changed


def _moved(frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float64]:
    """Shifted by up to two percent, the border repeated."""
    most = max(1, round(len(frame) * _SHAKE))
    down, right = rng.integers(-most, most + 1, 2).tolist()
    rows = np.clip(np.arange(len(frame)) + down, 0, len(frame) - 1)
    columns = np.clip(np.arange(frame.shape[1]) + right, 0, frame.shape[1] - 1)
    shifted: NDArray[np.float64] = frame[rows][:, columns].astype(float)
    return shifted
