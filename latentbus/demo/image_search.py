"""The rival: the cheapest image file from which the same model answers as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.codec.rivals import ImageSetting, default_settings, through_image_files

SCREENED_FRAMES: Final = 32
SCREENING_SLACK: Final = 0.08
"""Well over the standard error of an accuracy near 0.9 on 32 frames with three questions each."""
SEARCH_LIMIT_S: Final = 120.0


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
        some = np.unique(np.linspace(0, len(self.pixels) - 1, SCREENED_FRAMES).astype(int)).tolist()
        for setting in self._by_size(some[:: max(1, len(some) // 8)]):
            self.check_stop()
            if time.monotonic() > limit_s:
                return None
            # Most settings are far off, which a few frames show; a close one is judged on all.
            decoded, _ = through_image_files(self.pixels[some], setting)
            found = self.accuracy(decoded, some)
            if found is None or found < target - SCREENING_SLACK:
                continue
            decoded, sizes_bytes = through_image_files(self.pixels, setting)
            found = self.accuracy(decoded, range(len(self.pixels)))
            if found is not None and found >= target:
                return CheapestImage(setting, decoded, sizes_bytes)
        return None

    def _by_size(self, frames: Sequence[int]) -> list[ImageSetting]:
        def mean_size_bytes(setting: ImageSetting) -> float:
            return float(np.mean(through_image_files(self.pixels[frames], setting)[1]))

        return sorted(default_settings(self.pixels.shape[1]), key=mean_size_bytes)
