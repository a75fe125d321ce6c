"""The rival: the cheapest image file from which the same model answers as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.codec.rivals import ImageSetting, default_settings, through_image_files

SCREENINGS: Final = ((16, 0.10), (32, 0.07), (64, 0.05), (128, 0.035))
"""Frames, and how far below the target a setting may be on so many of them: three standard errors of an accuracy near
0.95 with three questions a frame. Most settings are far off, which a few frames show."""
SEARCH_LIMIT_S: Final = 180.0


@dataclass(frozen=True, slots=True)
class CheapestImage:
    """What the search found.

    Attributes:
        setting: how the files are written.
        pixels: the decoded files, uint8 [F, S, S, 3].
        sizes_bytes: size of each file [F].
    """

    setting: ImageSetting
    pixels: NDArray[np.uint8]
    sizes_bytes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ImageSearch:
    """Looks for the cheapest setting that is good enough.

    Attributes:
        pixels: frames as the model takes them, uint8 [F, S, S, 3].
        accuracy: accuracy of decoded files, given their pixels and which frames they are.
        check_stop: called between settings; raises to end the search.
    """

    pixels: NDArray[np.uint8]
    accuracy: Callable[[NDArray[np.uint8], Sequence[int]], float | None]
    check_stop: Callable[[], None]

    def cheapest(self, target: float) -> CheapestImage | None:
        """Try settings from the smallest files upwards.

        Args:
            target: accuracy to reach on all frames.

        Returns:
            The first that reaches it; None if none does, or the time is over.
        """
        limit_s = time.monotonic() + SEARCH_LIMIT_S
        for setting in self._by_size(self._spread(8)):
            self.check_stop()
            if time.monotonic() > limit_s:
                return None
            if all(self._reaches(setting, self._spread(count), target - slack) for count, slack in SCREENINGS):
                decoded, sizes_bytes = through_image_files(self.pixels, setting)
                found = self.accuracy(decoded, range(len(self.pixels)))
                if found is not None and found >= target:
                    return CheapestImage(setting, decoded, sizes_bytes)
        return None

    def _spread(self, count: int) -> list[int]:
        """Frames evenly spread over all; all of them if there are no more."""
        indices: list[int] = np.unique(np.linspace(0, len(self.pixels) - 1, count).astype(int)).tolist()
        return indices

    def _reaches(self, setting: ImageSetting, frames: Sequence[int], target: float) -> bool:
        decoded, _ = through_image_files(self.pixels[frames], setting)
        found = self.accuracy(decoded, frames)
        return found is not None and found >= target

    def _by_size(self, frames: Sequence[int]) -> list[ImageSetting]:
        def mean_size_bytes(setting: ImageSetting) -> float:
            return float(np.mean(through_image_files(self.pixels[frames], setting)[1]))

        return sorted(default_settings(self.pixels.shape[1]), key=mean_size_bytes)
