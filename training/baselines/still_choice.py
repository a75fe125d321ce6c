"""Which image settings are worth scoring: chosen on other frames, in two stages, since the vision tower is slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.baselines.fronts import best_of_each_size, front
from training.baselines.stills import ImageSetting, container_bytes, through_image_files
from training.codec.data import AskedFrames
from training.codec.image_path import PixelsToTokens
from training.run import Progress

_SCREENING_FRAMES: Final = 10
_RANGES: Final = 8
_RANGES_OF_A_FORMAT: Final = 4
"""Of sizes: the best of each, over all formats and in each one, is left for the second stage."""
_SCREENING_SPEED: Final = 6


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


class Criterion(NamedTuple):
    """What answers are judged by.

    Attributes:
        quality: Of answers to the selection's questions, higher is better.
        target: Quality around which settings are kept first.
    """

    quality: Callable[[NDArray[np.str_]], float]
    target: float


@dataclass(frozen=True, slots=True)
class ImageBaseline:
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
        criteria: Sequence[Criterion],
        *,
        keep: int,
        progress: Progress,
    ) -> list[ImageSetting]:
        """The settings to score, smallest files first.

        First all by the error of their tokens on a few frames, which varies much less than answers do; then the best
        of every size, and of every size in each format, by their answers on all frames of the selection. Both with and
        without container bytes.

        Args:
            settings: To choose from.
            data: The selection's frames and questions.
            tokens: Their uncompressed tokens [F, N, D].
            criteria: What is looked for in turn, at least one.
            keep: How many settings at most; one more for each format that none of them is of.
            progress: Called with a line of text now and then.
        """
        few = data.frames[:_SCREENING_FRAMES]
        theirs = tokens[: len(few)].float()
        sizes, errors = [], []
        for setting in settings:
            decoded, written = through_image_files(few, setting.at_speed(_SCREENING_SPEED), threads=self.threads)
            sizes.append(float(written.mean()))
            errors.append(float((self.image_path.of_frames(decoded) - theirs).square().mean()))
        kept = _screened(settings, sizes, errors)
        progress(f"images: {len(kept)} of {len(settings)} settings after a look at {len(few)} frames")
        found = [self.measure(settings[index].at_speed(_SCREENING_SPEED), data) for index in kept]
        whole = [float(answers.payload_bytes.mean()) for answers in found]
        without = [
            max(1.0, size - container_bytes(answers.setting)) for size, answers in zip(whole, found, strict=True)
        ]
        orders = []
        for quality, target in criteria:
            reached = [quality(answers.texts) for answers in found]
            orders.append(_nearest({*front(whole, reached), *front(without, reached)}, reached, target))
        # The ends of the curve, then what lies around the targets.
        ends = [0, min(range(len(kept)), key=lambda row: errors[kept[row]])]
        in_turn = [row for rows in zip_longest(*orders) for row in rows if row is not None]
        chosen = [*dict.fromkeys([*ends, *in_turn])][:keep]
        reached = [criteria[0].quality(answers.texts) for answers in found]
        for name in sorted({answers.setting.format for answers in found}):
            mine = [row for row, answers in enumerate(found) if answers.setting.format == name]
            if not set(mine) & set(chosen):
                enough = [row for row in mine if reached[row] >= criteria[0].target]
                chosen.append(min(enough, key=whole.__getitem__) if enough else max(mine, key=reached.__getitem__))
        settings_kept = [settings[kept[row]] for row in sorted(chosen, key=whole.__getitem__)]
        progress(f"images: {', '.join(map(str, settings_kept))} chosen on {len(data)} frames")
        return settings_kept


def _nearest(rows: set[int], reached: Sequence[float], target: float) -> list[int]:
    """Rows in order of their distance from a target."""
    return sorted(rows, key=lambda row: abs(reached[row] - target))


def _screened(settings: Sequence[ImageSetting], sizes: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Rows for the second stage, in order of size."""
    bare = [max(1.0, size - container_bytes(setting)) for size, setting in zip(sizes, settings, strict=True)]
    rows = {*best_of_each_size(sizes, errors, ranges=_RANGES), *best_of_each_size(bare, errors, ranges=_RANGES)}
    for name in {setting.format for setting in settings}:
        mine = [row for row, setting in enumerate(settings) if setting.format == name]
        best = best_of_each_size(
            [sizes[row] for row in mine], [errors[row] for row in mine], ranges=_RANGES_OF_A_FORMAT
        )
        rows |= {mine[row] for row in best}
    return sorted(rows, key=sizes.__getitem__)
