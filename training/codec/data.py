"""Frames, questions and visual tokens that codecs are made from and measured on: disjoint sets of three domains."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.scenes.catalogue import QuestionKind
from pipeline.scenes.photographs import PhotoLibrary, PhotoScene, sample_photo_scene
from pipeline.scenes.questions import QUESTION_KINDS, answer_to, sample_question
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import Scene, sample_scene
from schemas.errors import ConfigError
from schemas.types import AnswerType
from training.codec.image_path import PixelsToTokens
from training.reference_vlm.degrade import degrade
from training.reference_vlm.frames import RECIPE, SEED_STRIDE
from training.run import RunSettings

Domain: TypeAlias = Literal["rendered", "detail", "photographs"]

FIRST_SEEDS: Final = {
    "train": 40_000_000,
    "tables": 50_000_000,
    "score": 52_000_000,
    "policy": 55_000_000,
    "calibration": 60_000_000,
    "selection": 65_000_000,
    "report": 70_000_000,
}
"""First scene seed of each set; none overlaps another, nor the seeds of the reference VLM's training."""

ANSWER_TYPES: Final[dict[QuestionKind, AnswerType]] = {
    "existence": AnswerType.YES_NO,
    "relation": AnswerType.YES_NO,
    "activity": AnswerType.YES_NO,
    "color": AnswerType.WORD,
    "count": AnswerType.COUNT,
    "position": AnswerType.WORD,
}

_CHUNK: Final = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about one frame of a set.

    Attributes:
        frame: Index of the frame.
        text: The question.
        answer_type: What an answer may look like.
        kind: Group under which results are reported.
        truth: The right answer, None where it is not known; for reports only, no codec is trained on it.
        domain: Where the frame comes from.
        held_out: Whether the wording is one that the reference VLM's training never used.
        negative: How the absent thing of an existence question was chosen, see `QuestionSpec`.
    """

    frame: int
    text: str
    answer_type: AnswerType
    kind: str
    truth: str | None
    domain: str = "rendered"
    held_out: bool = False
    negative: str | None = None


class AskedAbout(Protocol):
    """Questions about so many frames, whose pixels need not be there."""

    @property
    def asked(self) -> tuple[Asked, ...]:
        """Questions, sorted by frame."""

    def __len__(self) -> int:
        """Number of frames."""


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


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Consecutive frames of one domain that one process draws."""

    domain: Domain
    first_seed: int
    start: int
    count: int
    size: int
    as_cameras_do: bool
    photos: Path | None


@cache
def _library(photos: Path) -> PhotoLibrary:
    return PhotoLibrary.open(photos)


def _draw(chunk: _Chunk) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Frames uint8 [count, size, size, 3] and the questions about them, as plain data."""
    frames = np.empty((chunk.count, chunk.size, chunk.size, 3), dtype=np.uint8)
    asked: list[dict[str, Any]] = []
    for row in range(chunk.count):
        seed = chunk.first_seed + chunk.start + row
        rng = np.random.default_rng([seed, 1])
        scene: Scene | PhotoScene
        if chunk.domain == "photographs":
            if chunk.photos is None:
                raise ConfigError("photos", "frames of photographs need a class folder or zip: --photos PATH")
            split: Literal["train", "validation"] = "train" if chunk.as_cameras_do else "validation"
            frame, scene = sample_photo_scene(seed, _library(chunk.photos), split, size=chunk.size)
        else:
            scene = sample_scene(seed, detail=chunk.domain == "detail")
            frame = render(scene, chunk.size)
        frames[row] = degrade(frame, rng) if chunk.as_cameras_do else frame
        for kind in QUESTION_KINDS:
            question = sample_question(kind, scene, rng)
            truth = answer_to(question, scene) if question else None
            if question is not None and truth is not None:
                item = Asked(
                    chunk.start + row,
                    question.text,
                    ANSWER_TYPES[kind],
                    kind,
                    truth,
                    chunk.domain,
                    question.held_out,
                    question.negative,
                )
                asked.append(asdict(item))
    return frames, asked


def scene_set(
    name: str,
    count: int,
    size: int,
    run: RunSettings,
    *,
    domains: Sequence[Domain] = ("rendered",),
    photos: Path | None = None,
) -> AskedFrames:
    """Frames with one clear question of each kind, drawn once and kept.

    Training frames are recompressed, reduced or blurred at random, as cameras and links do; all other sets are as
    drawn, and show the validation part of the photographs.

    Args:
        name: A key of `FIRST_SEEDS`.
        count: Number of frames.
        size: Height and width in pixels.
        run: The cache they are kept in, rendering processes, progress; its seed moves the set within its range.
        domains: What the frames show, in turn by parts of 64 frames.
        photos: Class folder of photographs, or a zip of one.

    Raises:
        ConfigError: Photographs are wanted and `photos` is not given.
        ArtifactError: They cannot be read.
    """
    if "photographs" in domains and photos is None:
        raise ConfigError("photos", "frames of photographs need a class folder or zip: --photos PATH")
    run.cache_dir.mkdir(parents=True, exist_ok=True)
    # The 1 is the number of questions of each kind.
    stem = f"set-{RECIPE}-{name}-{'-'.join(domains)}-{run.seed}-{count}-{size}-1"
    path, done = run.cache_dir / f"{stem}.npy", run.cache_dir / f"{stem}.json"
    if not done.exists():
        first = FIRST_SEEDS[name] + run.seed * SEED_STRIDE
        chunks = [
            _Chunk(
                domains[index % len(domains)],
                first,
                start,
                min(_CHUNK, count - start),
                size,
                name == "train",
                photos,
            )
            for index, start in enumerate(range(0, count, _CHUNK))
        ]
        frames = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
        rows = _draw_all(chunks, frames, name, run)
        frames.flush()
        del frames
        partial = done.with_suffix(".partial")
        partial.write_text(json.dumps(rows), encoding="utf-8")
        partial.replace(done)
    kept = json.loads(done.read_text(encoding="utf-8"))
    questions = tuple(Asked(**{**row, "answer_type": AnswerType(row["answer_type"])}) for row in kept)
    return AskedFrames(np.load(path, mmap_mode="r"), questions)


def _draw_all(chunks: Sequence[_Chunk], frames: NDArray[np.uint8], name: str, run: RunSettings) -> list[dict[str, Any]]:
    """Draw all chunks into `frames`; returns the questions, as plain data."""
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(run.threads, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, (chunk, (drawn, asked)) in enumerate(zip(chunks, pool.map(_draw, chunks), strict=True)):
            frames[chunk.start : chunk.start + chunk.count] = drawn
            rows += asked
            if number % 40 == 39:
                run.progress(f"{name} frames: {chunk.start + chunk.count} of {len(frames)} drawn")
    return rows


def cached_tokens(image_path: PixelsToTokens, frames: NDArray[np.uint8], path: Path) -> Tensor:
    """Uncompressed visual tokens in half precision, float16 [F, N, D], computed once.

    Args:
        image_path: Of the frozen model.
        frames: uint8 [F, H, W, 3].
        path: Where they are kept; the name must tell model and frames apart.
    """
    if path.exists():
        return torch.from_numpy(np.load(path))
    tokens = image_path.of_frames(frames).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, tokens.numpy())
    partial.replace(path)
    return tokens
