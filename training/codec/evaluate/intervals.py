"""Bootstrap intervals: frames are drawn anew, with all of their questions, since questions of one frame go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 1_000
LEVEL: Final = 0.95

Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Resamples:
    """How often each frame counts in each resample; the same for all that is compared, so that ratios are paired.

    Attributes:
        weights: The measured set first, all ones, then the resamples [1 + R, F].
    """

    weights: NDArray[np.float64]

    @classmethod
    def draw(cls, frames: int, seed: int = 0, count: int = RESAMPLES, *, block: int = 1) -> Self:
        """Resamples of so many frames, with replacement.

        Args:
            frames: Number of frames, at least 1.
            seed: Of the draws.
            count: Resamples.
            block: Frames that follow each other and are drawn together: those of one scene are alike.
        """
        blocks = -(-frames // block)
        drawn = np.random.default_rng([seed, 3]).multinomial(blocks, np.full(blocks, 1 / blocks), size=count)
        each = np.repeat(drawn, block, axis=1)[:, :frames]
        return cls(np.concatenate([np.ones((1, frames)), each.astype(np.float64)]))

    def mean_of_frames(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Means over frames: values [..., F] to [..., 1 + R]."""
        means: NDArray[np.float64] = values.astype(np.float64) @ self.weights.T / self.weights.sum(axis=1)
        return means

    def mean_of_questions(
        self, values: NDArray[Any], owner: NDArray[np.int64], weights: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Means over questions.

        Args:
            values: [Q].
            owner: Frame of each question [Q].
            weights: How much each question counts [Q]; all alike unless given.

        Returns:
            [1 + R]; not a number where a resample has no question.
        """
        frames = self.weights.shape[1]
        counts = np.ones(len(owner)) if weights is None else weights
        sums = np.bincount(owner, weights=values.astype(np.float64) * counts, minlength=frames)
        asked = np.bincount(owner, weights=counts, minlength=frames)
        with np.errstate(invalid="ignore", divide="ignore"):
            means: NDArray[np.float64] = (self.weights @ sums) / (self.weights @ asked)
        return means


def interval(resampled: NDArray[np.float64]) -> Interval | None:
    """Middle 95 % of resampled values [R]; None if a twentieth or more of them do not exist."""
    known = resampled[np.isfinite(resampled)]
    if len(known) <= LEVEL * len(resampled):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bytes_at(
    sizes: NDArray[np.float64], reached: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where rising curves cross their targets, linear in the logarithm of the size between points.

    A point that is worse than a smaller one adds nothing, so each curve is that of the best point so far.

    Args:
        sizes: Mean bytes of each point [P, S], above 0.
        reached: Accuracy at each point [P, S].
        target: [S].

    Returns:
        Bytes [S]: those of the smallest point where that is already enough, not a number where no point is.
    """
    order = np.argsort(sizes, axis=0, kind="stable")
    logs = np.log(np.take_along_axis(sizes, order, axis=0))
    best = np.maximum.accumulate(np.take_along_axis(reached, order, axis=0), axis=0)
    enough = best >= target
    first = np.argmax(enough, axis=0)
    column = np.arange(len(target))
    before = np.maximum(first - 1, 0)
    low, high = best[before, column], best[first, column]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(first > 0, (target - low) / (high - low), 1.0)
    crossing = logs[before, column] + share * (logs[first, column] - logs[before, column])
    return np.where(enough.any(axis=0), np.exp(crossing), np.nan)
