"""Thresholds of the stop rule with a finite-sample guarantee.

Learn-then-Test (Angelopoulos, Bates, Candes, Jordan, Lei; arXiv 2110.01052) by fixed-sequence testing: from the
strictest threshold down, the hypothesis "the risk is above the accepted one" is tested at level delta, and the walk
ends at the first that cannot be rejected. Every pass before the last is a chance to stop wrongly, so a question counts
as lost as soon as *any* pass that the threshold calls safe differs from the whole latent's answer. That loss falls as
the threshold rises, and it bounds the risk wherever the passes begin: the first prefix of a frame may be chosen freely.
Frames are the samples, since questions about one frame are not independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.protocol.stop_rule import NEVER
from schemas.errors import ConfigError
from schemas.types import AnswerType
from training.codec.stop.pass_table import PassTable

_BOLDNESS: Final = (0.5, 0.99)
"""Largest stakes, as shares of what a loss of 1 would take everything of."""
_GRID: Final = 1.0 - np.logspace(-6, math.log10(0.7), 300)
"""Thresholds near 1 are where it matters, so the grid is even in the logarithm of 1 - threshold."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a calibration promises.

    Attributes:
        risk: Accepted share of questions with an early answer that differs from the whole latent's.
        delta: Accepted chance that the promise is broken on frames like those of the calibration.
        by_type: Promise the risk for each answer type, `delta` shared between them; otherwise on average over all
            questions, with one threshold.
    """

    risk: float = 0.02
    delta: float = 0.05
    by_type: bool = False

    @property
    def by_frame(self) -> bool:
        """Whether all answers of a pass are judged together."""
        return not self.by_type


def calibrate_thresholds(
    table: PassTable, frames: NDArray[np.bool_], promise: Promise, *, as_if: int | None = None
) -> dict[AnswerType, float]:
    """The lowest thresholds that are proven safe.

    Args:
        table: Passes over every prefix of the ladder, the whole latent last.
        frames: Which frames to use [F].
        promise: What has to be kept.
        as_if: Test as if the frames were so many, for plans only: what another set of that size will probably allow.

    Returns:
        For each answer type of the table its threshold, for every pass before the last.
    """
    kinds = sorted(set(table.types))
    risk, delta = promise.risk, promise.delta
    if not promise.by_type:
        return dict.fromkeys(kinds, _walk_down(table, frames, risk, delta, as_if))
    return {kind: _walk_down(table.of_type(kind), frames, risk, delta / len(kinds), as_if) for kind in kinds}


def _walk_down(table: PassTable, frames: NDArray[np.bool_], risk: float, delta: float, as_if: int | None) -> float:
    used = frames[table.owner]
    if len(table.lengths) < 2 or not used.any():
        return NEVER
    _, members, sizes = np.unique(table.owner[used], return_inverse=True, return_counts=True)
    # The highest score at which a wrong answer was ever given early: any threshold up to it loses the question.
    wrong_scores = np.where(table.wrong[:-1, used], table.scores[:-1, used], -1.0).max(axis=0)
    accepted = NEVER
    for threshold in _GRID:
        by_frame = np.bincount(members, weights=wrong_scores >= threshold) / sizes
        losses = by_frame if as_if is None else np.resize(by_frame, as_if)
        if betting_p_value(losses, risk, delta) > delta:
            break
        accepted = float(threshold)
    return accepted


def betting_p_value(losses: NDArray[np.float64], risk: float, level: float) -> float:
    """P-value of "the expected loss is above `risk`" for independent losses of at most 1.

    By betting against it (Waudby-Smith and Ramdas, arXiv 2010.09686): each loss below `risk` pays and each above
    costs, and by Ville's inequality a fortune of 1 / p is as rare as p if the risk is above. Stakes come from the
    spread of earlier losses alone; half of the money bets with care, half boldly. A frame asks several questions, so
    its loss is a small fraction mostly. Bounds that know the mean alone (Hoeffding, Bentkus) make no use of it.

    Args:
        losses: In an order that does not depend on them; a loss may be a gain, below 0 [n].
        risk: The accepted expectation, in (0, 1).
        level: Where the p-value is wanted; stakes are best there.
    """
    count = len(losses)
    if not count:
        return 1.0
    number = np.arange(1, count + 1)
    mean = (0.5 * risk + np.cumsum(losses)) / (1 + number)
    spread = (0.25 * risk + np.cumsum((losses - mean) ** 2)) / (1 + number)
    before = np.concatenate([[0.25 * risk], spread[:-1]])
    stake = np.sqrt(2 * math.log(1 / level) / (count * before))
    fortunes = [
        np.cumsum(np.log1p(np.minimum(stake, boldness / (1 - risk)) * (risk - losses))) for boldness in _BOLDNESS
    ]
    fortune = np.logaddexp.reduce(fortunes, axis=0) - math.log(len(_BOLDNESS))
    return min(1.0, float(np.exp(-fortune.max())))


def frames_needed(risk: float, delta: float) -> int:
    """Fewest calibration frames that can prove a risk at all: even without one error, fewer leave too much doubt.

    Args:
        risk: The accepted risk.
        delta: Level of the test.

    Returns:
        The smallest n with ``(1 - risk)**n <= delta``; in practice a few times as many are needed, since some answers
        do differ.

    Raises:
        ConfigError: a risk that no number of frames can prove.
    """
    if not 0 < risk < 1:
        raise ConfigError("risk", f"{risk} cannot be promised: choose more than 0 and less than 1")
    return math.ceil(math.log(delta) / math.log1p(-risk))


def check_frames(frames: int, answer_types: int, promise: Promise) -> None:
    """Refuse a calibration that could not prove anything.

    Args:
        frames: Frames that the thresholds are tested on.
        answer_types: How many share ``delta``, if the promise is by type.
        promise: What has to be kept.

    Raises:
        ConfigError: too few frames, with the number needed and the smallest risk that these frames can prove.
    """
    risk, delta = promise.risk, promise.delta
    promises = answer_types if promise.by_type else 1
    level = delta / promises
    needed = frames_needed(risk, level)
    if frames < needed:
        provable = 1 - level ** (1 / frames) if frames else 1.0
        shared = f" for {promises} answer types" if promises > 1 else ""
        raise ConfigError(
            "risk",
            f"a risk of {risk:g} at {1 - delta:.0%} confidence{shared} needs at least {needed} frames "
            f"to test on, here are {frames}: calibrate on more, or accept a risk of {provable:.3f} or more",
        )
