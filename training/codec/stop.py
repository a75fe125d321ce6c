"""Thresholds of the stop rule, with a finite-sample guarantee, and the choice of the base prefix.

Learn-then-Test (Angelopoulos, Bates, Candes, Jordan, Lei; arXiv 2110.01052) by fixed-sequence testing: from the
strictest threshold down, the hypothesis "this policy's risk is above the accepted one" is tested at level delta and
the walk ends at the first that cannot be rejected. The risk is of the whole policy: an answer at any look before the
last that differs from the answer of the whole latent. Frames are the samples, since questions about one frame are not
independent; the p-value is that of Hoeffding and Bentkus.

The ladder is chosen on one half of the calibration frames, the thresholds on the other, so that the choice costs no
validity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.protocol.stop_rule import NEVER
from schemas.types import AnswerType
from training.codec.data import Asked
from training.codec.measure import PrefixAnswers
from training.codec.wire_bytes import open_wire_bytes, refine_wire_bytes

_GRID: Final = 200


@dataclass(frozen=True, slots=True)
class Policy:
    """A ladder with one threshold an answer type, used at every look before the last.

    Attributes:
        ladder: Prefix lengths of the looks, the last one whole.
        thresholds: Answer probability from which on an answer is safe.
    """

    ladder: tuple[int, ...]
    thresholds: dict[AnswerType, float]


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What a policy does on a set of frames.

    Attributes:
        risk: Share of answers that differ from the whole latent's, mean over frames.
        early_share: Share of questions answered before the last look.
        refined_share: Share of frames that need a refinement, all their questions together.
        wire_bytes: Mean bytes a frame on the uplink and back, headers included.
        whole_wire_bytes: The same when the whole latent is sent at once.
        payload_bytes: Mean latent bytes a frame.
        looks: Mean looks a frame.
    """

    risk: float
    early_share: float
    refined_share: float
    wire_bytes: float
    whole_wire_bytes: float
    payload_bytes: float
    looks: float

    def as_dict(self) -> dict[str, float]:
        """Plain data, rounded."""
        return {name: round(float(getattr(self, name)), 4) for name in self.__slots__}


def calibrate_thresholds(
    answers: PrefixAnswers,
    asked: Sequence[Asked],
    frames: NDArray[np.bool_],
    ladder: Sequence[int],
    risk: float,
    delta: float,
) -> Policy:
    """Find the lowest threshold of each answer type that is proven safe.

    Args:
        answers: Answers from all prefixes of the ladder.
        asked: The questions.
        frames: Which frames to use, bool [F].
        ladder: Prefix lengths of the looks, the last one whole.
        risk: Accepted share of early answers that differ from the whole latent's.
        delta: Accepted chance that a threshold breaks its promise; shared between the answer types.
    """
    rows = [answers.lengths.index(length) for length in ladder[:-1]]
    types = sorted({item.answer_type for item in asked})
    thresholds = {}
    for answer_type in types:
        chosen = np.array([item.answer_type == answer_type and bool(frames[item.frame]) for item in asked])
        scores = answers.probabilities[rows][:, chosen]
        wrong = _differs(answers)[rows][:, chosen]
        groups = np.array([item.frame for item in asked])[chosen]
        thresholds[answer_type] = _walk_down(scores, wrong, groups, risk, delta / len(types))
    return Policy(tuple(ladder), thresholds)


def apply_policy(
    policy: Policy, answers: PrefixAnswers, asked: Sequence[Asked], frames: NDArray[np.bool_]
) -> PolicyResult:
    """Run a policy over measured answers.

    A frame is refined as long as one of its questions has no safe answer, as workers do it.

    Args:
        policy: What to run.
        answers: Answers from all prefixes of the ladder.
        asked: The questions.
        frames: Which frames to use, bool [F].
    """
    rows = [answers.lengths.index(length) for length in policy.ladder]
    owner = np.array([item.frame for item in asked])
    limits = np.array([policy.thresholds.get(item.answer_type, NEVER) for item in asked])
    used = frames[owner]
    safe = answers.probabilities[rows] >= limits
    safe[-1] = True
    look = safe.argmax(axis=0)  # first safe look of each question
    wrong = _differs(answers)[rows, :][look, np.arange(len(asked))]
    frame_look = np.zeros(len(frames), dtype=np.int64)
    np.maximum.at(frame_look, owner, look)
    questions = np.bincount(owner, minlength=len(frames))
    chosen = np.flatnonzero(frames & (questions > 0))
    wire, payload = np.zeros(len(chosen)), np.zeros(len(chosen))
    whole = np.zeros(len(chosen))
    for place, frame in enumerate(chosen.tolist()):
        sizes = answers.payload_bytes[rows, frame]
        count = int(questions[frame])
        wire[place] = open_wire_bytes(int(sizes[0]), count)
        payload[place] = sizes[0]
        for step in range(1, int(frame_look[frame]) + 1):
            # A chunk costs up to a byte more than the difference of two prefixes.
            more = int(max(sizes[step] - sizes[step - 1], 0)) + 1
            wire[place] += refine_wire_bytes(more)
            payload[place] += more
        whole[place] = open_wire_bytes(int(sizes[-1]), count)
    by_frame = np.bincount(owner[used], weights=wrong[used], minlength=len(frames))[chosen] / questions[chosen]
    return PolicyResult(
        risk=float(by_frame.mean()),
        early_share=float((look[used] < len(rows) - 1).mean()),
        refined_share=float((frame_look[chosen] > 0).mean()),
        wire_bytes=float(wire.mean()),
        whole_wire_bytes=float(whole.mean()),
        payload_bytes=float(payload.mean()),
        looks=float(frame_look[chosen].mean() + 1),
    )


def choose_ladder(
    answers: PrefixAnswers,
    asked: Sequence[Asked],
    frames: NDArray[np.bool_],
    risk: float,
    delta: float,
    refined_range: tuple[float, float],
) -> tuple[tuple[int, ...], list[dict[str, Any]]]:
    """The ladder of two or three looks that needs the fewest wire bytes at an acceptable share of refined frames.

    Args:
        answers: Answers from candidate prefixes, the whole latent among them.
        asked: The questions.
        frames: Which frames to use, bool [F].
        risk: As in `calibrate_thresholds`.
        delta: As in `calibrate_thresholds`.
        refined_range: Least and largest share of frames that may need a refinement.

    Returns:
        The ladder; when none qualifies, the whole latent alone. And one row for every ladder tried, cheapest first.
    """
    *shorter, whole = answers.lengths
    candidates = [(first, whole) for first in shorter] + [(*pair, whole) for pair in combinations(shorter, 2)]
    table: list[dict[str, Any]] = []
    for ladder in candidates:
        result = apply_policy(calibrate_thresholds(answers, asked, frames, ladder, risk, delta), answers, asked, frames)
        table.append({"ladder": list(ladder), **result.as_dict()})
    table.sort(key=lambda row: float(row["wire_bytes"]))
    low, high = refined_range
    for row in table:
        if low <= row["refined_share"] <= high:
            return tuple(row["ladder"]), table
    return (whole,), table


def hoeffding_bentkus(mean_loss: float, count: int, risk: float) -> float:
    """P-value of "the expected loss is above `risk`" for independent losses in [0, 1].

    Args:
        mean_loss: Mean of the losses.
        count: How many there are.
        risk: The accepted expectation, in (0, 1).
    """
    low = min(mean_loss, risk)
    exponent = low * math.log(low / risk) if low > 0 else 0.0
    exponent += (1 - low) * math.log((1 - low) / (1 - risk))
    errors = math.ceil(count * mean_loss - 1e-9)
    log_terms = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(risk)
        + (count - k) * math.log1p(-risk)
        for k in range(min(errors, count) + 1)
    ]
    peak = max(log_terms)
    tail = math.exp(peak) * math.fsum(math.exp(term - peak) for term in log_terms)
    return min(1.0, math.exp(-count * exponent), math.e * tail)


def _differs(answers: PrefixAnswers) -> NDArray[np.bool_]:
    """Where an answer is not that of the whole latent, bool [P, Q]."""
    texts = np.array(answers.texts, dtype=object)
    return np.asarray(texts != texts[-1], dtype=np.bool_)


def _walk_down(
    scores: NDArray[np.float64], wrong: NDArray[np.bool_], groups: NDArray[np.int64], risk: float, delta: float
) -> float:
    """Lowest threshold of a fixed sequence that is proven safe.

    Args:
        scores: Answer probabilities at the looks before the last [P, Q].
        wrong: Whether those answers differ from the whole latent's [P, Q].
        groups: Frame of each question [Q].
        risk: Accepted mean loss of a frame.
        delta: Level of the tests.
    """
    if scores.size == 0:
        return NEVER
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    # Thresholds near 1 are where it matters, so the grid is even in the logarithm of 1 - threshold.
    grid = 1.0 - np.logspace(-6, math.log10(0.7), _GRID)
    accepted = NEVER
    for threshold in grid:
        early = scores >= threshold
        first = early.argmax(axis=0)
        loss = early.any(axis=0) & wrong[first, np.arange(wrong.shape[1])]
        by_frame = np.bincount(members, weights=loss) / sizes
        if hoeffding_bentkus(float(by_frame.mean()), len(sizes), risk) > delta:
            break
        accepted = float(threshold)
    return accepted
