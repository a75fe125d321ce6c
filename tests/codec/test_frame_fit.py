from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from pipeline.codec.frame_fit import (
    Polygon,
    Rectangle,
    as_square,
    black_out,
    cut_out,
    fit_frame,
    masked_pixels,
    squared,
)
from pipeline.codec.spec import FitMode, FrameFit

MODES: tuple[FitMode, ...] = ("stretch", "crop", "letterbox")
sizes = st.integers(1, 60)
shares = st.floats(0, 1)


@st.composite
def frames(draw: st.DrawFn) -> NDArray[np.uint8]:
    return draw(arrays(np.uint8, (draw(sizes), draw(sizes), 3), elements=st.integers(1, 255)))


@st.composite
def rectangles(draw: st.DrawFn) -> Rectangle:
    left, right = sorted((draw(shares), draw(shares)))
    top, bottom = sorted((draw(shares), draw(shares)))
    return left, top, right, bottom


@st.composite
def triangles(draw: st.DrawFn) -> Polygon:
    return tuple((draw(shares), draw(shares)) for _ in range(3))


@given(frames(), st.sampled_from(MODES), st.integers(8, 40))
def test_every_frame_becomes_the_input_in_every_mode(frame: NDArray[np.uint8], mode: FitMode, size_px: int) -> None:
    fitted = fit_frame(frame, size_px, FrameFit(mode=mode))
    assert fitted.shape == (size_px, size_px, 3)
    assert fitted.dtype == np.uint8


@given(frames())
def test_a_crop_is_the_middle_of_the_frame_and_a_letterbox_the_whole(frame: NDArray[np.uint8]) -> None:
    height, width = frame.shape[:2]
    crop, boxed = squared(frame, "crop"), squared(frame, "letterbox")
    assert crop.shape[:2] == (min(height, width),) * 2
    top, left = (height - len(crop)) // 2, (width - len(crop)) // 2
    assert np.array_equal(crop, frame[top : top + len(crop), left : left + len(crop)])
    assert boxed.shape[:2] == (max(height, width),) * 2
    shown = boxed.max(axis=2) > 0
    assert shown.sum() == height * width, "nothing is lost, and the rest is black"
    assert np.array_equal(boxed[shown].reshape(frame.shape), frame)
    filled = shown.max(axis=1)
    borders = [int(np.argmax(line)) for line in (filled, filled[::-1])]
    assert abs(borders[0] - borders[1]) <= 1, "in the middle"


@given(frames(), st.sampled_from(MODES), st.sampled_from(MODES))
def test_a_square_stays_what_it_is_whatever_the_codec_does(
    frame: NDArray[np.uint8], mode: FitMode, codec: FitMode
) -> None:
    square = as_square(frame, mode)
    assert square.shape[0] == square.shape[1]
    assert squared(square, codec) is square


def test_the_default_is_what_codecs_were_calibrated_for() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)
    plain = Image.fromarray(frame).resize((32, 32), Image.Resampling.HAMMING, reducing_gap=3.0)
    assert FrameFit().mode == "stretch"
    assert np.array_equal(fit_frame(frame, 32, FrameFit()), np.asarray(plain))


@given(frames(), rectangles())
def test_a_region_holds_every_pixel_that_it_touches(frame: NDArray[np.uint8], region: Rectangle) -> None:
    height, width = frame.shape[:2]
    part = cut_out(frame, region)
    hidden = masked_pixels([region], height, width)
    assert part.size > 0
    assert np.array_equal(part.reshape(-1, 3), frame[hidden])
    left, top, right, bottom = region
    for y in range(height):
        for x in range(width):
            inside = left * width < x + 1 and right * width > x and top * height < y + 1 and bottom * height > y
            assert hidden[y, x] or not inside


@given(frames(), st.lists(rectangles() | triangles(), max_size=4))
def test_what_is_masked_is_black_and_nothing_else_changes(
    frame: NDArray[np.uint8], masks: list[Rectangle | Polygon]
) -> None:
    hidden = masked_pixels(masks, *frame.shape[:2])
    before = frame.copy()
    shown = black_out(frame, hidden)
    assert not shown[hidden].any()
    assert np.array_equal(shown[~hidden], frame[~hidden])
    assert np.array_equal(frame, before)


def inside(corners: Polygon, x: float, y: float) -> bool:
    """By the crossings of a ray."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            crossings += 1
    return crossings % 2 == 1


@given(sizes, sizes, triangles())
@example(3, 3, ((0.5859375, 0.5625), (0.0, 0.0), (0.0, 1.0)))
@example(1, 1, ((0.0, 0.0), (0.0, 0.0), (1.0, 2.225073858507e-311)))
def test_a_polygon_hides_every_pixel_of_which_a_corner_or_the_middle_is_in_it(
    height: int, width: int, corners: Polygon
) -> None:
    hidden = masked_pixels([corners], height, width)
    for y in range(height):
        for x in range(width):
            points = [(x + dx, y + dy) for dx in (0.001, 0.5, 0.999) for dy in (0.001, 0.5, 0.999)]
            touched = any(inside(corners, px / width, py / height) for px, py in points)
            assert hidden[y, x] or not touched


@pytest.mark.parametrize("mask", [(0.0, 0.0, 1.0, 1.0), ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))])
def test_a_mask_of_everything_hides_everything(mask: Rectangle | Polygon) -> None:
    assert masked_pixels([mask], 33, 71).all()
    assert masked_pixels([], 33, 71).sum() == 0
