"""Notices that answers are no longer like those of the stop rule's calibration, to which its promise is bound.

Now and then a worker reads a frame once more, from its shortest prefix, whatever prefix it got: the choice of first
prefixes must not look like a change of the world. Where the score lies among those of the calibration is a number that
is uniform in [0, 1] as long as nothing has changed, for each answer type, so that a change of the mix of types is none.
A full window of such numbers is compared with the uniform distribution by the Kolmogorov-Smirnov distance. Windows do
not overlap, so that the stated rate of false alarms is that of a window (Dvoretzky-Kiefer-Wolfowitz with Massart's
constant, for the window and for the calibration's own sample).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np

from schemas.types import AnswerType

FALSE_ALARM_RATE: Final = 0.001
"""Chance that one window of frames like those of the calibration raises the alarm, at most."""
WINDOW_PASSES: Final = 200
READ_AGAIN_EVERY: Final = 8
"""First passes for one that is read again: an eighth more work for the model at most."""
QUANTILES: Final = 41


@dataclass(frozen=True, slots=True)
class ScoreQuantiles:
    """Scores at the shortest prefix, on calibration frames.

    Attributes:
        quantiles: For each answer type evenly spaced quantiles of the scores, smallest first, largest last.
        frames: Frames that they were taken from, the fewest of all types.
    """

    quantiles: Mapping[AnswerType, tuple[float, ...]]
    frames: int

    @classmethod
    def of(cls, scores: Mapping[AnswerType, Sequence[float]]) -> Self:
        """Of the calibration's scores by answer type, one a frame."""
        levels = np.linspace(0, 1, QUANTILES)
        rows = {kind: tuple(np.quantile(np.array(values), levels).round(9).tolist()) for kind, values in scores.items()}
        return cls(rows, min((len(values) for values in scores.values()), default=1))

    def place(self, answer_type: AnswerType, score: float) -> float | None:
        """Share of the calibration's scores below this one; None for a type that it did not meet."""
        row = self.quantiles.get(answer_type)
        return None if row is None else float(np.interp(score, row, np.linspace(0, 1, len(row))))

    @property
    def threshold(self) -> float:
        """Distance of a window from which on the alarm is raised."""
        # Each sample's own distribution function strays by its share of the rate; the quantiles add their step.
        stray = math.sqrt(math.log(4 / FALSE_ALARM_RATE) / 2)
        return stray / math.sqrt(WINDOW_PASSES) + stray / math.sqrt(self.frames) + 1 / (QUANTILES - 1)

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        return {
            "quantiles": {str(kind): list(row) for kind, row in sorted(self.quantiles.items())},
            "frames": self.frames,
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The object ``shift`` of ``stop.json``.

        Raises:
            ValueError: a field is missing or wrong.
        """
        try:
            rows = {AnswerType(kind): tuple(float(x) for x in row) for kind, row in data["quantiles"].items()}
            made = cls(rows, int(data["frames"]))
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"field {error} of the shift is missing or wrong") from None
        for row in rows.values():
            if len(row) < 2 or list(row) != sorted(row) or not all(map(math.isfinite, row)):
                raise ValueError("the quantiles of the shift are at least two, and rise")
        if made.frames < 1:
            raise ValueError("the quantiles of the shift come from at least one frame")
        return made


@dataclass(slots=True)
class ShiftDetector:
    """Compares windows of scores with the calibration.

    Attributes:
        calibration: What is expected.
        shifted: Whether the last full window was too far from it.
        distance: Of the last full window.
    """

    calibration: ScoreQuantiles
    shifted: bool = False
    distance: float = 0.0
    _window: list[float] = field(default_factory=list)

    def note(self, answer_type: AnswerType, score: float) -> bool:
        """Take in the score of one frame at the shortest prefix.

        Args:
            answer_type: Of the question.
            score: Of the answer.

        Returns:
            Whether `shifted` has just changed.
        """
        place = self.calibration.place(answer_type, score)
        # One number that is none would make the distance of its whole window none, and so hide a shift.
        if place is None or not math.isfinite(place):
            return False
        self._window.append(place)
        if len(self._window) < WINDOW_PASSES:
            return False
        found = np.sort(np.array(self._window))
        self._window.clear()
        steps = np.arange(len(found) + 1) / len(found)
        self.distance = float(np.maximum(steps[1:] - found, found - steps[:-1]).max())
        before, self.shifted = self.shifted, self.distance > self.calibration.threshold
        return before != self.shifted
