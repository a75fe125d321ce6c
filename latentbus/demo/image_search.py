"""The baseline: the cheapest image file from which the same model answers as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.baselines.stills import ImageSetting, default_settings, through_image_files

STAGES: Final = ((16, 0.10), (48, 0.06), (112, 0.04), (240, 0.01))
"""Frames judged so far, and how far below the target a setting may be on them. Most settings are far off, which a few
frames show; the first allowances are three standard errors of the difference on as many frames with three questions
each. The last one favours the baseline: a file within a point is as good, as far as a run of a minute can tell."""
SEARCH_LIMIT_S: Final = 180.0
STRIDE: Final = 5


class Score(NamedTuple):
    """Answers judged."""

    hits: int
    scored: int

    def __add__(self, other: object) -> Score:
        """The score of both."""
        if not isinstance(other, Score):
            return NotImplemented
        return Score(self.hits + other.hits, self.scored + other.scored)

    @property
    def accuracy(self) -> float:
        """Share of hits; 0 of nothing."""
        return self.hits / self.scored if self.scored else 0.0


@dataclass(frozen=True, slots=True)
class ImageSearch:
    """Looks for the cheapest setting that is good enough.

    Attributes:
        pixels: frames as the model takes them, uint8 [F, S, S, 3].
        target: score to reach, of the frames with these numbers.
        score: score of decoded files, given their pixels and the numbers of their frames.
        check_stop: called between settings; raises to end the search.
    """

    pixels: NDArray[np.uint8]
    target: Callable[[Sequence[int]], Score]
    score: Callable[[NDArray[np.uint8], Sequence[int]], Score]
    check_stop: Callable[[], None]

    def cheapest(self) -> ImageSetting | None:
        """Try settings from the smallest files upwards, each on more frames as long as it keeps up.

        Every fifth size first, up to one that is good enough, then the smaller sizes between them: so that something is
        found even where time is short.

        Returns:
            The first that is as good as the target on the last stage's frames, within a point, or the smallest such
            that was found in the time; None if none was.
        """
        limit_s = time.monotonic() + SEARCH_LIMIT_S
        # A fixed shuffle: every stage is spread over all cameras and times.
        order: list[int] = np.random.default_rng(0).permutation(len(self.pixels)).tolist()
        settings = self._by_size(order[:8])
        # Counted from the largest file, so that it is among the first tries.
        first_tries = range((len(settings) - 1) % STRIDE, len(settings), STRIDE)
        best = len(settings)
        for places in (first_tries, range(len(settings))):
            for place in places:
                if place >= best or (places is not first_tries and place in first_tries):
                    continue
                self.check_stop()
                if time.monotonic() > limit_s:
                    break
                if self._keeps_up(settings[place], order):
                    best = place
                    break
        return settings[best] if best < len(settings) else None

    def _keeps_up(self, setting: ImageSetting, order: Sequence[int]) -> bool:
        found = target = Score(0, 0)
        ends = [min(count, len(order)) for count, _ in STAGES]
        for (begin, end), (_, allowance) in zip(pairwise([0, *ends]), STAGES, strict=True):
            frames = order[begin:end]
            if frames:
                decoded, _ = through_image_files(self.pixels[frames], setting)
                found += self.score(decoded, frames)
                target += self.target(frames)
            if found.accuracy < target.accuracy - allowance:
                return False
        return found.scored > 0

    def _by_size(self, frames: Sequence[int]) -> list[ImageSetting]:
        def mean_size_bytes(setting: ImageSetting) -> float:
            return float(np.mean(through_image_files(self.pixels[frames], setting)[1]))

        return sorted(default_settings(self.pixels.shape[1]), key=mean_size_bytes)
