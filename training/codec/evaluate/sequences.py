"""Sequences of cameras that stand still, at the rate at which questions are asked: a video file, or rendered clips."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_nodes.sources.video_reader import VideoReader
from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.spec import FrameFit
from pipeline.scenes.motion import SceneClip, standing_questions
from pipeline.scenes.questions import answer_to
from pipeline.scenes.renderer import render
from schemas.errors import ConfigError
from schemas.types import AnswerType
from training.codec.data import ANSWER_TYPES, Asked, AskedFrames

_FIRST_CLIP_SEED: Final = 95_000_000
_MIN_FRAMES: Final = 4
_MEAN_SHOT_FRAMES: Final = 5.0
"""Frames until other objects are there."""
_EXISTENCE: Final = ("person", "car", "bike", "dog", "bench", "tree", "sign", "umbrella")
SURVEILLANCE_QUESTIONS: Final = (
    *(Asked(0, f"Is there a {name}?", AnswerType.YES_NO, f"is there a {name}", None, "video") for name in _EXISTENCE),
    Asked(0, "How many people are there?", AnswerType.COUNT, "how many people", None, "video"),
    Asked(0, "How many trees are there?", AnswerType.COUNT, "how many trees", None, "video"),
    Asked(0, "Where is the person?", AnswerType.WORD, "where is the person", None, "video"),
    Asked(0, "What color is the person?", AnswerType.WORD, "what color is the person", None, "video"),
)
"""What a video is asked unless somebody says otherwise: of every frame, each question a kind of its own."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Frames of one or more cameras, one after the other.

    Attributes:
        name: Where they come from.
        data: Frames, and the questions about them.
        starts: First frame of each sequence.
        every_s: Time between two frames of a sequence.
        source: JSON-ready facts for the report.
    """

    name: str
    data: AskedFrames
    starts: tuple[int, ...]
    every_s: float
    source: dict[str, Any]

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """First frame of each sequence, and one past its last."""
        return list(zip(self.starts, [*self.starts[1:], len(self.data)], strict=True))

    def spread(self, count: int) -> AskedFrames:
        """So many of the frames, evenly spaced, with their questions."""
        kept = np.unique(np.linspace(0, len(self.data) - 1, min(count, len(self.data))).round().astype(int))
        place = {int(frame): row for row, frame in enumerate(kept)}
        asked = tuple(replace(item, frame=place[item.frame]) for item in self.data.asked if item.frame in place)
        return AskedFrames(np.asarray(self.data.frames)[kept], asked)


def video_sequence(
    path: Path,
    size_px: int,
    fit: FrameFit,
    questions: Sequence[Asked] = SURVEILLANCE_QUESTIONS,
    *,
    every_s: float = 1.0,
    frames: int | None = None,
) -> Sequences:
    """One camera from a video file.

    Args:
        path: The file.
        size_px: Height and width of the model's input.
        fit: The codec's rule for frames of another size.
        questions: Asked of every frame.
        every_s: Time between two frames that are taken.
        frames: How many are taken at most, from the beginning.

    Raises:
        SourceError: The file cannot be read.
        ConfigError: It is too short.
    """
    taken: list[NDArray[np.uint8]] = []
    reader = VideoReader(path)
    try:
        for frame in reader.frames():
            # Time stamps are rounded: a frame just before its time is the one that is meant.
            if frame.time_s + reader.period_s / 2 >= len(taken) * every_s:
                taken.append(fit_frame(frame.pixels(), size_px, fit))
                if frames is not None and len(taken) >= frames:
                    break
    finally:
        reader.close()
    if len(taken) < _MIN_FRAMES:
        raise ConfigError(
            str(path), f"gives {len(taken)} frames, one every {every_s:g} s; {_MIN_FRAMES} or more are needed"
        )
    asked = tuple(replace(item, frame=number) for number in range(len(taken)) for item in questions)
    source = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "questions": [item.text for item in questions],
    }
    return Sequences(path.name, AskedFrames(np.stack(taken), asked), (0,), every_s, source)


def rendered_clips(count: int, frames: int, size_px: int, *, every_s: float = 1.0, seed: int = 0) -> Sequences:
    """Rendered cameras that stand still: objects move and give way to others, the sensor's noise is always new.

    Args:
        count: Cameras.
        frames: Of each.
        size_px: Height and width.
        every_s: Time between two frames.
        seed: Moves the cameras within their range.
    """
    pictures: list[NDArray[np.uint8]] = []
    asked: list[Asked] = []
    for number in range(count):
        first = _FIRST_CLIP_SEED + seed * 1_000 + number
        seconds = frames * every_s
        shot_s = _MEAN_SHOT_FRAMES * every_s
        clip = SceneClip(first, seconds, standing_questions(first), mean_shot_s=shot_s, one_place=True)
        for step in range(frames):
            scene = clip.scene_at(step * every_s)
            for question in clip.questions:
                truth = answer_to(question, scene)
                if truth is not None:
                    kind = question.kind
                    asked.append(Asked(len(pictures), question.text, ANSWER_TYPES[kind], kind, truth, "clips"))
            pictures.append(render(scene, size_px))
    starts = tuple(number * frames for number in range(count))
    data = AskedFrames(np.stack(pictures), tuple(asked))
    return Sequences("rendered clips", data, starts, every_s, {"cameras": count, "seed": seed})
