from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_nodes.sources.orientation import upright

ONE = 1 << 16
PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    return struct.pack("=9i", a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)


def by_hand(a: int, b: int, c: int, d: int) -> NDArray[np.uint8]:
    """Each pixel put where the matrix says."""
    placed = {
        (a * x + c * y, b * x + d * y): PIXELS[y, x] for y in range(PIXELS.shape[0]) for x in range(PIXELS.shape[1])
    }
    left, top = min(x for x, _ in placed), min(y for _, y in placed)
    width, height = max(x for x, _ in placed) - left + 1, max(y for _, y in placed) - top + 1
    return np.array([[placed[left + x, top + y] for x in range(width)] for y in range(height)], dtype=np.uint8)


@pytest.mark.parametrize("first", [1, -1])
@pytest.mark.parametrize("second", [1, -1])
@pytest.mark.parametrize("transposed", [False, True])
def test_all_eight_orientations(first: int, second: int, transposed: bool) -> None:
    entries = (0, first, second, 0) if transposed else (first, 0, 0, second)
    assert np.array_equal(upright(PIXELS, matrix(*entries)), by_hand(*entries))


def test_without_a_matrix_or_with_an_empty_or_short_one_nothing_is_turned() -> None:
    for absent in (None, matrix(0, 0, 0, 0), b"", b"\xff" * 20):
        assert np.array_equal(upright(PIXELS, absent), PIXELS)


def test_a_camera_that_hangs_askew_is_shown_by_the_nearest_right_angle() -> None:
    turned = struct.pack("=9i", 6000, 65000, 0, -65000, 6000, 0, 0, 0, 1 << 30)
    assert np.array_equal(upright(PIXELS, turned), by_hand(0, 1, -1, 0))
