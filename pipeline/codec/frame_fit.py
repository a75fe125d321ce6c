"""How a frame of any size becomes the model's input: the same code at the edge, in calibration and in evaluation.

Masks are blacked out first, then a region may be cut out, then the picture becomes a square, then it gets its size.
Nothing here has a state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.codec.spec import FitFilter, FitMode, FrameFit

Rectangle: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of width and height."""
Polygon: TypeAlias = Sequence[tuple[float, float]]
"""Corners (x, y), as shares of width and height."""

_FILTERS: Final[dict[FitFilter, Image.Resampling]] = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_REDUCING_GAP: Final = 3.0
"""A frame more than three times as large is first reduced by whole steps; part of the rule, as it changes pixels."""
_LEVEL_PX: Final = 1e-9
"""A side of a polygon that rises less is level: its slope has no number."""


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
    square = squared(frame, fit.mode)
    image = Image.fromarray(square).resize((size_px, size_px), _FILTERS[fit.filter], reducing_gap=_REDUCING_GAP)
    return np.asarray(image)


def squared(frame: NDArray[np.uint8], mode: FitMode) -> NDArray[np.uint8]:
    """A frame whose stretching to a square is what ``mode`` means.

    Args:
        frame: RGB, uint8 [H, W, 3].
        mode: ``stretch`` gives up the aspect ratio, ``crop`` the longer sides' ends, ``letterbox`` adds black borders.

    Returns:
        uint8; the frame itself for ``stretch``, a square of its shorter side for ``crop``, of its longer side for
        ``letterbox``.
    """
    height, width = frame.shape[:2]
    if mode == "stretch" or height == width:
        return frame
    side = min(height, width) if mode == "crop" else max(height, width)
    top, left = abs(height - side) // 2, abs(width - side) // 2
    if mode == "crop":
        return np.ascontiguousarray(frame[top : top + side, left : left + side])
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + height, left : left + width] = frame
    return square


def as_square(frame: NDArray[np.uint8], mode: FitMode) -> NDArray[np.uint8]:
    """A square frame in any mode, for a codec that has another one: it only changes the size of a square.

    Args:
        frame: RGB, uint8 [H, W, 3].
        mode: how it becomes a square.

    Returns:
        uint8 [S, S, 3].
    """
    height, width = frame.shape[:2]
    if mode != "stretch" or height == width:
        return squared(frame, mode)
    side = min(height, width)
    return np.asarray(Image.fromarray(frame).resize((side, side), _FILTERS["hamming"]))


def cut_out(frame: NDArray[np.uint8], region: Rectangle) -> NDArray[np.uint8]:
    """The part of a frame that is of interest, at least one pixel.

    Args:
        frame: RGB, uint8 [H, W, 3].
        region: the part; every pixel that it touches is in it.
    """
    rows, columns = _touched(region, frame.shape[0], frame.shape[1])
    return np.ascontiguousarray(frame[rows, columns])


def masked_pixels(masks: Sequence[Rectangle | Polygon], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels that masks hide: all that one touches.

    Args:
        masks: rectangles and polygons.
        height: of the frame, in pixels.
        width: of the frame, in pixels.

    Returns:
        bool [height, width].
    """
    hidden = np.zeros((height, width), dtype=bool)
    for mask in masks:
        if _is_rectangle(mask):
            hidden[_touched(mask, height, width)] = True
        else:
            hidden |= _polygon(mask, height, width)
    return hidden


def black_out(frame: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A frame whose hidden pixels are black; the frame given is left as it is.

    Args:
        frame: RGB, uint8 [H, W, 3].
        hidden: bool [H, W].
    """
    shown = frame.copy()
    shown[hidden] = 0
    return shown


def _is_rectangle(mask: Rectangle | Polygon) -> bool:
    return isinstance(mask[0], int | float)


def _touched(rectangle: Rectangle | Polygon, height: int, width: int) -> tuple[slice, slice]:
    left, top, right, bottom = (float(side) for side in rectangle)  # type: ignore[arg-type]
    return _span(top, bottom, height), _span(left, right, width)


def _span(start: float, stop: float, size: int) -> slice:
    first = min(math.floor(start * size), size - 1)
    return slice(first, max(first + 1, min(math.ceil(stop * size), size)))


def _polygon(corners: Rectangle | Polygon, height: int, width: int) -> NDArray[np.bool_]:
    """Row by row, by the even-odd rule. Pillow's polygons leave out pixels that a side only grazes."""
    points = np.array(corners, dtype=np.float64) * (width, height)
    (x1, y1), (x2, y2) = points.T, np.roll(points, -1, axis=0).T
    low, high = np.minimum(y1, y2), np.maximum(y1, y2)
    level = high - low < _LEVEL_PX
    slope = np.divide(x2 - x1, y2 - y1, out=np.zeros_like(x1), where=~level)
    hidden = np.zeros((height, width), dtype=bool)
    for row in range(min(math.floor(low.min()), height - 1), min(math.floor(high.max()) + 1, height)):
        # The part of each side that lies in this row; of a level side, all.
        ends = [
            np.where(level, end, x1 + (np.clip(edge, low, high) - y1) * slope)
            for edge, end in ((row, x1), (row + 1, x2))
        ]
        here = (high >= row) & (low <= row + 1)
        spans = [*zip(np.minimum(*ends)[here], np.maximum(*ends)[here], strict=True)]
        # What no side touches is in or out as a whole, as its middle is.
        crossed = (y1 > row + 0.5) != (y2 > row + 0.5)
        crossings = np.sort((x1 + (row + 0.5 - y1) * slope)[crossed])
        for left, right in (*spans, *zip(crossings[::2], crossings[1::2], strict=True)):
            first = min(max(0, math.floor(left)), width - 1)  # a side at the edge may end below 0 by rounding
            hidden[row, first : max(first + 1, math.ceil(right))] = True
    return hidden
