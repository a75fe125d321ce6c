"""Everyday scenes: what a fleet is asked about. One to five objects of readable size, by day, dusk or night, in rain.

Beside them stand the hard scenes of :func:`pipeline.scenes.scene.sample_scene`: up to eight objects, hidden behind one
another, in fog. Both are drawn by one renderer and asked about with the same kinds of questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pipeline.scenes.catalogue import COLORS, KINDS, QuestionKind
from pipeline.scenes.everyday_phrasings import reworded
from pipeline.scenes.questions import ANSWERS, QUESTION_KINDS, AskableScene, QuestionSpec, answer_to, sample_question
from pipeline.scenes.scene import Light, Scene, SceneObject, Weather, hidden_share, sample_background

EVERYDAY_TRAIN_SEEDS: Final = 2_000_000_000
EVERYDAY_HELD_OUT_SEEDS: Final = 3_000_000_000
"""First scene seeds of two disjoint sets, of a thousand million scenes each."""

MAX_EVERYDAY_OBJECTS: Final = 5
MAX_EVERYDAY_HIDDEN: Final = 0.08
"""Largest share of an object's bounding box that any one nearer object may cover."""
_STREAM: Final = 31
_NEAR_SIZE: Final = 0.36
_FAR_SHARE: Final = 0.6
_FRONT: Final = 0.985
_MIN_CENTRE_DISTANCE: Final = 0.7
_ATTEMPTS: Final = 60
_DRAWS: Final = 12
"""Questions of one kind that are drawn of a scene, to choose the one whose answer is rarest so far."""
_MOST_OF_SHARE: Final = 1.5
_LIGHTS: Final[tuple[Light, ...]] = ("day", "day", "dusk", "night")
_WEATHERS: Final[tuple[Weather, ...]] = ("clear", "clear", "clear", "rain")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about one of several scenes, with its true answer.

    Attributes:
        scene: Index of the scene.
        question: What is asked.
        truth: One of the answers of its kind.
    """

    scene: int
    question: QuestionSpec
    truth: str


def sample_everyday_scene(seed: int, *, max_objects: int = MAX_EVERYDAY_OBJECTS) -> Scene:
    """Draw an everyday scene.

    Nearly half of the scenes repeat one kind, for counting; a seventh repeats one colour, for confusion.

    Args:
        seed: Same seed and number of objects, same scene.
        max_objects: At most so many; a training begins with two.

    Raises:
        ValueError: A number of objects outside 1 to 5.
    """
    if not 1 <= max_objects <= MAX_EVERYDAY_OBJECTS:
        raise ValueError(f"max_objects={max_objects} is outside of 1..{MAX_EVERYDAY_OBJECTS}")
    rng = np.random.default_rng([seed, _STREAM, max_objects])
    kinds, colors = list(KINDS), list(COLORS)
    count = int(rng.integers(1, max_objects + 1))
    mode = rng.random()
    if mode < 0.45:
        count = max(count, int(rng.integers(1, max_objects + 1)))
    wanted = [(str(rng.choice(kinds)), str(rng.choice(colors))) for _ in range(count)]
    if mode < 0.45:
        repeats = max(int(rng.integers(1, count + 1)), int(rng.integers(1, count + 1)))
        wanted = [
            (wanted[0][0], color) if index < repeats else (kind, color) for index, (kind, color) in enumerate(wanted)
        ]
    elif mode < 0.6:
        wanted = [(kind, wanted[0][1] if index % 2 else color) for index, (kind, color) in enumerate(wanted)]
    background = sample_background(rng)
    objects: list[SceneObject] = []
    for kind, color in wanted:
        placed = _placed(rng, kind, color, objects, background.horizon)
        if placed is not None:
            objects.append(placed)
    return Scene(
        objects=tuple(sorted(objects, key=lambda item: item.box[3])),
        background=background,
        light=_LIGHTS[int(rng.integers(len(_LIGHTS)))],
        weather=_WEATHERS[int(rng.integers(len(_WEATHERS)))],
        sun=float(rng.uniform(-1, 1)),
        brightness=float(rng.uniform(0.85, 1.15)),
        noise_sigma=float(rng.uniform(0.5, 5.0)),
        noise_seed=int(rng.integers(2**31)),
    )


def _placed(
    rng: np.random.Generator, kind: str, color: str, others: Sequence[SceneObject], horizon: float
) -> SceneObject | None:
    """An object where there is room for it, or None after many draws."""
    shape = KINDS[kind]
    moving = bool(shape.can_move and rng.random() < 0.5)
    for _ in range(_ATTEMPTS):
        foot_x, foot_y = float(rng.uniform(0.02, 0.98)), float(rng.uniform(horizon + 0.06, _FRONT))
        depth = (foot_y - horizon) / (_FRONT - horizon)
        size = _NEAR_SIZE * (_FAR_SHARE + (1 - _FAR_SHARE) * depth) * shape.scale * float(rng.uniform(0.9, 1.1))
        item = SceneObject(
            kind, color, foot_x, foot_y - size * shape.height / 2, size, faces_left=bool(rng.integers(2)), moving=moving
        )
        left, top, right, _ = item.box
        if left >= 0.005 and right <= 0.995 and top >= 0.005 and not any(_merge(item, other) for other in others):
            return item
    return None


def _merge(first: SceneObject, second: SceneObject) -> bool:
    """Whether two objects are too near to one another, or one hides the other."""
    distance = _MIN_CENTRE_DISTANCE * (first.size + second.size) / 2
    if abs(first.x - second.x) < distance and abs(first.y - second.y) < distance:
        return True
    far, near = (first, second) if first.box[3] <= second.box[3] else (second, first)
    return hidden_share(far, near) > MAX_EVERYDAY_HIDDEN


def balanced_questions(
    scenes: Sequence[AskableScene],
    seed: int,
    *,
    held_out: bool = False,
    kinds: Sequence[QuestionKind] = QUESTION_KINDS,
) -> list[Asked]:
    """One question of each kind about every scene that has a clear answer to one, the answers balanced.

    Of several questions that are drawn, the one is asked whose answer has been the rarest so far, and none whose answer
    has had 1.5 times its even share, so that no answer is a good guess. This is the mix that everyday and hard scenes
    are measured with. The wordings are those of fleets, or held-out ones; questions and answers do not depend on which.

    Args:
        scenes: What is asked about.
        seed: Same scenes and seed, same questions.
        held_out: Word them as no training does.
        kinds: What to ask.
    """
    seen: dict[QuestionKind, Counter[str]] = {kind: Counter() for kind in kinds}
    most = {kind: _MOST_OF_SHARE * len(scenes) / len(ANSWERS[kind]) for kind in kinds}
    asked: list[Asked] = []
    for index, scene in enumerate(scenes):
        for number, kind in enumerate(kinds):
            rng = np.random.default_rng([seed, _STREAM, index, number])
            drawn: list[tuple[int, str, QuestionSpec]] = []
            for _ in range(_DRAWS):
                question = sample_question(kind, scene, rng)
                truth = answer_to(question, scene) if question else None
                if question is not None and truth is not None and seen[kind][truth] < most[kind]:
                    drawn.append((seen[kind][truth], truth, question))
            if not drawn:
                continue
            fewest = min(times for times, _, _ in drawn)
            _, truth, question = next(item for item in drawn if item[0] == fewest)
            seen[kind][truth] += 1
            if held_out:
                question = reworded(question, np.random.default_rng([seed, _STREAM, index, number, 1]), held_out=True)
            asked.append(Asked(index, question, truth))
    return asked


def training_question(
    kind: QuestionKind, scene: AskableScene, rng: np.random.Generator
) -> tuple[QuestionSpec, str] | None:
    """A question for training in any wording that training uses, and its answer; None if the scene allows none.

    The wording of a question about the frame of a picture stays as it is.
    """
    question = sample_question(kind, scene, rng)
    truth = answer_to(question, scene) if question else None
    if question is None or truth is None:
        return None
    if "frame of the" not in question.text:
        question = reworded(question, rng)
    draw = rng.random()
    if draw < 0.25:
        question = replace(question, text=question.text[0].lower() + question.text[1:])
    elif draw < 0.35:
        question = replace(question, text=question.text.rstrip("?."))
    return question, truth
