"""Consistency against delay on thin links, and against the quality that the far end can predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pipeline.codec.wire_bytes import refine_wire_bytes
from training.codec.evaluate.scoreboard import Point, Scoreboard
from training.codec.measure import PrefixAnswers
from training.codec.stop.score_fit import fit_errors

LINK_RATES_KBPS: Final = (32, 64, 200, 1_000)
ROUND_TRIP_S: Final = 0.1
"""Of one message and the word on it; a step up the ladder takes one more."""
_QUALITY_BINS: Final = 10


def delay_rows(
    scoreboard: Scoreboard, answers: PrefixAnswers, ladder: Sequence[int], images: Sequence[Point]
) -> list[dict[str, Any]]:
    """How long it takes until so many answers are those of the uncompressed tokens.

    Bytes of a frame over the rate of the link, plus a round trip for every message; no queue, no time to compute.

    Args:
        scoreboard: Of the questions.
        answers: From the prefixes.
        ladder: Prefix lengths at which a worker asks its model.
        images: Scored image files.

    Returns:
        Rows with `path` (`at_once`: one prefix in one message; `ladder`: every rung up to it; `image`), `agreement`,
        `wire_bytes`, `rounds`, `delay_s` by rate in kbps.
    """
    rows = []
    for row, length in enumerate(answers.lengths):
        agreement = float((answers.texts[row] == scoreboard.reference).mean())
        rows.append(
            _delay("at_once", length, agreement, float(scoreboard.wire_bytes(answers.payload_bytes[row]).mean()), 1)
        )
    known = [length for length in sorted(ladder) if length in answers.lengths]
    total = np.zeros(answers.payload_bytes.shape[1])
    for rung, length in enumerate(known):
        row = answers.lengths.index(length)
        if rung == 0:
            total = total + scoreboard.wire_bytes(answers.payload_bytes[row])
        else:
            more = answers.payload_bytes[row] - answers.payload_bytes[answers.lengths.index(known[rung - 1])]
            # A chunk costs up to a byte more than the difference of two prefixes.
            total = total + np.array([refine_wire_bytes(max(0, int(size)) + 1) for size in more])
        agreement = float((answers.texts[row] == scoreboard.reference).mean())
        rows.append(_delay("ladder", length, agreement, float(total.mean()), rung + 1))
    rows += [
        _delay("image", point.row["setting"], point.row["agreement"], point.row["wire_bytes"], 1) for point in images
    ]
    return rows


def predicted_quality_rows(
    scoreboard: Scoreboard, answers: PrefixAnswers, fitted_on: PrefixAnswers
) -> list[dict[str, Any]]:
    """Agreement by predicted feature error: what the receiver can tell of a prefix before it asks the model.

    The error is predicted from the code length of what has arrived (`ErrorModel`), fitted on other frames.

    Args:
        scoreboard: Of the questions.
        answers: From the prefixes.
        fitted_on: The same prefixes of the selection.

    Returns:
        One row for each tenth of all answers, from the smallest predicted error: predicted and measured error over the
        variance of the tokens, cosine, agreement with its interval, and how many answers.
    """
    model = fit_errors(fitted_on.lengths, fitted_on.code_bits, fitted_on.errors)
    predicted = np.stack(
        [np.exp(model.log_error(length, bits)) for length, bits in zip(answers.lengths, answers.code_bits, strict=True)]
    )
    owner = scoreboard.owner
    at = predicted[:, owner].ravel()
    agrees = (answers.texts == scoreboard.reference).ravel()
    errors, cosines = answers.errors[:, owner].ravel(), answers.cosines[:, owner].ravel()
    frame = np.tile(owner, len(answers.lengths))
    rows = []
    for part in np.array_split(np.argsort(at, kind="stable"), min(_QUALITY_BINS, len(at))):
        resampled = scoreboard.resamples.mean_of_questions(agrees[part], frame[part])
        known = resampled[1:][np.isfinite(resampled[1:])]
        low, high = np.quantile(known, [0.025, 0.975])
        rows.append(
            {
                "predicted_error": round(float(at[part].mean()), 4),
                "feature_error": round(float(errors[part].mean()), 4),
                "feature_cosine": round(float(cosines[part].mean()), 4),
                "agreement": round(float(agrees[part].mean()), 4),
                "agreement_ci95": [round(float(low), 4), round(float(high), 4)],
                "answers": len(part),
            }
        )
    return rows


def _delay(path: str, sent: int | str, agreement: float, wire_bytes: float, rounds: int) -> dict[str, Any]:
    return {
        "path": path,
        "sent": sent,
        "agreement": round(agreement, 4),
        "wire_bytes": round(wire_bytes, 1),
        "rounds": rounds,
        "delay_s": {
            str(rate): round(wire_bytes * 8 / (rate * 1_000) + rounds * ROUND_TRIP_S, 4) for rate in LINK_RATES_KBPS
        },
    }
