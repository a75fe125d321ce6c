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
from training.rivals.fronts import best_of_each_size, front
from training.rivals.stills import ImageSetting, container_bytes, through_image_files

_SCREENING_FRAMES: Final = 10
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
        of every size, and of every size in each format, by their answers on all frames of the selection. Both with and
        without container bytes.

        Args:
            settings: To choose from.
            data: The selection's frames and questions.
            tokens: Their uncompressed tokens [F, N, D].
            quality: Of answers to the selection's questions, higher is better.
            target: Quality around which settings are kept first.
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
        reached = [quality(answers.texts) for answers in found]
        whole = [float(answers.payload_bytes.mean()) for answers in found]
        without = [
            max(1.0, size - container_bytes(answers.setting)) for size, answers in zip(whole, found, strict=True)
        ]
        best = sorted({*front(whole, reached), *front(without, reached)}, key=lambda row: abs(reached[row] - target))
        # The ends of the curve, then what lies around the target.
        ends = [min(best, key=whole.__getitem__), max(best, key=whole.__getitem__)]
        chosen = [*dict.fromkeys([*ends, *best])][:keep]
        for name in sorted({answers.setting.format for answers in found}):
            mine = [row for row, answers in enumerate(found) if answers.setting.format == name]
            if not set(mine) & set(chosen):
                enough = [row for row in mine if reached[row] >= target]
                chosen.append(min(enough, key=whole.__getitem__) if enough else max(mine, key=reached.__getitem__))
        settings_kept = [settings[kept[row]] for row in sorted(chosen, key=whole.__getitem__)]
        progress(f"images: {', '.join(map(str, settings_kept))} chosen on {len(data)} frames")
        return settings_kept


def _screened(settings: Sequence[ImageSetting], sizes: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Rows for the second stage, in order of size."""
    bare = [max(1.0, size - container_bytes(setting)) for size, setting in zip(sizes, settings, strict=True)]
    rows = {*best_of_each_size(sizes, errors), *best_of_each_size(bare, errors)}
    for name in {setting.format for setting in settings}:
        mine = [row for row, setting in enumerate(settings) if setting.format == name]
        best = best_of_each_size([sizes[row] for row in mine], [errors[row] for row in mine], bins=5, a_bin=1)
        rows |= {mine[row] for row in best}
    return sorted(rows, key=sizes.__getitem__)
