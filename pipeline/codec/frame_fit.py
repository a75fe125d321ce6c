"""How a frame of any size becomes the model's input: the same code at the edge, in calibration and in evaluation."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.codec.spec import FitFilter, FrameFit

_FILTERS: Final[dict[FitFilter, Image.Resampling]] = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_REDUCING_GAP: Final = 3.0
"""A frame more than three times as large is first reduced by whole steps; part of the rule, as it changes pixels."""


def fit_frame(frame: NDArray[np.uint8], size_px: int, fit: FrameFit) -> NDArray[np.uint8]:
    """A frame as the encoder takes it.

    Args:
        frame: RGB, uint8 [H, W, 3].
        size_px: height and width of the result.
        fit: the codec's rule.

    Returns:
        uint8 [size_px, size_px, 3]; the frame itself if it has that size.
    """
    if frame.shape[:2] == (size_px, size_px):
        return frame
    # The only mode there is: the aspect ratio is given up.
    image = Image.fromarray(frame).resize((size_px, size_px), _FILTERS[fit.filter], reducing_gap=_REDUCING_GAP)
    return np.asarray(image)
