"""Frames: the scene decides every byte, and what it says is what can be seen, by day and by night."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.scenes.catalogue import COLORS, KINDS
from pipeline.scenes.places import place_pixels
from pipeline.scenes.renderer import DEFAULT_SIZE, render
from pipeline.scenes.scene import BACKGROUND_STYLES, Background, Light, Scene, SceneObject, Weather, sample_scene

YARD = Background("yard", (120, 120, 120), 0.1, 3)
MOVABLE = [name for name, kind in KINDS.items() if kind.can_move]


def quiet(*objects: SceneObject, light: Light = "day", weather: Weather = "clear") -> Scene:
    """A scene without sensor noise."""
    return Scene(objects, YARD, light=light, weather=weather, sun=0.0, noise_sigma=0.0)


def of_height(kind: str, color: str, height_px: int, *, moving: bool = False, faces_left: bool = False) -> SceneObject:
    """An object in the middle of the frame, so many pixels high in a frame of the usual size."""
    size = height_px / DEFAULT_SIZE / KINDS[kind].height
    return SceneObject(kind, color, 0.5, 0.5, size, faces_left, moving)


def pixel_box(item: SceneObject, size: int = DEFAULT_SIZE) -> tuple[slice, slice]:
    left, top, right, bottom = (round(value * size) for value in item.box)
    return slice(top, bottom), slice(left, right)


def shown(scene: Scene, size: int = DEFAULT_SIZE) -> NDArray[np.float64]:
    return render(scene, size).astype(np.float64)


@pytest.mark.parametrize("size", [128, 256, 512])
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_the_same_scene_gives_the_same_bytes_and_another_does_not(size: int, seed: int) -> None:
    first = render(sample_scene(seed), size)
    place_pixels.cache_clear()
    assert first.dtype == np.uint8
    assert first.shape == (size, size, 3)
    np.testing.assert_array_equal(first, render(sample_scene(seed), size))
    assert (first != render(sample_scene(seed + 100), size)).mean() > 0.5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [128, 512])
def test_objects_look_the_same_at_other_sizes(seed: int, size: int) -> None:
    """The ground's texture is drawn anew for every size; what the objects add to it is not."""
    scene = replace(sample_scene(seed), light="day", weather="clear", brightness=1.0, noise_sigma=0.0)
    added = []
    for edge in (DEFAULT_SIZE, size):
        difference = shown(scene, edge) - shown(replace(scene, objects=()), edge)
        # Cells of equal share of the frame.
        added.append(difference.reshape(64, edge // 64, 64, edge // 64, 3).mean(axis=(1, 3)))
    assert np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1] > 0.92


@pytest.mark.parametrize("style", BACKGROUND_STYLES)
def test_places_differ_by_seed_and_leave_a_horizon(style: str) -> None:
    place = Background(style, (110, 110, 110), 0.2, 1)  # type: ignore[arg-type]
    pixels, other = (place_pixels(b, 256).astype(float) for b in (place, replace(place, seed=2)))
    assert np.abs(pixels - other).mean() > 3
    line = int(0.2 * 256)
    assert np.abs(pixels[: line - 4].mean(axis=(0, 1)) - pixels[line + 8 :].mean(axis=(0, 1))).max() > 10


@pytest.mark.parametrize("light", ["day", "dusk", "night"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_color_of_every_kind_can_be_named(kind: str, light: Light) -> None:
    """At 24 pixels of height the eight colours stand out from the place, and the named one is the nearest."""
    empty = shown(quiet(light=light))
    # What the light does to the ground beside the object is what the eye allows for.
    around = slice(100, 156), slice(90, 166)
    lit = empty[around].mean(axis=(0, 1)) / shown(quiet())[around].mean(axis=(0, 1))
    palette = np.array([COLORS[name] for name in COLORS], dtype=float) * lit
    for index, color in enumerate(COLORS):
        item = of_height(kind, color, 24)
        box = pixel_box(item)
        frame = shown(quiet(item, light=light))
        changed = np.abs(frame - empty).max(axis=2)[box] > 8
        assert changed.mean() > 0.25, color
        pixels = frame[box][changed]
        nearest = np.abs(pixels[:, None, :] - palette).sum(axis=2).argmin(axis=1)
        colored = pixels.max(axis=1) - pixels.min(axis=1) > 60 * lit.mean()
        if color in ("white", "black"):
            assert (nearest == index).mean() > 0.15, color
        else:
            assert np.bincount(nearest[colored], minlength=len(COLORS)).argmax() == index, color


def test_kinds_are_told_apart_at_24_pixels() -> None:
    crops: dict[str, NDArray[np.float64]] = {}
    for kind in KINDS:
        frame = shown(quiet(of_height(kind, "red", 24)))
        crops[kind] = frame[128 - 14 : 128 + 14, 128 - 26 : 128 + 26]
    for first, second in combinations(KINDS, 2):
        differ = np.abs(crops[first] - crops[second]).max(axis=2) > 40
        assert differ.sum() > 60, (first, second)


def test_nearer_objects_hide_those_behind() -> None:
    far = SceneObject("box", "red", 0.5, 0.45, 0.2)
    near = SceneObject("box", "blue", 0.56, 0.55, 0.25)
    frame = shown(quiet(far, near))
    alone = shown(quiet(near))
    box = pixel_box(near)
    # The drawing of what is nearer covers the front of its box whole; what is behind adds nothing there.
    front = (slice(box[0].start + 20, box[0].stop - 4), slice(box[1].start + 4, box[1].stop - 20))
    np.testing.assert_allclose(frame[front], alone[front], atol=1)


@pytest.mark.parametrize("seed", range(12))
def test_every_object_of_a_sampled_scene_is_seen(seed: int) -> None:
    """More than a third of what would be seen of an object alone looks the same among the others and their blur."""
    scene = replace(sample_scene(seed), light="day", weather="clear", noise_sigma=0.0)
    empty, frame = shown(replace(scene, objects=())), shown(scene)
    for item in scene.objects:
        box = pixel_box(item)
        alone = shown(replace(scene, objects=(item,)))[box]
        drawn = np.abs(alone - empty[box]).max(axis=2) > 10
        same = np.abs(frame[box] - alone).max(axis=2) < 40
        assert (drawn & same).sum() > drawn.sum() / 3, item


@pytest.mark.parametrize("kind", MOVABLE)
@pytest.mark.parametrize("faces_left", [False, True])
def test_what_moves_is_blurred_behind_and_what_stands_is_not(kind: str, faces_left: bool) -> None:
    still, moving = (of_height(kind, "red", 30, moving=flag, faces_left=faces_left) for flag in (False, True))
    empty = shown(quiet())
    rows, columns = pixel_box(still)
    width = columns.stop - columns.start
    gap = 2
    left = slice(columns.start - gap - width // 3, columns.start - gap)
    right = slice(columns.stop + gap, columns.stop + gap + width // 3)
    behind, before = (right, left) if faces_left else (left, right)
    # Above the feet, where no shadow falls.
    upper = slice(rows.start + 2, rows.start + (rows.stop - rows.start) * 3 // 5)

    def change(item: SceneObject, across: slice) -> float:
        return float(np.abs(shown(quiet(item)) - empty)[upper, across].mean())

    assert change(still, behind) < 1
    assert change(moving, before) < 1
    assert change(moving, behind) > 8


def test_walkers_have_another_pose_in_motion() -> None:
    for kind in ("person", "dog", "cat"):
        frames = [shown(quiet(of_height(kind, "blue", 40, moving=flag))) for flag in (False, True)]
        rows, columns = pixel_box(of_height(kind, "blue", 40))
        legs = slice((rows.start + rows.stop) // 2 + 4, rows.stop - 4)
        assert np.abs(frames[0] - frames[1])[legs, columns].mean() > 12, kind


@pytest.mark.parametrize("seed", range(5))
def test_night_is_darker_than_dusk_and_dusk_than_day(seed: int) -> None:
    scene = sample_scene(seed)
    day, dusk, night = (shown(replace(scene, light=light)).mean() for light in ("day", "dusk", "night"))
    assert night < 0.9 * dusk < 0.9 * day


def test_lamps_by_night_leave_pools_of_light_and_vehicles_have_headlights() -> None:
    day, night = shown(quiet())[40:], shown(quiet(light="night"))[40:]
    share = night.mean(axis=2) / day.mean(axis=2)
    assert share.max() > 1.3 * share.min()
    car = of_height("car", "black", 40)
    front = slice(pixel_box(car)[1].stop + 6, pixel_box(car)[1].stop + 20)
    beam = slice(128, 140)
    lit = shown(quiet(car, light="night")) - shown(quiet(light="night"))
    assert lit[beam, front].mean() > 5
    assert (shown(quiet(car)) - shown(quiet()))[beam, front].mean() < 1


def test_fog_takes_contrast_with_distance() -> None:
    far, near = (replace(of_height("box", "black", 30), y=y) for y in (0.2, 0.85))

    def contrast(item: SceneObject, weather: Weather) -> float:
        difference = shown(quiet(item, weather=weather)) - shown(quiet(weather=weather))
        return float(np.abs(difference[pixel_box(item)]).mean())

    lost_far, lost_near = (1 - contrast(item, "fog") / contrast(item, "clear") for item in (far, near))
    assert lost_far > lost_near + 0.15
    assert contrast(far, "fog") > 15


def test_rain_darkens_and_draws_streaks() -> None:
    clear, rain = shown(quiet()), shown(quiet(weather="rain"))
    brighter = (rain - clear).mean(axis=2) > 15
    assert 0.005 < brighter.mean() < 0.1
    assert np.median(rain) < 0.92 * np.median(clear)


@pytest.mark.parametrize("sun", [-0.9, 0.9])
def test_shadows_fall_to_the_side_that_the_sun_says(sun: float) -> None:
    item = of_height("tree", "green", 60)
    scene = replace(quiet(item), sun=sun)
    darker = (shown(replace(scene, objects=())) - shown(scene)).mean(axis=2) > 10
    rows, columns = pixel_box(item)
    below = darker[rows.stop + 5 : rows.stop + 30]
    centre = np.average(np.arange(DEFAULT_SIZE), weights=below.sum(axis=0))
    assert np.sign(centre - (columns.start + columns.stop) / 2) == np.sign(sun)


def test_brightness_and_noise_do_what_they_say() -> None:
    scene = quiet()
    assert shown(replace(scene, brightness=0.8)).mean() == pytest.approx(shown(scene).mean() * 0.8, rel=0.02)
    factors: dict[Light, float] = {"day": 1.0, "night": 1.5}
    for light, factor in factors.items():
        calm = quiet(light=light)
        difference = shown(replace(calm, noise_sigma=5.0)) - shown(calm)
        assert difference.std() == pytest.approx(5.0 * factor, rel=0.1)
        assert abs(difference.mean()) < 0.2
