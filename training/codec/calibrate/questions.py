"""What is asked of somebody's own pictures: their own questions, or some that fit most pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from schemas.errors import ConfigError
from schemas.types import AnswerType
from training.codec.calibrate.source import PictureSource
from training.codec.data import Asked
from training.codec.own_frames import read_any_questions

DEFAULT_QUESTIONS: Final = (
    ("Is there a person in the picture?", AnswerType.YES_NO),
    ("Is there a vehicle in the picture?", AnswerType.YES_NO),
    ("How many people are in the picture?", AnswerType.COUNT),
    ("What is the main object in the picture?", AnswerType.WORD),
)
"""Asked of every picture where there is no file of questions."""


@dataclass(frozen=True, slots=True)
class PictureQuestions:
    """Questions about pictures.

    Attributes:
        of_all: Those that are asked of every picture.
        by_name: Those about single pictures.
        file: Where they were read; None for the default ones.
    """

    of_all: tuple[Asked, ...]
    by_name: dict[str, tuple[Asked, ...]]
    file: Path | None

    @classmethod
    def read(cls, file: Path | None) -> Self:
        """Read a file of questions; None takes `DEFAULT_QUESTIONS`.

        Raises:
            ConfigError: a line is no question.
            ArtifactError: the file cannot be read.
        """
        if file is None:
            asked = tuple(Asked(0, text, kind, text, None, "own") for text, kind in DEFAULT_QUESTIONS)
            return cls(asked, {}, None)
        named, standing = read_any_questions(file)
        return cls(tuple(standing), {name: tuple(items) for name, items in named.items()}, file)

    @property
    def texts(self) -> list[str]:
        """Every question once, sorted as they come."""
        items = self.of_all or [item for asked in self.by_name.values() for item in asked]
        return list(dict.fromkeys(item.text for item in items))

    def check_names(self, source: PictureSource) -> None:
        """Refuse questions about pictures that are not there.

        Raises:
            ConfigError: the message names the first of them.
        """
        if not self.by_name:
            return
        if source.video:
            raise ConfigError("--questions", f"{self.file} names pictures; of a video every frame is asked the same")
        if unknown := sorted(set(self.by_name) - set(source.names)):
            raise ConfigError(
                "--questions", f"{self.file}: {unknown[0]!r} and {len(unknown) - 1} others are not in {source.path}"
                if len(unknown) > 1
                else f"{self.file}: {unknown[0]!r} is not in {source.path}",
            )  # fmt: skip

    def rows(self, names: Sequence[str]) -> list[int] | None:
        """Which of the pictures have questions of their own; None where all are asked the same."""
        return [row for row, name in enumerate(names) if name in self.by_name] if self.by_name else None

    def of(self, names: Sequence[str]) -> tuple[Asked, ...]:
        """Questions about the pictures of a set, numbered by their place in it."""
        return tuple(
            replace(item, frame=place)
            for place, name in enumerate(names)
            for item in (self.by_name.get(name, ()) if self.by_name else self.of_all)
        )
