"""The learned codec beside the closed form, at the same bytes, on pictures that neither has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.tables import FrequencyTables
from training.codec.answers import answers_in_parts
from training.codec.calibrate.expect import AskedOnly
from training.codec.evaluate.intervals import interval
from training.codec.evaluate.scoreboard import Point, Scoreboard
from training.codec.measure import PrefixAnswers
from training.codec.prefixes import even_ladder
from training.codec.stop.bench import CodecBench

_POINTS: Final = 12
"""Prefixes of the closed form that its curve is drawn through."""


def compare(learned: CodecBench, klt: CodecBench) -> dict[str, Any]:
    """Agreement and feature error of both at the sizes of the learned codec's prefixes.

    Args:
        learned: With the set ``report``.
        klt: With the same one.

    Returns:
        JSON-ready: `rows`, one for each prefix; `better_at`, how many of them have a difference whose interval is above
        zero, and `worse_at`.
    """
    count = learned.count("report", 0)
    lengths = sorted({*learned.rungs(), *learned.spec.ladder})
    asked, mine = learned.measure("report", count, lengths)
    tables = FrequencyTables.load(klt.codec_dir / TABLES_FILE)
    _, theirs = klt.measure("report", count, even_ladder(tables.mean_latent_bits(), _POINTS))
    tokens = learned.tokens("report")
    reference = answers_in_parts(learned.vlm, tokens, asked).texts
    scoreboard = Scoreboard(AskedOnly(asked, count), reference, learned.run.seed)
    closed = _Curve(_points(scoreboard, theirs), theirs)
    rows = [
        closed.row(point, length, float(mine.errors[row].mean()))
        for row, (length, point) in enumerate(zip(mine.lengths, _points(scoreboard, mine)[1:], strict=True))
    ]
    return {
        "pictures": count,
        "questions": len(asked),
        "rows": rows,
        "better_at": sum(row["difference_ci95"] is not None and row["difference_ci95"][0] > 0 for row in rows),
        "worse_at": sum(row["difference_ci95"] is not None and row["difference_ci95"][1] < 0 for row in rows),
    }


def _points(scoreboard: Scoreboard, answers: PrefixAnswers) -> list[Point]:
    """That of an empty prefix, and that of each length."""
    empty = scoreboard.trivial(answers.blind.texts)["empty_prefix"]
    texts = answers.texts
    return [empty, *(scoreboard.point(texts[row], answers.payload_bytes[row]) for row in range(len(answers.lengths)))]


class _Curve:
    """Of the closed form, from nothing to whole latents."""

    def __init__(self, points: Sequence[Point], answers: PrefixAnswers) -> None:
        self._sizes = np.stack([point.payload_bytes for point in points])
        self._agreement = np.stack([point.agreement for point in points])
        # An empty prefix gives the mean, whose error is the variance.
        self._errors = np.array([1.0, *answers.errors.mean(axis=1)])

    def row(self, point: Point, length: int, error: float) -> dict[str, Any]:
        """One prefix of the learned codec, and what the closed form has at its size."""
        theirs: NDArray[np.float64] = np.array(
            [
                np.interp(size, self._sizes[:, column], self._agreement[:, column])
                for column, size in enumerate(point.payload_bytes)
            ]
        )
        difference = point.agreement - theirs
        found = interval(difference[1:])
        return {
            "latents": length,
            "payload_bytes": round(float(point.payload_bytes[0]), 1),
            "agreement": round(float(point.agreement[0]), 4),
            "klt_agreement": round(float(theirs[0]), 4),
            "difference": round(float(difference[0]), 4),
            "difference_ci95": None if found is None else [round(found[0], 4), round(found[1], 4)],
            "feature_error": round(error, 4),
            "klt_feature_error": round(float(np.interp(point.payload_bytes[0], self._sizes[:, 0], self._errors)), 4),
            "klt_is_whole": bool(point.payload_bytes[0] > self._sizes[-1, 0]),
        }


def compared_lines(report: Mapping[str, Any]) -> list[str]:
    """The comparison, and how it was learned, as Markdown."""
    training, found = report["training"], report["training"]["beside_klt"]
    rows = [
        f"| {row['latents']} | {row['payload_bytes']:,.0f}{' *' if row['klt_is_whole'] else ''} "
        f"| {100 * row['agreement']:.1f} % | {100 * row['klt_agreement']:.1f} % "
        f"| {_difference(row)} | {row['feature_error']:.3f} | {row['klt_feature_error']:.3f} |"
        for row in found["rows"]
    ]
    whole = any(row["klt_is_whole"] for row in found["rows"])
    return [
        "## Beside the closed form at the same bytes",
        "",
        f"On the {found['pictures']} pictures of the report. Of {len(rows)} prefixes {found['better_at']} agree more "
        f"often than the KLT's of the same size, {found['worse_at']} less often, at 95 % confidence.",
        "",
        "| latents | payload bytes | agreement | KLT | difference in points (95 %) | feature error | KLT |",
        "|---|---|---|---|---|---|---|",
        *rows,
        *(["", "\\* larger than the KLT's whole latent, which it is compared with."] if whole else []),
        "",
        f"Learned in {training['steps']:,} steps of {training['budget']['batch']} frames, "
        f"{training['spent_s'] / 60:.1f} min on {training['processes']} x {training['device']}; the weights are those "
        f"of step {training['best_step']:,}, the best on {training['held_out']} pictures held out for that.",
    ]


def _difference(row: Mapping[str, Any]) -> str:
    ends = row["difference_ci95"]
    span = "" if ends is None else f" ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})"
    return f"{100 * row['difference']:+.1f}{span}"
