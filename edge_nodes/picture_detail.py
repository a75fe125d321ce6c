"""How much there is to see in a picture: a covered lens shows next to nothing, in any light."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

DETAIL_BAD: Final = 2.0
DETAIL_OVER: Final = 3.0
"""Under the first a picture is almost even, over the second it is not."""
_GRID: Final = 48
_SAMPLES: Final = 4
"""Pixels of a cell that are looked at, in each direction: their mean hides the noise of the sensor."""
_SHARE: Final = 90
"""Percentile of the differences: the edges of a few masks do not make a picture, a small object does not have to."""


def picture_detail(pixels: NDArray[np.uint8]) -> float:
    """Difference in brightness between neighbouring parts of a picture, which nine of ten stay under.

    Args:
        pixels: RGB, uint8 [H, W, 3].

    Returns:
        From 0 for an even picture to 255: 1 of a black picture with noise, 4 to 23 of rendered scenes.
    """
    height, width = pixels.shape[:2]
    rows, columns = max(1, height // (_GRID * _SAMPLES)), max(1, width // (_GRID * _SAMPLES))
    bright = pixels[::rows, ::columns].mean(axis=2, dtype=np.float32)
    high, wide = bright.shape[0] // _SAMPLES, bright.shape[1] // _SAMPLES
    if high < 2 or wide < 2:
        return 255.0  # too small to say anything
    cells = bright[: high * _SAMPLES, : wide * _SAMPLES].reshape(high, _SAMPLES, wide, _SAMPLES).mean(axis=(1, 3))
    differences = np.concatenate([np.abs(np.diff(cells, axis=0)).ravel(), np.abs(np.diff(cells, axis=1)).ravel()])
    return float(np.percentile(differences, _SHARE))
