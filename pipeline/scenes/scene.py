"""A scene: what stands where on the ground, under which light. Frozen, comparable, sampled from a seed.

A camera on a mast looks at a ground plane. What stands further away stands higher in the frame, nearer to the horizon,
and is smaller; what is nearer hides what is behind it, but never so much that it could not be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from pipeline.scenes.catalogue import COLORS, KINDS, MAX_COUNT, MAX_DETAIL_OBJECTS, MAX_OBJECTS, POSITIONS

BackgroundStyle: TypeAlias = Literal["street", "parking", "lawn", "yard", "hall", "quay"]
Light: TypeAlias = Literal["day", "dusk", "night"]
Weather: TypeAlias = Literal["clear", "rain", "fog"]

BACKGROUND_STYLES: Final[tuple[BackgroundStyle, ...]] = ("street", "parking", "lawn", "yard", "hall", "quay")
CELL_MARGIN: Final = 0.04
"""A centre nearer than this to the border of two cells has no clear position."""

MAX_HIDDEN: Final = 0.3
"""Largest share of an object's bounding box that nearer ones may cover."""
_MIN_CENTRE_DISTANCE: Final = 0.55
"""Of two objects, in mean sizes: nearer ones would merge."""
_FRONT: Final = 0.985
"""Lowest place for feet."""
_NEAREST_SIZE: Final = 0.34
_FARTHEST_SHARE: Final = 0.5
_DETAIL_SIZE: Final = 0.105
_DETAIL_FARTHEST_SHARE: Final = 0.42
_FREQUENCIES: Final = np.array([kind.frequency for kind in KINDS.values()]) / sum(
    kind.frequency for kind in KINDS.values()
)


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object. Coordinates are shares of the frame, origin at the top left.

    Attributes:
        kind: Key of `KINDS`.
        color: Key of `COLORS`.
        x: Centre of the bounding box, horizontally.
        y: Centre of the bounding box, vertically.
        size: Scale; the bounding box is `size` times the width and height of the kind.
        faces_left: Whether the drawing is mirrored.
        moving: Whether it moves, in the direction that it faces.
    """

    kind: str
    color: str
    x: float
    y: float
    size: float
    faces_left: bool = False
    moving: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box (left, top, right, bottom) as shares of the frame."""
        half_width = self.size * KINDS[self.kind].width / 2
        half_height = self.size * KINDS[self.kind].height / 2
        return self.x - half_width, self.y - half_height, self.x + half_width, self.y + half_height


@dataclass(frozen=True, slots=True)
class Background:
    """The place.

    Attributes:
        style: Kind of place.
        rgb: Base colour of the ground.
        horizon: Where the ground ends, as a share of the frame from the top.
        seed: Seed of textures and of what stands in the distance.
    """

    style: BackgroundStyle
    rgb: tuple[int, int, int]
    horizon: float
    seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that determines a frame, pixel by pixel.

    Attributes:
        objects: Objects, drawn in this order (far to near).
        background: The place.
        light: Time of day.
        weather: What is in the air.
        sun: Where shadows fall, -1 (far left) to 1 (far right); by night it places the lamps.
        brightness: Exposure factor, 1 is neutral.
        noise_sigma: Standard deviation of the sensor noise in grey levels (0 to 255).
        noise_seed: Seed of the sensor noise, and of drops and puffs of dust.
    """

    objects: tuple[SceneObject, ...]
    background: Background
    light: Light = "day"
    weather: Weather = "clear"
    sun: float = 0.4
    brightness: float = 1.0
    noise_sigma: float = 3.0
    noise_seed: int = 0

    def count(self, kind: str, color: str | None = None) -> int:
        """Number of objects of a kind, and of a colour if one is given."""
        return len(self.matching(kind, color))

    def matching(self, kind: str, color: str | None = None) -> tuple[SceneObject, ...]:
        """Objects of a kind, and of a colour if one is given."""
        return tuple(item for item in self.objects if item.kind == kind and color in (None, item.color))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind that could be asked about."""
        return tuple(KINDS)

    @property
    def colored_kinds(self) -> tuple[str, ...]:
        """Those among them whose objects have a colour of their own: all."""
        return self.kinds


def cell_index(x: float, y: float) -> int:
    """Index in `POSITIONS` of the 3x3 cell that holds a point (shares of the frame)."""
    return min(int(y * 3), 2) * 3 + min(int(x * 3), 2)


def position_name(x: float, y: float) -> str | None:
    """Name of the 3x3 cell that holds a point, or None when it is within `CELL_MARGIN` of another cell."""
    for value in (x, y):
        if any(abs(value - border) < CELL_MARGIN for border in (1 / 3, 2 / 3)):
            return None
    return POSITIONS[cell_index(x, y)]


def hidden_share(far: SceneObject, near: SceneObject) -> float:
    """Share of one bounding box that another covers."""
    a, b = far.box, near.box
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]))


def clash(first: SceneObject, second: SceneObject) -> bool:
    """Whether two objects hide one another too much to be told apart."""
    distance = _MIN_CENTRE_DISTANCE * (first.size + second.size) / 2
    if abs(first.x - second.x) < distance and abs(first.y - second.y) < distance:
        return True
    far, near = (first, second) if first.box[3] <= second.box[3] else (second, first)
    return hidden_share(far, near) > MAX_HIDDEN / 2


def depth_size(foot_y: float, horizon: float, *, detail: bool = False) -> float:
    """Size of an object of scale 1 whose feet are at a height in the frame.

    Args:
        foot_y: Where it stands, as a share of the frame from the top.
        horizon: Where the ground ends.
        detail: Seen by a camera far above: everything is small.
    """
    near, far_share = (_DETAIL_SIZE, _DETAIL_FARTHEST_SHARE) if detail else (_NEAREST_SIZE, _FARTHEST_SHARE)
    depth = (foot_y - horizon) / (_FRONT - horizon)
    return near * (far_share + (1 - far_share) * min(max(depth, 0.0), 1.0))


def sample_background(rng: np.random.Generator) -> Background:
    """Draw a place: style, muted base colour, horizon, texture seed."""
    style = BACKGROUND_STYLES[int(rng.integers(len(BACKGROUND_STYLES)))]
    base = rng.uniform(80, 160)
    tints = {
        "street": (0.78, 0.78, 0.8),
        "parking": (0.85, 0.84, 0.82),
        "lawn": (0.62, 0.86, 0.5),
        "yard": (0.95, 0.86, 0.72),
        "hall": (0.95, 0.93, 0.9),
        "quay": (0.86, 0.82, 0.78),
    }
    rgb = base * np.array(tints[style]) + rng.uniform(-12, 12, size=3)
    red, green, blue = (int(value) for value in np.clip(rgb, 45, 190))
    return Background(style, (red, green, blue), float(rng.uniform(0.08, 0.26)), int(rng.integers(2**31)))


def stand(
    rng: np.random.Generator, kind: str, color: str, foot: tuple[float, float], horizon: float, *, detail: bool
) -> SceneObject:
    """An object with its feet at a place (shares of the frame); its size follows from the distance, give or take."""
    size = depth_size(foot[1], horizon, detail=detail) * KINDS[kind].scale * float(rng.uniform(0.9, 1.12))
    return SceneObject(kind, color, foot[0], foot[1] - size * KINDS[kind].height / 2, size, bool(rng.integers(2)))


def place(
    rng: np.random.Generator,
    kind: str,
    color: str,
    others: list[SceneObject],
    horizon: float,
    *,
    detail: bool = False,
    attempts: int = 40,
) -> SceneObject | None:
    """Find room for one more object inside the frame.

    Returns:
        The object, or None when no free place was found in `attempts` draws.
    """
    for _ in range(attempts):
        foot = float(rng.uniform(0.02, 0.98)), float(rng.uniform(horizon + 0.06, _FRONT))
        candidate = stand(rng, kind, color, foot, horizon, detail=detail)
        left, top, right, _ = candidate.box
        if left >= 0.005 and right <= 0.995 and top >= 0.005 and not any(clash(candidate, o) for o in others):
            return candidate
    return None


def sample_light(rng: np.random.Generator) -> tuple[Light, Weather]:
    """Draw time of day and weather."""
    light: Light = ("day", "day", "day", "dusk", "night")[int(rng.integers(5))]
    weather: Weather = ("clear", "clear", "clear", "clear", "rain", "fog")[int(rng.integers(6))]
    # Fog by night leaves nothing to see.
    return light, "clear" if (light, weather) == ("night", "fog") else weather


def sample_scene(seed: int, *, detail: bool = False) -> Scene:
    """Draw a scene of 1 to 8 objects, or of 3 to 12 small ones.

    About half of the scenes repeat one kind up to six times (for counting) or one colour (for confusion); the rest draw
    kinds and colours independently.

    Args:
        seed: Same seed, same scene.
        detail: A wide view from far above, in which objects are so small that they need twice the resolution.
    """
    rng = np.random.default_rng([seed, int(detail)])
    kinds, colors = list(KINDS), list(COLORS)
    fewest, most = (3, MAX_DETAIL_OBJECTS) if detail else (1, MAX_OBJECTS)
    object_count = int(rng.integers(fewest, most + 1))
    drawn = rng.choice(len(kinds), size=object_count, p=_FREQUENCIES).tolist()
    wanted = [(kinds[index], colors[int(rng.integers(len(colors)))]) for index in drawn]
    mode = rng.random()
    if mode < 0.4:
        kind = kinds[int(rng.integers(len(kinds)))]
        repeats = int(rng.integers(2, MAX_COUNT + 1))
        wanted = [(kind, color) for _, color in wanted[:repeats]] + wanted[repeats:]
        wanted += [(kind, colors[int(rng.integers(len(colors)))]) for _ in range(repeats - len(wanted))]
    elif mode < 0.55:
        color = colors[int(rng.integers(len(colors)))]
        wanted = [(kind, color) if index % 2 else (kind, other) for index, (kind, other) in enumerate(wanted)]
    background = sample_background(rng)
    objects: list[SceneObject] = []
    for kind, color in wanted:
        if sum(item.kind == kind for item in objects) == MAX_COUNT:
            continue
        placed = place(rng, kind, color, objects, background.horizon, detail=detail)
        if placed is not None:
            moving = KINDS[kind].can_move and rng.random() < 0.5
            objects.append(SceneObject(kind, color, placed.x, placed.y, placed.size, placed.faces_left, bool(moving)))
    light, weather = sample_light(rng)
    return Scene(
        objects=tuple(sorted(objects, key=lambda item: item.box[3])),
        background=background,
        light=light,
        weather=weather,
        sun=float(rng.uniform(-1, 1)),
        brightness=float(rng.uniform(0.8, 1.18)),
        noise_sigma=float(rng.uniform(0.5, 6.0)),
        noise_seed=int(rng.integers(2**31)),
    )
