"""Frames that a codec is evaluated on: drawn ones, or somebody's own images and questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from schemas.errors import ArtifactError, ConfigError
from schemas.types import AnswerType
from training.codec.data import Asked, AskedFrames, Domain, Progress, scene_set

_MAX_QUESTIONS_BYTES: Final = 64 << 20
_SELECTION_SHARE: Final = 3
"""One in so many of somebody's own frames chooses settings; the others are reported."""
_MIN_FRAMES: Final = 2
"""Of each part: the variance of one frame's tokens is nothing that errors could be measured by."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Two disjoint sets of frames of one domain.

    Attributes:
        domain: What they show.
        selection: On these the rivals' settings are chosen.
        report: On these everything is scored.
    """

    domain: str
    selection: AskedFrames
    report: AskedFrames


def drawn_set(
    domain: Domain,
    cache_dir: Path,
    *,
    size_px: int,
    frames: int,
    selection: int,
    seed: int,
    processes: int,
    photos: Path | None,
    progress: Progress,
) -> EvaluationSet:
    """Frames that nothing was trained, counted or calibrated on.

    Raises:
        ConfigError: Photographs are wanted and none are given.
        ArtifactError: They cannot be read.
    """

    def drawn(name: str, count: int) -> AskedFrames:
        return scene_set(
            name,
            cache_dir,
            count=count,
            size=size_px,
            seed=seed,
            processes=processes,
            progress=progress,
            domains=(domain,),
            photos=photos,
        )

    return EvaluationSet(domain, drawn("selection", selection), drawn("report", frames))


def own_set(frames_dir: Path, questions_file: Path, size_px: int) -> EvaluationSet:
    """Images of a folder and questions about them, a third of the images for choosing settings.

    Args:
        frames_dir: Folder with the images; they are resized to the model's input.
        questions_file: JSON lines with `frame` (file name), `text`, `answer_type` and optionally `truth` and `kind`.
        size_px: Height and width of the model's input.

    Raises:
        ConfigError: A line is not such an object; the message names file and line.
        ArtifactError: A file cannot be read.
    """
    rows = _read_questions(questions_file)
    names = list(dict.fromkeys(name for _, name, _ in rows))
    if len(names) < 2 * _MIN_FRAMES:
        raise ConfigError(
            str(questions_file), f"asks about {len(names)} frames; choosing and scoring need {2 * _MIN_FRAMES} or more"
        )
    images = np.empty((len(names), size_px, size_px, 3), dtype=np.uint8)
    for index, name in enumerate(names):
        line = next(line for line, asked, _ in rows if asked == name)
        images[index] = _read_image(frames_dir, name, size_px, f"{questions_file}:{line}")
    place = {name: index for index, name in enumerate(names)}
    asked = [replace(item, frame=place[name]) for _, name, item in rows]
    # By a fixed shuffle, so that cameras that follow each other in the file are in both parts.
    order = np.random.default_rng(0).permutation(len(names))
    count = max(_MIN_FRAMES, len(names) // _SELECTION_SHARE)
    return EvaluationSet("own", _part(images, asked, order[:count]), _part(images, asked, order[count:]))


def _part(images: NDArray[np.uint8], asked: Sequence[Asked], chosen: NDArray[np.int64]) -> AskedFrames:
    kept = np.sort(chosen)
    place = {int(frame): index for index, frame in enumerate(kept)}
    mine = [replace(item, frame=place[item.frame]) for item in asked if item.frame in place]
    return AskedFrames(images[kept], tuple(sorted(mine, key=lambda item: item.frame)))


def _read_questions(path: Path) -> list[tuple[int, str, Asked]]:
    """Line number, file name and question of each line."""
    try:
        if path.stat().st_size > _MAX_QUESTIONS_BYTES:
            raise ArtifactError(str(path), f"is larger than {_MAX_QUESTIONS_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(str(path), f"questions cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            rows.append(_read_question(line, number, f"{path}:{number}"))
    return rows


def _read_question(line: str, number: int, where: str) -> tuple[int, str, Asked]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(where, 'is not an object such as {"frame": "a.png", "text": "...", "answer_type": "yes_no"}')
    unknown = set(row) - {"frame", "text", "answer_type", "truth", "kind"}
    if unknown:
        raise ConfigError(where, f"unknown keys: {', '.join(sorted(map(str, unknown)))}")
    for key in ("frame", "text", "answer_type"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ConfigError(where, f"{key!r} must be a text that is not empty")
    for key in ("truth", "kind"):
        if row.get(key) is not None and not isinstance(row[key], str):
            raise ConfigError(where, f"{key!r} must be a text")
    try:
        answer_type = AnswerType(row["answer_type"])
    except ValueError as error:
        known = ", ".join(AnswerType)
        raise ConfigError(where, f"answer_type {row['answer_type']!r} is none of {known}") from error
    truth = row.get("truth")
    item = Asked(
        0,
        row["text"],
        answer_type,
        row.get("kind") or str(answer_type),
        truth.strip().lower() if truth is not None else None,
        "own",
    )
    return number, row["frame"], item


def _read_image(folder: Path, name: str, size_px: int, where: str) -> NDArray[np.uint8]:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(where, f"{name!r} lies outside of {folder}")
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
            if image.size != (size_px, size_px):
                image = image.resize((size_px, size_px), Image.Resampling.LANCZOS)
            return np.asarray(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ArtifactError(str(path), f"{where}: is not a readable image: {error}") from error
