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
from pipeline.scenes.questions import RELATIONS, QuestionSpec, answer_to, make_question
from pipeline.scenes.scene import CELL_MARGIN, Scene, SceneObject, clash, sample_background, sample_light, stand

Wanted: TypeAlias = tuple[str, str]

_PATH_CHECKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_STEPS: Final = (0.08, 0.24)
"""Shortest and longest way of a moving object within one shot, as shares of the frame."""


@dataclass(frozen=True, slots=True)
class Track:
    """One object on a straight way through a shot.

    Attributes:
        start: The object at the beginning of the shot.
        end: The object at its end; it grows as it comes nearer.
    """

    start: SceneObject
    end: SceneObject

    def at(self, progress: float) -> SceneObject:
        """The object after a share (0 to 1) of the shot."""
        a, b = self.start, self.end
        return replace(
            a,
            x=a.x + (b.x - a.x) * progress,
            y=a.y + (b.y - a.y) * progress,
            size=a.size + (b.size - a.size) * progress,
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
        one_place: bool = False,
    ) -> None:
        """Lay out all shots.

        Args:
            seed: Seed of everything random.
            duration_s: Length in seconds.
            questions: Questions to keep well defined.
            mean_shot_s: Mean length of a shot; shots last 60 to 140 % of it.
            one_place: The camera stands still: every shot has the place and the light of the first one, and only other
                objects.

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
        shots: list[_Shot] = []
        for index, (start_s, end_s) in enumerate(pairwise(borders)):
            place = shots[0].scene if one_place and shots else None
            shots.append(self._sample_shot(index, start_s, end_s, place))
        self._shots = tuple(shots)
        self._starts = [shot.start_s for shot in self._shots]

    @property
    def shot_starts_s(self) -> tuple[float, ...]:
        """When each layout begins, in seconds."""
        return tuple(self._starts)

    def tracks(self, shot: int) -> tuple[Track, ...]:
        """What is in a shot, from 0.

        Raises:
            IndexError: The clip has no such shot.
        """
        return self._shots[shot].tracks

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

    def _sample_shot(self, index: int, start_s: float, end_s: float, place: Scene | None) -> _Shot:
        """Draw layouts until every standing question has an answer from the first to the last moment."""
        rng = np.random.default_rng([self.seed, 1, index])
        best: tuple[Track, ...] = ()
        best_clear = -1
        background = sample_background(rng) if place is None else place.background
        for _ in range(30):
            tracks = _lay_out(rng, _wanted_objects(rng, self.questions), self.questions, background.horizon)
            clear = sum(
                answer_to(question, Scene(tuple(track.at(progress) for track in tracks), background)) is not None
                for question in self.questions
                for progress in _PATH_CHECKS
            )
            if clear > best_clear:
                best, best_clear = tracks, clear
            if clear == len(self.questions) * len(_PATH_CHECKS):
                break
        if place is not None:
            return _Shot(start_s, end_s, best, replace(place, noise_seed=int(rng.integers(2**31))))
        light, weather = sample_light(rng)
        scene = Scene(
            objects=(),
            background=background,
            light=light,
            weather=weather,
            sun=float(rng.uniform(-1, 1)),
            brightness=float(rng.uniform(0.8, 1.15)),
            noise_sigma=float(rng.uniform(1.0, 4.5)),
            noise_seed=int(rng.integers(2**31)),
        )
        return _Shot(start_s, end_s, best, scene)


STANDING_KINDS: Final[tuple[QuestionKind, ...]] = ("existence", "color", "count", "position", "activity")


def standing_questions(seed: int, kinds: Sequence[QuestionKind] = STANDING_KINDS) -> list[QuestionSpec]:
    """Draw standing questions that can all be asked of one camera: each about another kind of object.

    Args:
        seed: Same seed, same questions.
        kinds: What to ask, in order; relations take two kinds of objects each, and there must be enough of them.
    """
    rng = np.random.default_rng([seed, 2])
    names = [str(name) for name in rng.permutation(list(KINDS))]
    colors = rng.permutation(list(COLORS))
    questions: list[QuestionSpec] = []
    for index, kind in enumerate(kinds):
        movable = next((name for name in names if KINDS[name].can_move), names[0])
        name = movable if kind == "activity" else names[0]
        names.remove(name)
        color = str(colors[index % len(colors)]) if kind == "existence" else None
        phrasing = int(rng.integers(1 << 16))
        if kind == "relation":
            relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
            other = names.pop(0)
            questions.append(make_question(kind, name, other_kind=other, relation=relation, phrasing=phrasing))
        else:
            questions.append(make_question(kind, name, color, phrasing=phrasing))
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
        case "color" | "position" | "activity":
            return number == 1
        case "relation":
            return number == 1 and _matching(wanted, question.other_kind or "", question.other_color) == 1


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
        if question.kind in ("color", "position", "activity", "relation") and not _matching(wanted, kind, color):
            wanted.append((kind, color or any_color()))
        if question.kind == "relation" and question.other_kind:
            if not _matching(wanted, question.other_kind, question.other_color):
                wanted.append((question.other_kind, question.other_color or any_color()))
        elif question.kind == "count":
            number = int(rng.integers(0, 5))
            while _matching(wanted, kind, None) < number:
                wanted.append((kind, any_color()))
    asked = {question.object_kind for question in questions}
    asked |= {question.other_kind for question in questions if question.other_kind}
    free = [kind for kind in kinds if kind not in asked]
    lures = [(question.object_kind, question.color) for question in existence if question.color]
    for _ in range(int(rng.integers(1, 5))):
        if len(wanted) >= MAX_OBJECTS - 1 or not free:
            break
        # Right colour, wrong kind: what an existence question must not fall for.
        color = lures[int(rng.integers(len(lures)))][1] if lures and rng.random() < 0.3 else any_color()
        wanted.append((str(rng.choice(free)), color))
    return wanted


def _lay_out(
    rng: np.random.Generator, wanted: list[Wanted], questions: Sequence[QuestionSpec], horizon: float
) -> tuple[Track, ...]:
    """Find a way for every object; one that finds no room is left out."""
    tracks: list[Track] = []
    in_cell = {(q.object_kind, q.color) for q in questions if q.kind == "position"}
    # Objects that must keep to one cell have the least choice, so they choose first.
    ordered = sorted(wanted, key=lambda item: not ({item, (item[0], None)} & in_cell))
    for kind, color in ordered:
        keep_cell = bool({(kind, color), (kind, None)} & in_cell)
        track = _find_track(rng, kind, color, tracks, horizon, keep_cell=keep_cell)
        if track is not None:
            tracks.append(track)
    return tuple(tracks)


def _find_track(
    rng: np.random.Generator, kind: str, color: str, others: list[Track], horizon: float, *, keep_cell: bool
) -> Track | None:
    moves = KINDS[kind].can_move and rng.random() < 0.6
    for attempt in range(80):
        foot = float(rng.uniform(0.02, 0.98)), float(rng.uniform(horizon + 0.06, 0.985))
        start = stand(rng, kind, color, foot, horizon, detail=False)
        end = start
        if moves and attempt < 60:
            end = _moved(rng, start, foot, horizon)
            start = replace(start, moving=True, faces_left=end.x < start.x)
            end = replace(end, moving=True, faces_left=start.faces_left)
        track = Track(start, end)
        if not (_in_frame(start) and _in_frame(end)) or (keep_cell and not _keeps_cell(track)):
            continue
        if not any(clash(track.at(share), other.at(share)) for other in others for share in _PATH_CHECKS):
            return track
    return None


def _moved(rng: np.random.Generator, start: SceneObject, foot: tuple[float, float], horizon: float) -> SceneObject:
    """Where an object is at the end of a shot: mostly sideways, perhaps a little nearer or further."""
    way = float(rng.uniform(*_STEPS)) * (1 if rng.random() < 0.5 else -1)
    end_foot = foot[0] + way, float(np.clip(foot[1] + way * rng.uniform(-0.4, 0.4), horizon + 0.06, 0.985))
    nearer = stand(rng, start.kind, start.color, end_foot, horizon, detail=False)
    # Its own spread of sizes stays; only the distance changes.
    before = stand(np.random.default_rng(0), start.kind, start.color, foot, horizon, detail=False).size
    after = stand(np.random.default_rng(0), start.kind, start.color, end_foot, horizon, detail=False).size
    size = start.size * after / before
    return replace(nearer, size=size, y=end_foot[1] - size * KINDS[start.kind].height / 2)


def _in_frame(item: SceneObject) -> bool:
    left, top, right, bottom = item.box
    return left >= 0.005 and top >= 0.005 and right <= 0.995 and bottom <= 1.0


def _keeps_cell(track: Track) -> bool:
    """Whether an object stays in one cell of the 3x3 grid, clear of its borders, all along."""
    low = min(track.start.x, track.end.x), min(track.start.y, track.end.y)
    high = max(track.start.x, track.end.x), max(track.start.y, track.end.y)
    margin = CELL_MARGIN + 0.005
    return all(
        any(cell / 3 + margin * (cell > 0) <= a and b <= (cell + 1) / 3 - margin * (cell < 2) for cell in range(3))
        for a, b in zip(low, high, strict=True)
    )
