"""Which image settings are worth scoring: chosen on other frames, in two stages, since the vision tower is slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.codec.data import AskedFrames, Progress
from training.codec.image_path import PixelsToTokens
from training.codec.rivals import ImageSetting, container_bytes, through_image_files

_SCREENING_FRAMES: Final = 10
_SCREENING_SPEED: Final = 6
_BINS: Final = 7
_A_BIN: Final = 2
"""The first stage leaves so many settings for each of so many ranges of size."""


@dataclass(frozen=True, slots=True)
class ImageAnswers:
    """An image setting on all frames of a set.

    Attributes:
        setting: How the files were written.
        texts: Answers, str [Q].
        payload_bytes: Of the files [F].
    """

    setting: ImageSetting
    texts: NDArray[np.str_]
    payload_bytes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ImageRival:
    """Puts frames through image files and asks about them.

    Attributes:
        image_path: Of the frozen model.
        answer: Answers to a set's questions from tokens [F, N, D]; str [Q].
        threads: Files that are written at once.
    """

    image_path: PixelsToTokens
    answer: Callable[[Tensor, AskedFrames], NDArray[np.str_]]
    threads: int

    def measure(self, setting: ImageSetting, data: AskedFrames) -> ImageAnswers:
        """Answers and sizes of one setting."""
        decoded, sizes = through_image_files(data.frames, setting, threads=self.threads)
        return ImageAnswers(setting, self.answer(self.image_path.of_frames(decoded), data), sizes)

    def choose(
        self,
        settings: Sequence[ImageSetting],
        data: AskedFrames,
        tokens: Tensor,
        quality: Callable[[NDArray[np.str_]], float],
        *,
        target: float,
        keep: int,
        progress: Progress,
    ) -> list[ImageSetting]:
        """The settings to score, smallest files first.

        First all by the error of their tokens on a few frames, which varies much less than answers do; then the best
        of every size by their answers on all frames of the selection. Both with and without container bytes.

        Args:
            settings: To choose from.
            data: The selection's frames and questions.
            tokens: Their uncompressed tokens [F, N, D].
            quality: Of answers to the selection's questions, higher is better.
            target: Quality around which settings are kept first.
            keep: How many settings at most.
            progress: Called with a line of text now and then.
        """
        few = data.frames[:_SCREENING_FRAMES]
        theirs = tokens[: len(few)].float()
        sizes, errors = [], []
        for setting in settings:
            decoded, written = through_image_files(few, setting.at_speed(_SCREENING_SPEED), threads=self.threads)
            sizes.append(float(written.mean()))
            errors.append(float((self.image_path.of_frames(decoded) - theirs).square().mean()))
        bare = [max(1.0, size - container_bytes(setting)) for size, setting in zip(sizes, settings, strict=True)]
        kept = sorted({*_best_of_each_size(sizes, errors), *_best_of_each_size(bare, errors)}, key=sizes.__getitem__)
        progress(f"images: {len(kept)} of {len(settings)} settings after a look at {len(few)} frames")
        found = [self.measure(settings[index].at_speed(_SCREENING_SPEED), data) for index in kept]
        reached = [quality(answers.texts) for answers in found]
        whole = [float(answers.payload_bytes.mean()) for answers in found]
        without = [
            max(1.0, size - container_bytes(answers.setting)) for size, answers in zip(whole, found, strict=True)
        ]
        front = sorted({*_front(whole, reached), *_front(without, reached)}, key=lambda row: abs(reached[row] - target))
        # The ends of the curve, then what lies around the target.
        ends = [min(front, key=whole.__getitem__), max(front, key=whole.__getitem__)]
        chosen = sorted([*dict.fromkeys([*ends, *front])][:keep], key=whole.__getitem__)
        settings_kept = [settings[kept[row]] for row in chosen]
        progress(f"images: {', '.join(map(str, settings_kept))} chosen on {len(data)} frames")
        return settings_kept


def _best_of_each_size(sizes: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Rows with the smallest errors in each of a few equal ranges of the logarithm of the size."""
    logs = np.log(sizes)
    place = np.minimum((logs - logs.min()) / max(float(np.ptp(logs)), 1e-9) * _BINS, _BINS - 1).astype(int)
    front = set(_front(sizes, [-error for error in errors]))
    rows = []
    for number in range(_BINS):
        mine = [row for row in np.flatnonzero(place == number).tolist() if row in front]
        rows += sorted(mine, key=errors.__getitem__)[:_A_BIN]
    return rows


def _front(sizes: Sequence[float], quality: Sequence[float]) -> list[int]:
    """Rows that no smaller row reaches, in order of size."""
    rows: list[int] = []
    best = -np.inf
    for row in sorted(range(len(sizes)), key=lambda index: (sizes[index], -quality[index])):
        if quality[row] > best:
            rows.append(row)
            best = quality[row]
    return rows
