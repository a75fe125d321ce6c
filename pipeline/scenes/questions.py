"""Questions about scenes, and their true answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np

from pipeline.scenes.catalogue import COLORS, COUNT_WORDS, KINDS, MAX_COUNT, POSITIONS, QuestionKind
from pipeline.scenes.phrasings import (
    DESCRIBE_PHRASINGS,
    FRAME_PHRASINGS,
    HELD_OUT_FRAME_PHRASINGS,
    HELD_OUT_PHRASINGS,
    PHRASINGS,
    with_color,
    write,
)
from pipeline.scenes.scene import position_name

__all__ = [
    "ANSWERS",
    "DESCRIBE_PHRASINGS",
    "HELD_OUT_PHRASINGS",
    "PHRASINGS",
    "QUESTION_KINDS",
    "AskableScene",
    "QuestionSpec",
    "answer_to",
    "make_question",
    "sample_question",
]

Negative: TypeAlias = Literal["random", "popular", "adversarial"]
Relation: TypeAlias = Literal["left of", "right of", "above", "below"]

QUESTION_KINDS: Final[tuple[QuestionKind, ...]] = (
    "existence",
    "color",
    "count",
    "position",
    "relation",
    "activity",
)

ANSWERS: Final[dict[QuestionKind, tuple[str, ...]]] = {
    "existence": ("yes", "no"),
    "color": tuple(COLORS),
    "count": COUNT_WORDS,
    "position": POSITIONS,
    "relation": ("yes", "no"),
    "activity": ("yes", "no"),
}
"""Every answer that a question of a kind can have."""

RELATIONS: Final[tuple[Relation, ...]] = ("left of", "right of", "above", "below")
_OPPOSITE: Final[dict[Relation, Relation]] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
RELATION_MARGIN: Final = 0.07
"""Centres that are nearer to one another along an axis have no clear relation there, in shares of the frame."""
_POPULAR: Final = frozenset(name for name, kind in KINDS.items() if kind.frequency > 1)


class SeenObject(Protocol):
    """What questions need to know of an object."""

    @property
    def kind(self) -> str:
        """Singular noun."""

    @property
    def color(self) -> str | None:
        """Colour of the object, or of the frame of a picture; None where it has none."""

    @property
    def x(self) -> float:
        """Centre, horizontally, as a share of the frame."""

    @property
    def y(self) -> float:
        """Centre, vertically, as a share of the frame."""

    @property
    def moving(self) -> bool:
        """Whether it moves."""


class AskableScene(Protocol):
    """What questions need to know of a scene."""

    @property
    def objects(self) -> Sequence[SeenObject]:
        """Everything that can be seen, far to near."""

    @property
    def kinds(self) -> Sequence[str]:
        """Every kind that could be asked about, seen or not."""

    @property
    def colored_kinds(self) -> Sequence[str]:
        """Those among them whose objects have a colour of their own."""


@dataclass(frozen=True, slots=True)
class QuestionSpec:
    """A question whose answer can be read off any scene.

    Attributes:
        kind: What is asked.
        object_kind: Kind of object that it asks about.
        color: Key of `COLORS` that narrows it down; not for questions of colour and count.
        text: The question as a person would write it.
        other_kind: The other object of a relation.
        other_color: Narrows that down.
        relation: The relation that is asked about.
        negative: Of an existence question that is answered with no: how the absent thing was chosen (POPE, Li et al.,
            arXiv 2305.10355): at `random`, a `popular` kind, or an `adversarial` one that is nearly there.
        held_out: Whether the wording is one that training never uses.
    """

    kind: QuestionKind
    object_kind: str
    color: str | None
    text: str
    other_kind: str | None = None
    other_color: str | None = None
    relation: Relation | None = None
    negative: Negative | None = None
    held_out: bool = False


def make_question(
    kind: QuestionKind,
    object_kind: str,
    color: str | None = None,
    *,
    other_kind: str | None = None,
    other_color: str | None = None,
    relation: Relation | None = None,
    phrasing: int = 0,
) -> QuestionSpec:
    """Build a question about rendered objects with its text.

    Args:
        kind: What is asked.
        object_kind: Key of `KINDS`.
        color: Key of `COLORS`, or None for any colour.
        other_kind: The other object of a relation, key of `KINDS`.
        other_color: Its colour, or None for any.
        relation: One of `RELATIONS`, for relations only.
        phrasing: Which of the wordings in `PHRASINGS`, modulo their number.

    Raises:
        ValueError: Unknown kind or colour, or something that the kind of question does not take or lacks.
    """
    if kind not in QUESTION_KINDS:
        raise ValueError(f"question kind {kind!r} is none of {', '.join(QUESTION_KINDS)}")
    for name in (object_kind, *([other_kind] if other_kind is not None else [])):
        if name not in KINDS:
            raise ValueError(f"object kind {name!r} is none of {', '.join(KINDS)}")
    for shade in (color, other_color):
        if shade is not None and shade not in COLORS:
            raise ValueError(f"color {shade!r} is none of {', '.join(COLORS)}")
    if color is not None and kind in ("color", "count"):
        raise ValueError(f"a {kind} question takes no color, got {color!r}")
    if (kind == "relation") != (relation is not None and other_kind is not None):
        raise ValueError("a relation question needs other_kind and relation, and no other question takes them")
    if kind == "activity" and not KINDS[object_kind].can_move:
        raise ValueError(f"a {object_kind} does not move by itself")
    return _build(kind, object_kind, color, other_kind, other_color, relation, phrasing)


def _build(
    kind: QuestionKind,
    object_kind: str,
    color: str | None,
    other_kind: str | None = None,
    other_color: str | None = None,
    relation: Relation | None = None,
    phrasing: int = 0,
    *,
    negative: Negative | None = None,
    held_out: bool = False,
    framed: bool = False,
) -> QuestionSpec:
    if framed:
        choices = HELD_OUT_FRAME_PHRASINGS if held_out else FRAME_PHRASINGS
    else:
        choices = (HELD_OUT_PHRASINGS if held_out else PHRASINGS)[kind]
    other = with_color(other_kind, other_color) if other_kind else ""
    text = write(choices[phrasing % len(choices)], object_kind, color, other, relation or "")
    return QuestionSpec(kind, object_kind, color, text, other_kind, other_color, relation, negative, held_out)


def matching(scene: AskableScene, kind: str, color: str | None) -> list[SeenObject]:
    """Objects of a kind, and of a colour if one is given."""
    return [item for item in scene.objects if item.kind == kind and color in (None, item.color)]


def answer_to(question: QuestionSpec, scene: AskableScene) -> str | None:
    """The true answer.

    Args:
        question: Any question, standing or not.
        scene: Any scene.

    Returns:
        One of `ANSWERS[question.kind]`, or None when the scene gives no clear answer: a colour, position, motion or
        relation asked of none or of several objects, a position too near the border of two cells, two objects side by
        side along the axis of a relation, more than six objects to count.
    """
    found = matching(scene, question.object_kind, question.color)
    if question.kind == "existence":
        return "yes" if found else "no"
    if question.kind == "count":
        return COUNT_WORDS[len(found)] if len(found) <= MAX_COUNT else None
    if len(found) != 1:
        return None
    (item,) = found
    if question.kind == "color":
        return item.color
    if question.kind == "position":
        return position_name(item.x, item.y)
    if question.kind == "activity":
        return "yes" if item.moving else "no"
    others = matching(scene, question.other_kind or "", question.other_color)
    if len(others) != 1 or question.relation is None:
        return None
    true = _relations(item, others[0])
    if question.relation in true:
        return "yes"
    return "no" if _OPPOSITE[question.relation] in true else None


def _relations(item: SeenObject, other: SeenObject) -> list[Relation]:
    """Relations that clearly hold."""
    found: list[Relation] = []
    if abs(item.x - other.x) > RELATION_MARGIN:
        found.append("left of" if item.x < other.x else "right of")
    if abs(item.y - other.y) > RELATION_MARGIN:
        found.append("above" if item.y < other.y else "below")
    return found


def sample_question(
    kind: QuestionKind, scene: AskableScene, rng: np.random.Generator, *, held_out: bool = False
) -> QuestionSpec | None:
    """Draw a question of a kind that the scene answers clearly.

    Existence, relation and, as far as the scene allows, activity are balanced between yes and no. Absent things are
    drawn at random, from popular kinds, or nearly there. Counts favour the larger numbers that the scene offers.

    Args:
        kind: What to ask.
        scene: About what.
        rng: Source of randomness.
        held_out: Word it as no training does; otherwise such wordings are never used.

    Returns:
        The question, or None when the scene has no clear answer to any question of this kind.
    """
    phrasing = int(rng.integers(1 << 16))
    match kind:
        case "existence":
            object_kind, color, negative = _existence_target(scene, rng)
            return _build(kind, object_kind, color, phrasing=phrasing, negative=negative, held_out=held_out)
        case "count":
            return _build(kind, _count_target(scene, rng), None, phrasing=phrasing, held_out=held_out)
        case "color":
            single = [item for item in scene.objects if item.color and len(matching(scene, item.kind, None)) == 1]
            if not single:
                return None
            item = single[int(rng.integers(len(single)))]
            framed = isinstance(item, Framed)
            return _build(kind, item.kind, None, phrasing=phrasing, held_out=held_out, framed=framed)
        case "position":
            targets = [found for found in _described(scene) if position_name(found[0].x, found[0].y) is not None]
        case "activity":
            targets = [found for found in _described(scene) if _can_move(found[0])]
        case "relation":
            return _sample_relation(scene, rng, phrasing, held_out)
    if not targets:
        return None
    item, target_color = targets[int(rng.integers(len(targets)))]
    return _build(kind, item.kind, target_color, phrasing=phrasing, held_out=held_out)


class Framed:
    """Base of objects that are pictures within the picture: their colour is that of their frame."""

    __slots__ = ()


def _can_move(item: SeenObject) -> bool:
    return not isinstance(item, Framed) and item.kind in KINDS and KINDS[item.kind].can_move


def _described(scene: AskableScene) -> list[tuple[SeenObject, str | None]]:
    """Objects that a description fits and no other: with and without colour where the kind suffices."""
    found: list[tuple[SeenObject, str | None]] = []
    for item in scene.objects:
        color = None if isinstance(item, Framed) else item.color
        if len(matching(scene, item.kind, None)) == 1:
            found += [(item, color), (item, None)]
        elif color is not None and len(matching(scene, item.kind, color)) == 1:
            found += [(item, color)] * 2
    return found


def _sample_relation(
    scene: AskableScene, rng: np.random.Generator, phrasing: int, held_out: bool
) -> QuestionSpec | None:
    described = _described(scene)
    pairs = [
        (first, second, relation)
        for first in described
        for second in described
        if first[0] is not second[0]
        for relation in _relations(first[0], second[0])
    ]
    if not pairs:
        return None
    (item, color), (other, other_color), true = pairs[int(rng.integers(len(pairs)))]
    asked = true if rng.random() < 0.5 else _OPPOSITE[true]
    return _build("relation", item.kind, color, other.kind, other_color, asked, phrasing, held_out=held_out)


def _count_target(scene: AskableScene, rng: np.random.Generator) -> str:
    by_count: dict[int, list[str]] = {}
    for name in scene.kinds:
        by_count.setdefault(len(matching(scene, name, None)), []).append(name)
    numbers = [number for number in by_count if number <= MAX_COUNT]
    # Zero is on offer in every scene; taken as often as the rest it would be most of the answers.
    weights = np.array([0.35 if number == 0 else 1.0 + 0.6 * number for number in numbers])
    number = numbers[int(rng.choice(len(numbers), p=weights / weights.sum()))]
    return by_count[number][int(rng.integers(len(by_count[number])))]


def _existence_target(scene: AskableScene, rng: np.random.Generator) -> tuple[str, str | None, Negative | None]:
    """Kind and colour of an existence question, yes and no equally often, and how the absent thing was chosen."""
    kinds = list(scene.kinds)
    colors = list(COLORS)
    with_color_asked = rng.random() < 0.6
    if rng.random() < 0.5 and scene.objects:
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        color = None if isinstance(item, Framed) or not with_color_asked else item.color
        return item.kind, color, None
    rendered = [item for item in scene.objects if item.kind in scene.colored_kinds]
    absent = [name for name in kinds if not matching(scene, name, None)]
    draw = rng.random()
    if draw < 0.45 and rendered:
        # Nearly there: the right kind in another colour, or the right colour on another kind.
        near: list[tuple[str, str | None]] = [(item.kind, color) for item in rendered for color in colors]
        near += [(name, item.color) for item in rendered for name in scene.colored_kinds if item.color]
        near = [pair for pair in near if not matching(scene, *pair)]
        if near:
            kind, color = near[int(rng.integers(len(near)))]
            return kind, color, "adversarial"
    popular = [name for name in absent if name in _POPULAR]
    if draw < 0.7 and popular:
        return (*_absent(popular, scene, with_color_asked, rng), "popular")
    if absent:
        return (*_absent(absent, scene, with_color_asked, rng), "random")
    # Everything is there: only a colour can be missing.
    pairs = [(name, color) for name in scene.colored_kinds for color in colors if not matching(scene, name, color)]
    if not pairs:
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        return item.kind, None, None
    kind, color = pairs[int(rng.integers(len(pairs)))]
    return kind, color, "random"


def _absent(
    names: list[str], scene: AskableScene, with_color_asked: bool, rng: np.random.Generator
) -> tuple[str, str | None]:
    """An absent kind, with a colour about as often as present ones are named with theirs."""
    kind = names[int(rng.integers(len(names)))]
    colored = with_color_asked and kind in scene.colored_kinds
    return kind, list(COLORS)[int(rng.integers(len(COLORS)))] if colored else None
