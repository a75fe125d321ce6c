"""Scenes that change over time: objects move, and every few seconds the camera sees another layout.

A clip is built around *standing questions*: each shot is laid out so that they have a clear answer, and so that the
answers vary from shot to shot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np

from pipeline.scenes.catalogue import COLORS, KINDS, MAX_COUNT, MAX_OBJECTS, QuestionKind
from pipeline.scenes.questions import QUESTION_KINDS, QuestionSpec, answer_to, make_question
from pipeline.scenes.scene import (
    CELL_MARGIN,
    MIN_SIZE,
    Scene,
    SceneObject,
    max_size,
    overlaps,
    sample_background,
)

Wanted: TypeAlias = tuple[str, str]

_PATH_CHECKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_MAX_STEP: Final = 0.22
"""Longest way of an object within one shot, as a share of the frame."""


@dataclass(frozen=True, slots=True)
class Track:
    """One object on a straight way through a shot.

    Attributes:
        start: The object at the beginning of the shot.
        end_x: Centre at the end, horizontally.
        end_y: Centre at the end, vertically.
    """

    start: SceneObject
    end_x: float
    end_y: float

    def at(self, progress: float) -> SceneObject:
        """The object after a share (0 to 1) of the shot."""
        start = self.start
        return replace(
            start, x=start.x + (self.end_x - start.x) * progress, y=start.y + (self.end_y - start.y) * progress
        )


@dataclass(frozen=True, slots=True)
class _Shot:
    start_s: float
    end_s: float
    tracks: tuple[Track, ...]
    scene: Scene


class SceneClip:
    """A deterministic camera clip.

    Attributes:
        seed: Same seed, duration, questions and shot length: same clip.
        duration_s: Length in seconds.
        questions: Standing questions that the layouts are built around.
    """

    def __init__(
        self,
        seed: int,
        duration_s: float,
        questions: Sequence[QuestionSpec] = (),
        *,
        mean_shot_s: float = 4.0,
    ) -> None:
        """Lay out all shots.

        Args:
            seed: Seed of everything random.
            duration_s: Length in seconds.
            questions: Questions to keep well defined.
            mean_shot_s: Mean length of a shot; shots last 60 to 140 % of it.

        Raises:
            ValueError: A duration or shot length that is not positive.
        """
        if duration_s <= 0 or mean_shot_s <= 0:
            raise ValueError(f"durations must be positive, got duration_s={duration_s}, mean_shot_s={mean_shot_s}")
        self.seed = seed
        self.duration_s = duration_s
        self.questions = tuple(questions)
        rng = np.random.default_rng([seed, 0])
        borders = [0.0]
        while borders[-1] < duration_s:
            borders.append(borders[-1] + mean_shot_s * float(rng.uniform(0.6, 1.4)))
        self._shots = tuple(
            self._sample_shot(index, start_s, end_s) for index, (start_s, end_s) in enumerate(pairwise(borders))
        )
        self._starts = [shot.start_s for shot in self._shots]

    @property
    def shot_starts_s(self) -> tuple[float, ...]:
        """When each layout begins, in seconds."""
        return tuple(self._starts)

    def scene_at(self, t_s: float) -> Scene:
        """The scene at a time.

        Args:
            t_s: Seconds from the start, 0 to `duration_s`.

        Raises:
            ValueError: A time outside the clip.
        """
        if not 0 <= t_s <= self.duration_s:
            raise ValueError(f"t_s={t_s} is outside of 0..{self.duration_s}")
        shot = self._shots[bisect_right(self._starts, t_s) - 1]
        progress = (t_s - shot.start_s) / (shot.end_s - shot.start_s)
        objects = sorted((track.at(progress) for track in shot.tracks), key=lambda item: item.box[3])
        # Sensor noise differs from frame to frame, and is the same whenever a frame is drawn again.
        noise_seed = (shot.scene.noise_seed + round(t_s * 1000) * 2_654_435_761) % 2**32
        return replace(shot.scene, objects=tuple(objects), noise_seed=noise_seed)

    def _sample_shot(self, index: int, start_s: float, end_s: float) -> _Shot:
        """Draw layouts until every standing question has an answer from the first to the last moment."""
        rng = np.random.default_rng([self.seed, 1, index])
        best: tuple[Track, ...] = ()
        best_clear = -1
        background = sample_background(rng)
        for _ in range(30):
            tracks = _lay_out(rng, _wanted_objects(rng, self.questions), self.questions)
            clear = sum(
                answer_to(question, Scene(tuple(track.at(progress) for track in tracks), background)) is not None
                for question in self.questions
                for progress in _PATH_CHECKS
            )
            if clear > best_clear:
                best, best_clear = tracks, clear
            if clear == len(self.questions) * len(_PATH_CHECKS):
                break
        scene = Scene(
            objects=(),
            background=background,
            brightness=float(rng.uniform(0.8, 1.15)),
            noise_sigma=float(rng.uniform(1.0, 4.5)),
            noise_seed=int(rng.integers(2**31)),
        )
        return _Shot(start_s, end_s, best, scene)


def standing_questions(seed: int, kinds: Sequence[QuestionKind] = QUESTION_KINDS) -> list[QuestionSpec]:
    """Draw standing questions that can all be asked of one camera: each about another kind of object.

    Args:
        seed: Same seed, same questions.
        kinds: What to ask, in order; at most as many as there are kinds of objects.
    """
    rng = np.random.default_rng([seed, 2])
    names = rng.permutation(list(KINDS))
    colors = rng.permutation(list(COLORS))
    questions: list[QuestionSpec] = []
    for index, kind in enumerate(kinds):
        color = str(colors[index % len(colors)]) if kind == "existence" else None
        questions.append(make_question(kind, str(names[index]), color, phrasing=int(rng.integers(1 << 16))))
    return questions


def _wanted_objects(rng: np.random.Generator, questions: Sequence[QuestionSpec]) -> list[Wanted]:
    """Kinds and colours of one layout, drawn again until they leave no question without an answer."""
    wanted: list[Wanted] = []
    for _ in range(60):
        wanted = _draw_objects(rng, questions)
        if len(wanted) <= MAX_OBJECTS and all(_is_clear(wanted, question) for question in questions):
            break
    return wanted[:MAX_OBJECTS]


def _matching(wanted: Sequence[Wanted], kind: str, color: str | None) -> int:
    return sum(item[0] == kind and color in (None, item[1]) for item in wanted)


def _is_clear(wanted: Sequence[Wanted], question: QuestionSpec) -> bool:
    number = _matching(wanted, question.object_kind, question.color)
    match question.kind:
        case "existence":
            return True
        case "count":
            return number <= MAX_COUNT
        case "color" | "position":
            return number == 1


def _draw_objects(rng: np.random.Generator, questions: Sequence[QuestionSpec]) -> list[Wanted]:
    """One attempt: what the questions need, then distractors that leave the drawn answers alone."""
    kinds, colors = list(KINDS), list(COLORS)
    wanted: list[Wanted] = []

    def any_color(but: str | None = None) -> str:
        return str(rng.choice([color for color in colors if color != but]))

    existence = [question for question in questions if question.kind == "existence"]
    for question in existence:
        if rng.random() < 0.5:
            if not _matching(wanted, question.object_kind, question.color):
                wanted.append((question.object_kind, question.color or any_color()))
        elif question.color is not None and rng.random() < 0.5:
            wanted.append((question.object_kind, any_color(but=question.color)))
    for question in questions:
        kind, color = question.object_kind, question.color
        if question.kind in ("color", "position") and not _matching(wanted, kind, color):
            wanted.append((kind, color or any_color()))
        elif question.kind == "count":
            number = int(rng.integers(0, 5))
            while _matching(wanted, kind, None) < number:
                wanted.append((kind, any_color()))
    asked = {question.object_kind for question in questions}
    free = [kind for kind in kinds if kind not in asked]
    lures = [(question.object_kind, question.color) for question in existence if question.color]
    for _ in range(int(rng.integers(1, 5))):
        if len(wanted) >= MAX_OBJECTS - 1 or not free:
            break
        # Right colour, wrong kind: what an existence question must not fall for.
        color = lures[int(rng.integers(len(lures)))][1] if lures and rng.random() < 0.3 else any_color()
        wanted.append((str(rng.choice(free)), color))
    return wanted


def _lay_out(rng: np.random.Generator, wanted: list[Wanted], questions: Sequence[QuestionSpec]) -> tuple[Track, ...]:
    """Find a way for every object; one that finds no room is left out."""
    largest = max_size(len(wanted))
    tracks: list[Track] = []
    in_cell = {(q.object_kind, q.color) for q in questions if q.kind == "position"}
    # Objects that must keep to one cell have the least choice, so they choose first.
    ordered = sorted(wanted, key=lambda item: not ({item, (item[0], None)} & in_cell))
    for kind, color in ordered:
        keep_cell = bool({(kind, color), (kind, None)} & in_cell)
        track = _find_track(rng, kind, color, tracks, largest=largest, keep_cell=keep_cell)
        if track is not None:
            tracks.append(track)
    return tuple(tracks)


def _find_track(
    rng: np.random.Generator, kind: str, color: str, others: list[Track], *, largest: float, keep_cell: bool
) -> Track | None:
    for attempt in range(60):
        size = float(rng.uniform(MIN_SIZE, largest))
        half = np.array([size * KINDS[kind].width / 2, size * KINDS[kind].height / 2])
        low, high = half, 1 - half
        if keep_cell:
            cell = rng.integers(0, 3, size=2)
            margin = CELL_MARGIN + 0.005
            low = np.maximum(low, cell / 3 + margin * (cell > 0))
            high = np.minimum(high, (cell + 1) / 3 - margin * (cell < 2))
        start = rng.uniform(low, high)
        end = start
        if attempt < 40 and rng.random() < 0.65:
            end = np.clip(start + rng.uniform(-_MAX_STEP, _MAX_STEP, size=2), low, high)
        track = Track(
            SceneObject(kind, color, float(start[0]), float(start[1]), size, bool(end[0] < start[0])),
            float(end[0]),
            float(end[1]),
        )
        if not any(overlaps(track.at(share), other.at(share)) for other in others for share in _PATH_CHECKS):
            return track
    return None
