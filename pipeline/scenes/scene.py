"""A scene: what stands where, under which light. Frozen, comparable, sampled from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from pipeline.scenes.catalogue import COLORS, KINDS, MAX_COUNT, MAX_OBJECTS, POSITIONS

BackgroundStyle: TypeAlias = Literal["asphalt", "grass", "brick", "tiles", "horizon", "gradient"]

BACKGROUND_STYLES: Final[tuple[BackgroundStyle, ...]] = ("asphalt", "grass", "brick", "tiles", "horizon", "gradient")
MIN_SIZE: Final = 0.19
"""Smallest object, as a share of the frame: 24 pixels of 128."""
CELL_MARGIN: Final = 0.04
"""A centre nearer than this to the border of two cells has no clear position."""

_MAX_OVERLAP: Final = 0.08
_MIN_CENTRE_DISTANCE: Final = 0.14


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
    """

    kind: str
    color: str
    x: float
    y: float
    size: float
    faces_left: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box (left, top, right, bottom) as shares of the frame."""
        half_width = self.size * KINDS[self.kind].width / 2
        half_height = self.size * KINDS[self.kind].height / 2
        return self.x - half_width, self.y - half_height, self.x + half_width, self.y + half_height


@dataclass(frozen=True, slots=True)
class Background:
    """What stands behind the objects.

    Attributes:
        style: Kind of surface.
        rgb: Base colour.
        seed: Seed of the texture.
    """

    style: BackgroundStyle
    rgb: tuple[int, int, int]
    seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that determines a frame, pixel by pixel.

    Attributes:
        objects: Objects, drawn in this order (far to near).
        background: What stands behind them.
        brightness: Exposure factor, 1 is neutral.
        noise_sigma: Standard deviation of the sensor noise in grey levels (0 to 255).
        noise_seed: Seed of the sensor noise.
    """

    objects: tuple[SceneObject, ...]
    background: Background
    brightness: float = 1.0
    noise_sigma: float = 3.0
    noise_seed: int = 0

    def count(self, kind: str, color: str | None = None) -> int:
        """Number of objects of a kind, and of a colour if one is given."""
        return len(self.matching(kind, color))

    def matching(self, kind: str, color: str | None = None) -> tuple[SceneObject, ...]:
        """Objects of a kind, and of a colour if one is given."""
        return tuple(item for item in self.objects if item.kind == kind and color in (None, item.color))


def cell_index(x: float, y: float) -> int:
    """Index in `POSITIONS` of the 3x3 cell that holds a point (shares of the frame)."""
    return min(int(y * 3), 2) * 3 + min(int(x * 3), 2)


def position_name(x: float, y: float) -> str | None:
    """Name of the 3x3 cell that holds a point, or None when it is within `CELL_MARGIN` of another cell."""
    for value in (x, y):
        if any(abs(value - border) < CELL_MARGIN for border in (1 / 3, 2 / 3)):
            return None
    return POSITIONS[cell_index(x, y)]


def overlaps(first: SceneObject, second: SceneObject, *, max_share: float = _MAX_OVERLAP) -> bool:
    """Whether two objects hide one another too much to be told apart."""
    if abs(first.x - second.x) < _MIN_CENTRE_DISTANCE and abs(first.y - second.y) < _MIN_CENTRE_DISTANCE:
        return True
    a, b = first.box, second.box
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return False
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height > max_share * smaller


def max_size(object_count: int) -> float:
    """Largest object size that still leaves room for this many objects."""
    return 0.36 - 0.0125 * max(object_count - 1, 0)


def sample_background(rng: np.random.Generator) -> Background:
    """Draw a background: style, muted base colour, texture seed."""
    style = BACKGROUND_STYLES[int(rng.integers(len(BACKGROUND_STYLES)))]
    base = rng.uniform(72, 168)
    if style == "grass":
        rgb = np.array([base * 0.62, base * 0.85, base * 0.5])
    elif style == "brick":
        rgb = np.array([base * 0.95, base * 0.74, base * 0.66])
    elif style == "asphalt":
        rgb = np.full(3, base * 0.8)
    else:
        rgb = base + rng.uniform(-26, 26, size=3)
    red, green, blue = (int(value) for value in np.clip(rgb, 40, 190))
    return Background(style, (red, green, blue), int(rng.integers(2**31)))


def place(
    rng: np.random.Generator, kind: str, color: str, others: list[SceneObject], *, largest: float, attempts: int = 40
) -> SceneObject | None:
    """Find room for one more object inside the frame.

    Returns:
        The object, or None when no free place was found in `attempts` draws.
    """
    for _ in range(attempts):
        size = float(rng.uniform(MIN_SIZE, largest))
        half_width, half_height = size * KINDS[kind].width / 2, size * KINDS[kind].height / 2
        candidate = SceneObject(
            kind,
            color,
            float(rng.uniform(half_width, 1 - half_width)),
            float(rng.uniform(half_height, 1 - half_height)),
            size,
            bool(rng.integers(2)),
        )
        if not any(overlaps(candidate, other) for other in others):
            return candidate
    return None


def sample_scene(seed: int) -> Scene:
    """Draw a scene of 1 to 8 objects.

    About half of the scenes repeat one kind up to six times (for counting) or one colour (for confusion); the rest draw
    kinds and colours independently.

    Args:
        seed: Same seed, same scene.
    """
    rng = np.random.default_rng(seed)
    kinds, colors = list(KINDS), list(COLORS)
    object_count = int(rng.integers(1, MAX_OBJECTS + 1))
    wanted = [(str(rng.choice(kinds)), str(rng.choice(colors))) for _ in range(object_count)]
    mode = rng.random()
    if mode < 0.4:
        kind = str(rng.choice(kinds))
        repeats = int(rng.integers(2, MAX_COUNT + 1))
        wanted = [(kind, color) for _, color in wanted[:repeats]] + wanted[repeats:]
        wanted += [(kind, str(rng.choice(colors))) for _ in range(repeats - len(wanted))]
    elif mode < 0.55:
        color = str(rng.choice(colors))
        wanted = [(kind, color) if index % 2 else (kind, other) for index, (kind, other) in enumerate(wanted)]
    objects: list[SceneObject] = []
    largest = max_size(len(wanted))
    for kind, color in wanted:
        if sum(item.kind == kind for item in objects) == MAX_COUNT:
            continue
        placed = place(rng, kind, color, objects, largest=largest)
        if placed is not None:
            objects.append(placed)
    return Scene(
        objects=tuple(sorted(objects, key=lambda item: item.box[3])),
        background=sample_background(rng),
        brightness=float(rng.uniform(0.75, 1.2)),
        noise_sigma=float(rng.uniform(0.5, 6.0)),
        noise_seed=int(rng.integers(2**31)),
    )
