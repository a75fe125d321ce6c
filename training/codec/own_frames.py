"""Somebody's own images and questions: what a codec is evaluated and a stop rule calibrated on beside drawn scenes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edge_nodes.sources.image_folder import SUFFIXES
from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.spec import FrameFit
from schemas.errors import ArtifactError, ConfigError
from schemas.types import AnswerType
from training.codec.data import Asked, AskedFrames

_MAX_QUESTIONS_BYTES: Final = 64 << 20
_EXAMPLE: Final = {"frame": "a.png", "text": "...", "answer_type": "yes_no"}


class OwnFrames:
    """Somebody's own images and questions about them.

    Args:
        frames_dir: Folder with the images; they are fitted to the model's input as the edge does it.
        questions_file: JSON lines with `frame` (file name), `text`, `answer_type` and optionally `truth` and `kind`.

    Attributes:
        questions_file: That file.

    Raises:
        ConfigError: A line is not such an object; the message names file and line.
        ArtifactError: The file cannot be read.
    """

    def __init__(self, frames_dir: Path, questions_file: Path) -> None:
        self._folder = frames_dir
        self.questions_file = questions_file
        self._asked: dict[str, list[tuple[int, Asked]]] = {}
        for line, name, item in _read_questions(questions_file):
            self._asked.setdefault(name, []).append((line, item))
        # A fixed shuffle, so that cameras that follow each other in the file are in every part.
        names = list(self._asked)
        self._names = [names[index] for index in np.random.default_rng(0).permutation(len(names))]

    def __len__(self) -> int:
        return len(self._names)

    def part(self, start: int, stop: int, size_px: int, fit: FrameFit) -> AskedFrames:
        """Some of the images, from the shuffled order, with their questions.

        Args:
            start: First image.
            stop: One past the last.
            size_px: Height and width of the model's input.
            fit: The codec's rule for frames of another size.

        Raises:
            ArtifactError: An image cannot be read.
            ConfigError: It lies outside of the folder.
        """
        names = self._names[start:stop]
        images = np.empty((len(names), size_px, size_px, 3), dtype=np.uint8)
        asked = []
        for index, name in enumerate(names):
            questions = self._asked[name]
            images[index] = fit_frame(
                _read_image(self._folder, name, f"{self.questions_file}:{questions[0][0]}"), size_px, fit
            )
            asked += [replace(item, frame=index) for _, item in questions]
        return AskedFrames(images, tuple(asked))

    def sizes(self, shares: Sequence[float]) -> list[int]:
        """How many images each of several parts gets.

        Args:
            shares: Of the parts; they sum to 1.

        Raises:
            ConfigError: There are so few that a part is empty.
        """
        edges = np.rint(np.cumsum(shares) * len(self)).astype(int)
        sizes = [int(size) for size in np.diff(edges, prepend=0)]
        if min(sizes) < 1:
            raise ConfigError(
                str(self.questions_file),
                f"asks about {len(self)} frames; {len(sizes)} parts need {math.ceil(1 / min(shares))} or more",
            )
        return sizes


def read_images(folder: Path, most: int, size_px: int, fit: FrameFit) -> NDArray[np.uint8]:
    """Images of a folder without questions, evenly spread over their names, fitted to the model's input.

    Args:
        folder: With the images.
        most: So many at most.
        size_px: Height and width of the model's input.
        fit: The codec's rule for frames of another size.

    Returns:
        uint8 [F, size_px, size_px, 3].

    Raises:
        ConfigError: There is no image.
        ArtifactError: One cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError("--frames", f"no such folder: {folder}")
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not names:
        raise ConfigError("--frames", f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
    chosen = [names[index] for index in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).astype(int))]
    return np.stack([fit_frame(_read_image(folder, name, "--frames"), size_px, fit) for name in chosen])


def read_standing_questions(path: Path) -> list[Asked]:
    """Questions that are asked of every frame of a video: JSON lines as above, without `frame`, `truth` optional.

    A question that names no kind is one by itself.

    Raises:
        ConfigError: A line is not such an object, or there is none; the message names file and line.
        ArtifactError: The file cannot be read.
    """
    asked = [replace(item, domain="video") for _, _, item in _read_questions(path, standing=True)]
    if not asked:
        raise ConfigError(str(path), "holds no question")
    return asked


def read_any_questions(path: Path) -> tuple[dict[str, list[Asked]], list[Asked]]:
    """Questions about named pictures, or questions that are asked of every one: whichever a file holds.

    Returns:
        By name of the picture, and those without a name; one of the two is empty.

    Raises:
        ConfigError: A line is neither, lines are of both kinds, or there is none; the message names file and line.
        ArtifactError: The file cannot be read.
    """
    text = _read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if '"frame"' not in first:
        return {}, [replace(item, domain="own") for item in read_standing_questions(path)]
    named: dict[str, list[Asked]] = {}
    for _, name, item in _read_questions(path):
        named.setdefault(name, []).append(item)
    return named, []


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_QUESTIONS_BYTES:
            raise ArtifactError(str(path), f"is larger than {_MAX_QUESTIONS_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(str(path), f"questions cannot be read: {error}") from error


def _read_questions(path: Path, *, standing: bool = False) -> list[tuple[int, str, Asked]]:
    """Line number, file name and question of each line."""
    rows = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if line.strip():
            rows.append(_read_question(line, number, f"{path}:{number}", standing=standing))
    return rows


def _read_question(line: str, number: int, where: str, *, standing: bool) -> tuple[int, str, Asked]:
    needed = ("text", "answer_type") if standing else ("frame", "text", "answer_type")
    example: dict[str, str] = {key: value for key, value in _EXAMPLE.items() if key in needed}
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(where, f"is not an object such as {json.dumps(example)}")
    unknown = set(row) - {*needed, "truth", "kind"}
    if unknown:
        raise ConfigError(where, f"unknown keys: {', '.join(sorted(map(str, unknown)))}")
    for key in needed:
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
        row.get("kind") or (row["text"] if standing else str(answer_type)),
        truth.strip().lower() if truth is not None else None,
        "own",
    )
    return number, row.get("frame", ""), item


def _read_image(folder: Path, name: str, where: str) -> NDArray[np.uint8]:
    """An image as it is meant to be seen, RGB uint8 [H, W, 3]."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(where, f"{name!r} lies outside of {folder}")
    try:
        with Image.open(path) as file:
            return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ArtifactError(str(path), f"{where}: is not a readable image: {error}") from error
