"""Questions about scenes, and their true answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.scenes.catalogue import COLORS, COUNT_WORDS, KINDS, MAX_COUNT, POSITIONS, QuestionKind
from pipeline.scenes.scene import Scene, position_name

QUESTION_KINDS: Final[tuple[QuestionKind, ...]] = ("existence", "color", "count", "position")

ANSWERS: Final[dict[QuestionKind, tuple[str, ...]]] = {
    "existence": ("yes", "no"),
    "color": tuple(COLORS),
    "count": COUNT_WORDS,
    "position": POSITIONS,
}
"""Every answer that a question of a kind can have."""

PHRASINGS: Final[dict[QuestionKind, tuple[str, ...]]] = {
    "existence": (
        "Is there {a_thing}?",
        "Is there {a_thing} in the image?",
        "Do you see {a_thing}?",
        "Can you see {a_thing}?",
        "Are there any {things}?",
        "Does the image show {a_thing}?",
    ),
    "color": (
        "What color is the {thing}?",
        "Which color is the {thing}?",
        "What colour is the {thing}?",
        "What is the color of the {thing}?",
    ),
    "count": (
        "How many {things} are there?",
        "How many {things} do you see?",
        "How many {things} are in the image?",
        "Count the {things}.",
    ),
    "position": (
        "Where is the {thing}?",
        "Where in the image is the {thing}?",
        "In which part of the image is the {thing}?",
        "Where do you see the {thing}?",
    ),
}


@dataclass(frozen=True, slots=True)
class QuestionSpec:
    """A question whose answer can be read off any scene.

    Attributes:
        kind: What is asked.
        object_kind: Key of `KINDS` that it asks about.
        color: Key of `COLORS` that narrows it down, for existence and position only.
        text: The question as a person would write it.
    """

    kind: QuestionKind
    object_kind: str
    color: str | None
    text: str


def phrase(kind: QuestionKind, object_kind: str, color: str | None = None, *, phrasing: int = 0) -> str:
    """Write a question.

    Args:
        kind: What is asked.
        object_kind: Key of `KINDS`.
        color: Key of `COLORS`, or None for any colour.
        phrasing: Which of the wordings in `PHRASINGS`, modulo their number.
    """
    words = f"{color} " if color else ""
    thing = words + KINDS[object_kind].name
    article = "an" if thing[0] in "aeiou" else "a"
    choices = PHRASINGS[kind]
    return choices[phrasing % len(choices)].format(
        thing=thing, things=words + KINDS[object_kind].plural, a_thing=f"{article} {thing}"
    )


def make_question(kind: QuestionKind, object_kind: str, color: str | None = None, *, phrasing: int = 0) -> QuestionSpec:
    """Build a question with its text.

    Raises:
        ValueError: Unknown kind or colour, or a colour where the kind of question takes none.
    """
    if kind not in QUESTION_KINDS:
        raise ValueError(f"question kind {kind!r} is none of {', '.join(QUESTION_KINDS)}")
    if object_kind not in KINDS:
        raise ValueError(f"object kind {object_kind!r} is none of {', '.join(KINDS)}")
    if color is not None and color not in COLORS:
        raise ValueError(f"color {color!r} is none of {', '.join(COLORS)}")
    if color is not None and kind in ("color", "count"):
        raise ValueError(f"a {kind} question takes no color, got {color!r}")
    return QuestionSpec(kind, object_kind, color, phrase(kind, object_kind, color, phrasing=phrasing))


def answer_to(question: QuestionSpec, scene: Scene) -> str | None:
    """The true answer.

    Args:
        question: Any question, standing or not.
        scene: Any scene.

    Returns:
        One of `ANSWERS[question.kind]`, or None when the scene gives no clear answer: a colour or position asked of
        none or of several objects, a position too near the border of two cells, more than six objects to count.
    """
    matching = scene.matching(question.object_kind, question.color)
    match question.kind:
        case "existence":
            return "yes" if matching else "no"
        case "count":
            return COUNT_WORDS[len(matching)] if len(matching) <= MAX_COUNT else None
        case "color":
            return matching[0].color if len(matching) == 1 else None
        case "position":
            return position_name(matching[0].x, matching[0].y) if len(matching) == 1 else None


def sample_question(kind: QuestionKind, scene: Scene, rng: np.random.Generator) -> QuestionSpec | None:
    """Draw a question of a kind that the scene answers clearly.

    Existence is balanced between yes and no. Most of the no questions are hard: the right kind in another colour, or
    the right colour on another kind. Counts favour the larger numbers that the scene offers.

    Returns:
        The question, or None when the scene has no clear answer to any question of this kind.
    """
    phrasing = int(rng.integers(1 << 16))
    match kind:
        case "existence":
            object_kind, color = _existence_target(scene, rng)
            return make_question(kind, object_kind, color, phrasing=phrasing)
        case "count":
            by_count: dict[int, list[str]] = {}
            for name in KINDS:
                by_count.setdefault(scene.count(name), []).append(name)
            numbers = [number for number in by_count if number <= MAX_COUNT]
            # Zero is on offer in every scene; taken as often as the rest it would be most of the answers.
            weights = np.array([0.35 if number == 0 else 1.0 + 0.6 * number for number in numbers])
            number = int(rng.choice(numbers, p=weights / weights.sum()))
            return make_question(kind, str(rng.choice(by_count[number])), phrasing=phrasing)
        case "color":
            single = [item.kind for item in scene.objects if scene.count(item.kind) == 1]
            return make_question(kind, str(rng.choice(single)), phrasing=phrasing) if single else None
        case "position":
            targets: list[tuple[str, str | None]] = []
            for item in scene.objects:
                if position_name(item.x, item.y) is None:
                    continue
                if scene.count(item.kind) == 1:
                    targets += [(item.kind, item.color), (item.kind, None)]
                elif scene.count(item.kind, item.color) == 1:
                    targets += [(item.kind, item.color)] * 2
            if not targets:
                return None
            object_kind, target_color = targets[int(rng.integers(len(targets)))]
            return make_question(kind, object_kind, target_color, phrasing=phrasing)


def _existence_target(scene: Scene, rng: np.random.Generator) -> tuple[str, str | None]:
    """Kind and colour of an existence question, yes and no equally often."""
    kinds, colors = list(KINDS), list(COLORS)
    with_color = rng.random() < 0.7
    if rng.random() < 0.5 and scene.objects:
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        return item.kind, item.color if with_color else None
    absent_kinds = [name for name in kinds if not scene.count(name)]
    if not with_color and absent_kinds:
        return str(rng.choice(absent_kinds)), None
    draw = rng.random()
    candidates: list[tuple[str, str]] = []
    if draw < 0.4:
        candidates = [(item.kind, color) for item in scene.objects for color in colors]
    elif draw < 0.8:
        candidates = [(name, item.color) for item in scene.objects for name in kinds]
    candidates = [pair for pair in candidates if not scene.count(*pair)]
    if not candidates:
        candidates = [(name, color) for name in kinds for color in colors if not scene.count(name, color)]
    return candidates[int(rng.integers(len(candidates)))]
