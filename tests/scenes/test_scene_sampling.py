"""Sampled scenes: perspective, bounded hiding, repeats to count, and small things in the detailed view."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scenes.catalogue import COLORS, KINDS, MAX_COUNT, MAX_DETAIL_OBJECTS, MAX_OBJECTS
from pipeline.scenes.scene import MAX_HIDDEN, Scene, SceneObject, depth_size, hidden_share, position_name, sample_scene

SEEDS = st.integers(0, 2**40)
_MOST_HIDDEN = 0.35


def share_hidden(scene: Scene, index: int) -> float:
    """Share of one object's box that all nearer boxes cover together, on a grid of 48 x 48 points."""
    left, top, right, bottom = scene.objects[index].box
    xs, ys = np.linspace(left, right, 48)[None, :], np.linspace(top, bottom, 48)[:, None]
    covered = np.zeros((48, 48), dtype=bool)
    for nearer in scene.objects[index + 1 :]:
        a = nearer.box
        covered |= (xs >= a[0]) & (xs <= a[2]) & (ys >= a[1]) & (ys <= a[3])
    return float(covered.mean())


@given(seed=SEEDS, detail=st.booleans())
@settings(max_examples=120, deadline=None)
def test_everything_that_counts_can_be_seen(seed: int, detail: bool) -> None:
    scene = sample_scene(seed, detail=detail)
    assert scene == sample_scene(seed, detail=detail)
    assert 1 <= len(scene.objects) <= (MAX_DETAIL_OBJECTS if detail else MAX_OBJECTS)
    feet = [item.box[3] for item in scene.objects]
    assert feet == sorted(feet)
    assert min(feet) > scene.background.horizon
    for index, item in enumerate(scene.objects):
        assert min(item.box) >= 0
        assert max(item.box) <= 1
        assert all(hidden_share(item, nearer) <= MAX_HIDDEN / 2 for nearer in scene.objects[index + 1 :])
        assert KINDS[item.kind].can_move or not item.moving
    assert all(scene.count(kind) <= MAX_COUNT for kind in KINDS)
    assert sum(scene.count(kind, color) for kind in KINDS for color in COLORS) == len(scene.objects)


@pytest.mark.parametrize("detail", [False, True])
def test_several_nearer_objects_together_leave_enough_to_see(detail: bool) -> None:
    scenes = [sample_scene(seed, detail=detail) for seed in range(300)]
    hidden = [share_hidden(scene, index) for scene in scenes for index in range(len(scene.objects))]
    assert 0.05 < max(hidden) <= _MOST_HIDDEN


@given(seed=SEEDS, detail=st.booleans())
@settings(max_examples=60, deadline=None)
def test_size_follows_the_distance(seed: int, detail: bool) -> None:
    scene = sample_scene(seed, detail=detail)
    for item in scene.objects:
        expected = depth_size(item.box[3], scene.background.horizon, detail=detail) * KINDS[item.kind].scale
        assert 0.89 <= item.size / expected <= 1.13
    assert depth_size(0.95, 0.2, detail=detail) > 1.5 * depth_size(0.3, 0.2, detail=detail)


def sides_px(scenes: list[Scene], size: int) -> list[float]:
    """Heights of all boxes in a frame of a size."""
    return [(item.box[3] - item.box[1]) * size for scene in scenes for item in scene.objects]


def test_the_detailed_view_needs_twice_the_resolution() -> None:
    normal = sides_px([sample_scene(seed) for seed in range(300)], 256)
    detailed = [sample_scene(seed, detail=True) for seed in range(300)]
    assert min(normal) >= 20
    assert np.median(normal) > 40
    assert min(sides_px(detailed, 512)) >= 11
    # A fifth of the things are too small to be read once the frame is reduced, and large enough before.
    assert np.quantile(sides_px(detailed, 256), 0.2) < 12
    assert sample_scene(3) != sample_scene(3, detail=True)


def test_about_half_of_the_scenes_repeat_a_kind_or_a_color() -> None:
    scenes = [sample_scene(seed) for seed in range(600)]
    counts = [max(Counter(item.kind for item in scene.objects).values()) for scene in scenes]
    assert {1, 2, 3, 4, 5, 6} == set(counts)
    assert 0.25 < np.mean(np.array(counts) >= 3) < 0.55
    kinds = Counter(item.kind for scene in scenes for item in scene.objects)
    assert set(kinds) == set(KINDS)
    assert len(KINDS) >= 16
    colors = Counter(item.color for scene in scenes for item in scene.objects)
    assert max(colors.values()) < 1.6 * min(colors.values())
    movable = [item.moving for scene in scenes for item in scene.objects if KINDS[item.kind].can_move]
    assert 0.42 < np.mean(movable) < 0.58


def test_places_lights_and_weathers_are_all_there() -> None:
    scenes = [sample_scene(seed) for seed in range(400)]
    assert {scene.light for scene in scenes} == {"day", "dusk", "night"}
    assert {scene.weather for scene in scenes} == {"clear", "rain", "fog"}
    assert len({scene.background.style for scene in scenes}) == 6
    assert not any(scene.light == "night" and scene.weather == "fog" for scene in scenes)


def test_hidden_share_is_that_of_the_further_box() -> None:
    far = SceneObject("box", "red", 0.5, 0.5, 0.1)
    assert hidden_share(far, SceneObject("box", "blue", 0.5, 0.5, 0.3)) == pytest.approx(1.0)
    assert hidden_share(SceneObject("box", "blue", 0.5, 0.5, 0.3), far) == pytest.approx(1 / 9)
    half = 0.1 * KINDS["box"].width / 2
    assert hidden_share(far, SceneObject("box", "blue", 0.5 + half, 0.5, 0.1)) == pytest.approx(0.5)
    assert hidden_share(far, SceneObject("box", "blue", 0.9, 0.5, 0.1)) == 0.0


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
