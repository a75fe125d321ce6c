"""Scenes and frames: the seed decides everything, and what the scene says is what can be seen."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scenes.catalogue import COLORS, KINDS, MAX_COUNT, MAX_OBJECTS
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import MIN_SIZE, Background, Scene, SceneObject, overlaps, position_name, sample_scene

GREY = Background("gradient", (120, 120, 120), 1)


@given(st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_sampled_scenes_show_every_object_whole_and_apart(seed: int) -> None:
    scene = sample_scene(seed)
    assert 1 <= len(scene.objects) <= MAX_OBJECTS
    for index, item in enumerate(scene.objects):
        left, top, right, bottom = item.box
        assert left >= 0
        assert top >= 0
        assert right <= 1
        assert bottom <= 1
        assert item.size >= MIN_SIZE
        assert not any(overlaps(item, other) for other in scene.objects[index + 1 :])
    assert all(scene.count(kind) <= MAX_COUNT for kind in KINDS)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    first, again, other = render(sample_scene(11)), render(sample_scene(11)), render(sample_scene(12))
    assert first.dtype == np.uint8
    assert first.shape == (128, 128, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize("size", [64, 256])
def test_other_sizes_show_the_same_picture(size: int) -> None:
    scene = replace(sample_scene(5), noise_sigma=0.0)
    small, large = render(scene, 64).astype(float), render(scene, size).astype(float)
    factor = size // 64
    reduced = large.reshape(64, factor, 64, factor, 3).mean(axis=(1, 3))
    assert abs(small.mean() - reduced.mean()) < 4
    assert np.corrcoef(small.ravel(), reduced.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("color", COLORS)
def test_every_kind_in_every_color_stands_out_from_the_background(kind: str, color: str) -> None:
    item = SceneObject(kind, color, 0.5, 0.5, MIN_SIZE)
    empty = render(Scene((), GREY, noise_sigma=0.0)).astype(int)
    frame = render(Scene((item,), GREY, noise_sigma=0.0)).astype(int)
    changed = np.abs(frame - empty).max(axis=2) > 12
    left, top, right, bottom = (round(value * 128) for value in item.box)
    assert changed[top:bottom, left:right].mean() > 0.3
    outside = changed.copy()
    outside[top - 2 : bottom + 4, left - 2 : right + 2] = False
    assert not outside.any()
    # The named colour is the one that covers most of what changed.
    pixels = frame[changed]
    distance = np.abs(pixels - np.array(COLORS[color])).max(axis=1)
    assert (distance < 40).mean() > 0.12


def test_kinds_are_told_apart_by_shape() -> None:
    frames = {
        kind: render(Scene((SceneObject(kind, "red", 0.5, 0.5, 0.3),), GREY, noise_sigma=0.0)).astype(float)
        for kind in KINDS
    }
    names = list(frames)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            assert np.abs(frames[first] - frames[second]).mean() > 1.0, (first, second)


def test_brightness_and_noise_do_what_they_say() -> None:
    scene = Scene((), GREY, noise_sigma=0.0)
    dark = render(replace(scene, brightness=0.8)).astype(float)
    assert dark.mean() == pytest.approx(render(scene).astype(float).mean() * 0.8, rel=0.02)
    difference = render(replace(scene, noise_sigma=5.0)).astype(float) - render(scene).astype(float)
    assert difference.std() == pytest.approx(5.0, rel=0.1)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.1, 0.1, "top left"),
        (0.5, 0.5, "center"),
        (0.9, 0.5, "middle right"),
        (0.5, 0.95, "bottom center"),
        (0.34, 0.5, None),
        (0.5, 0.64, None),
    ],
)
def test_position_names(x: float, y: float, expected: str | None) -> None:
    assert position_name(x, y) == expected
