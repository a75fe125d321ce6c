"""Frames, questions and visual tokens that codecs are made from: four disjoint sets of rendered scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_workers.vlm import TransformersVlm
from pipeline.scenes.catalogue import QuestionKind
from pipeline.scenes.questions import QUESTION_KINDS, answer_to, sample_question
from pipeline.scenes.scene import sample_scene
from schemas.types import AnswerType
from training.codec.image_path import PixelsToTokens
from training.reference_vlm.frames import SEED_STRIDE, prepare_frames

Progress = Callable[[str], None]

FIRST_SEEDS: Final = {"train": 40_000_000, "tables": 50_000_000, "calibration": 60_000_000, "report": 70_000_000}
"""First scene seed of each set; none overlaps another, nor the seeds of the reference VLM's training."""

ANSWER_TYPES: Final[dict[QuestionKind, AnswerType]] = {
    "existence": AnswerType.YES_NO,
    "color": AnswerType.WORD,
    "count": AnswerType.COUNT,
    "position": AnswerType.WORD,
}

_BATCH: Final = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about one frame of a set.

    Attributes:
        frame: Index of the frame.
        text: The question.
        answer_type: What an answer may look like.
        kind: Group under which results are reported.
        truth: The right answer; for reports only, no codec is trained on it.
    """

    frame: int
    text: str
    answer_type: AnswerType
    kind: str
    truth: str


@dataclass(frozen=True, slots=True)
class AskedFrames:
    """Frames and questions about them.

    Attributes:
        frames: uint8 [F, H, W, 3], may be memory-mapped.
        asked: Questions, sorted by frame.
    """

    frames: NDArray[np.uint8]
    asked: tuple[Asked, ...]

    def __len__(self) -> int:
        return len(self.frames)


def scene_set(
    name: str,
    cache_dir: Path,
    *,
    count: int,
    size: int,
    seed: int,
    processes: int,
    progress: Progress,
    rounds: int = 1,
) -> AskedFrames:
    """Rendered frames, recompressed and blurred as cameras do, with one clear question of each kind a round.

    Args:
        name: A key of `FIRST_SEEDS`.
        cache_dir: Frames are kept there.
        count: Number of frames.
        size: Height and width in pixels.
        seed: Moves the set within its range.
        processes: Rendering processes.
        progress: Called with a line now and then.
        rounds: How often every kind of question is asked of a frame.
    """
    first = FIRST_SEEDS[name] + seed * SEED_STRIDE
    frames = prepare_frames(cache_dir, first_seed=first, count=count, size=size, processes=processes, progress=progress)
    rng = np.random.default_rng([first, 1])
    asked: list[Asked] = []
    for index in range(count):
        scene = sample_scene(first + index)
        for kind in QUESTION_KINDS * rounds:
            question = sample_question(kind, scene, rng)
            truth = answer_to(question, scene) if question else None
            if question is not None and truth is not None:
                asked.append(Asked(index, question.text, ANSWER_TYPES[kind], kind, truth))
    return AskedFrames(frames.frames, tuple(asked))


def cached_tokens(image_path: PixelsToTokens, frames: NDArray[np.uint8], path: Path) -> Tensor:
    """Uncompressed visual tokens in half precision, float16 [F, N, D], computed once.

    Args:
        image_path: Of the frozen model.
        frames: uint8 [F, H, W, 3].
        path: Where they are kept; the name must tell the model apart.
    """
    if path.exists():
        return torch.from_numpy(np.load(path))
    tokens = image_path.of_frames(frames).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, tokens.numpy())
    partial.replace(path)
    return tokens


def answers_of(vlm: TransformersVlm, tokens: Tensor, asked: Sequence[Asked]) -> tuple[list[str], NDArray[np.float64]]:
    """Answers to all questions, each on its own.

    Args:
        vlm: The frozen model.
        tokens: Visual tokens of all frames [F, N, D].
        asked: Questions about them.

    Returns:
        Texts in lower case, and the answers' probabilities.
    """
    texts: list[str] = []
    probabilities: list[float] = []
    for start in range(0, len(asked), _BATCH):
        part = asked[start : start + _BATCH]
        used = sorted({item.frame for item in part})
        row = {frame: index for index, frame in enumerate(used)}
        found = vlm.answer(
            tokens[used].float(),
            [(item.text, item.answer_type) for item in part],
            frames=[row[item.frame] for item in part],
        )
        texts += [answer.text.strip().lower() for answer in found]
        probabilities += [answer.probability for answer in found]
    return texts, np.array(probabilities)
