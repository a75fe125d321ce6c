"""What a rendered scene can contain: object kinds, colours, positions and count words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

QuestionKind: TypeAlias = Literal["existence", "color", "count", "position", "relation", "activity"]


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """One kind of object.

    Attributes:
        name: Singular noun.
        plural: Plural noun.
        width: Width of the bounding box as a share of the object's size.
        height: Height of the bounding box as a share of the object's size.
        scale: How large it stands beside the others, compressed so that small kinds stay visible.
        can_move: Whether it moves by itself.
        frequency: How often it is drawn, beside the others.
    """

    name: str
    plural: str
    width: float
    height: float
    scale: float = 1.0
    can_move: bool = False
    frequency: float = 1.0


KINDS: Final[dict[str, ObjectKind]] = {
    kind.name: kind
    for kind in (
        ObjectKind("car", "cars", 1.0, 0.56, 1.1, can_move=True, frequency=1.6),
        ObjectKind("truck", "trucks", 1.1, 0.66, 1.25, can_move=True, frequency=1.6),
        ObjectKind("bus", "buses", 1.15, 0.6, 1.3, can_move=True),
        ObjectKind("van", "vans", 1.0, 0.66, 1.15, can_move=True),
        ObjectKind("motorcycle", "motorcycles", 1.0, 0.66, 0.9, can_move=True),
        ObjectKind("bike", "bikes", 1.0, 0.68, 0.9, can_move=True, frequency=1.6),
        ObjectKind("person", "people", 0.5, 1.0, 1.0, can_move=True, frequency=1.6),
        ObjectKind("dog", "dogs", 0.95, 0.7, 0.85, can_move=True, frequency=1.6),
        ObjectKind("cat", "cats", 0.8, 0.8, 0.8, can_move=True),
        ObjectKind("tree", "trees", 0.78, 1.0, 1.25, frequency=1.6),
        ObjectKind("bench", "benches", 1.05, 0.6, 0.95),
        ObjectKind("sign", "signs", 0.5, 1.0, 1.0),
        ObjectKind("umbrella", "umbrellas", 0.9, 0.95, 0.95),
        ObjectKind("suitcase", "suitcases", 0.66, 0.86, 0.8),
        ObjectKind("barrel", "barrels", 0.62, 0.82, 0.85),
        ObjectKind("box", "boxes", 0.78, 0.78, 0.8),
        ObjectKind("cone", "cones", 0.72, 0.86, 0.8),
        ObjectKind("ball", "balls", 0.72, 0.72, 0.75),
    )
}

COLORS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (205, 32, 36),
    "green": (36, 150, 52),
    "blue": (36, 72, 205),
    "yellow": (240, 212, 30),
    "orange": (244, 128, 16),
    "purple": (140, 46, 168),
    "white": (242, 242, 242),
    "black": (26, 26, 30),
}

ROW_WORDS: Final = ("top", "middle", "bottom")
COLUMN_WORDS: Final = ("left", "center", "right")

POSITIONS: Final[tuple[str, ...]] = (
    "top left",
    "top center",
    "top right",
    "middle left",
    "center",
    "middle right",
    "bottom left",
    "bottom center",
    "bottom right",
)
"""Names of the 3x3 cells in raster order."""

COUNT_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six")
MAX_COUNT: Final = len(COUNT_WORDS) - 1
MAX_OBJECTS: Final = 8
MAX_DETAIL_OBJECTS: Final = 12
