"""Frames as they are meant to be seen: cameras and phones write beside the pixels how to turn and mirror them."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_MATRIX = struct.Struct("=9i")


def upright(pixels: NDArray[np.uint8], display_matrix: bytes | None) -> NDArray[np.uint8]:
    """Turn and mirror a frame.

    The matrix maps a source pixel (x, y) to the display: ``x' = a x + c y``, ``y' = b x + d y``. Of its eight
    right-angled forms the nearest is applied; no camera is mounted askew on purpose.

    Args:
        pixels: uint8 [H, W, 3].
        display_matrix: ``a b u c d v x y w``, each int32, as FFmpeg gives it; None when there is none.

    Returns:
        uint8 [H, W, 3] or [W, H, 3].
    """
    if display_matrix is None or len(display_matrix) < _MATRIX.size:
        return pixels
    a, b, _, c, d, *_ = _MATRIX.unpack_from(display_matrix)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        right, down = a, d
    else:
        pixels = pixels.transpose(1, 0, 2)
        right, down = c, b
    if right < 0:
        pixels = pixels[:, ::-1]
    if down < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def one_field(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The upper field of an interlaced frame at full height: its two fields are of different moments.

    Args:
        pixels: uint8 [H, W, 3].

    Returns:
        uint8 [H, W, 3], each line of the field twice.
    """
    return np.repeat(pixels[::2], 2, axis=0)[: len(pixels)]
