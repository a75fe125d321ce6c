"""What to expect of a codec: measured on pictures that nothing was learned, counted or calibrated on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np

from pipeline.codec.stop_file import StopFile, load_stop_file
from pipeline.protocol.stop_rule import NEVER
from schemas.types import AnswerType
from training.codec.answers import answers_in_parts
from training.codec.calibrate.sets import fewest_of
from training.codec.data import Asked
from training.codec.evaluate.scoreboard import Scoreboard
from training.codec.measure import PrefixAnswers
from training.codec.stop.bench import CodecBench, TokenSet
from training.codec.stop.learn_then_test import Promise, calibrate_thresholds
from training.codec.stop.pass_table import PassTable
from training.codec.stop.policy import first_rungs, fixed_lengths, run_policy, sent_at_once

RISKS: Final = (0.1, 0.05, 0.02, 0.01, 0.005)
_GROWTH: Final = 1.25
_MOST_TIMES: Final = 40
"""Times as many pictures as there are: beyond, an estimate from these would be a guess."""


def expectations(bench: CodecBench, sets: dict[str, TokenSet], promise: Promise, questions: int) -> dict[str, Any]:
    """Rates, agreement and accuracy on the report's pictures, and what a stricter risk needs.

    Args:
        bench: The calibrated codec with its sets.
        sets: The bench's, with ``report`` and ``calibration``.
        promise: What the stop rule promises.
        questions: Questions of a frame that the promise covers; 0 for all.

    Returns:
        JSON-ready: `rates`, one row for each rung of the ladder and further lengths; `uncompressed`, `empty_prefix` and
        `constant_answer`; `stop_rule` on these pictures; `risks`.
    """
    report = sets["report"]
    lengths = sorted({*bench.rungs(), *bench.spec.ladder})
    asked, answers = bench.measure("report", len(report.tokens), lengths)
    reference = answers_in_parts(bench.vlm, report.tokens, asked).texts
    scoreboard = Scoreboard(
        AskedOnly(asked, len(report.tokens)), reference, bench.run.seed, values=report.tokens[0].numel()
    )
    ladder = set(bench.spec.ladder)
    rates = [
        scoreboard.point(
            answers.texts[row],
            answers.payload_bytes[row],
            latents=length,
            on_ladder=length in ladder,
            feature_error=round(float(answers.errors[row].mean()), 4),
        ).row
        for row, length in enumerate(answers.lengths)
    ]
    whole = np.full(len(report.tokens), 2 * report.tokens[0].numel())
    stop = load_stop_file(bench.codec_dir)
    return {
        "pictures": len(report.tokens),
        "questions": len(asked),
        "measure": scoreboard.measure,
        "rates": rates,
        "uncompressed": scoreboard.point(reference, whole).row,
        **{name: point.row for name, point in scoreboard.trivial(answers.blind.texts).items()},
        "stop_rule": _stopped(answers, asked, stop, bench, questions),
        "risks": _risks(bench, sets["calibration"], stop, promise, questions),
    }


class AskedOnly:
    """Questions about pictures whose pixels nobody needs.

    Args:
        asked: The questions.
        frames: How many pictures.
    """

    def __init__(self, asked: tuple[Asked, ...], frames: int) -> None:
        self.asked = asked
        self._frames = frames

    def __len__(self) -> int:
        return self._frames


def _stopped(
    answers: PrefixAnswers, asked: tuple[Asked, ...], stop: StopFile, bench: CodecBench, questions: int
) -> dict[str, Any]:
    """What the stop rule does to the report's pictures."""
    rng = np.random.default_rng([bench.run.seed, 10])
    table = _table(answers, asked, stop, questions, rng).rows(bench.spec.ladder)
    everything = np.ones(table.frames, dtype=np.bool_)
    thresholds = {kind: row[0] for kind, row in stop.rule.thresholds.items()}
    first = 0 if stop.statistics is None else first_rungs(table, stop.statistics)
    return {
        "differs_from_whole": round(run_policy(table, thresholds, everything, first).risk, 4),
        "whole_wire_bytes": round(sent_at_once(table, everything, len(table.lengths) - 1).wire_bytes, 1),
        **run_policy(table, thresholds, everything, first).as_dict(),
    }


def _table(
    answers: PrefixAnswers, asked: tuple[Asked, ...], stop: StopFile, questions: int, rng: np.random.Generator
) -> PassTable:
    by_frame = stop.score is not None and stop.score.by_frame
    return PassTable.of(answers, asked, stop.score).with_questions(questions, rng).judged(by_frame=by_frame)


def _risks(
    bench: CodecBench, calibration: TokenSet, stop: StopFile, promise: Promise, questions: int
) -> list[dict[str, Any]]:
    """For each risk whether it is proven, and how many pictures it needs."""
    frames = len(calibration.tokens)
    asked, answers = bench.measure("calibration", frames, fixed_lengths(bench.rungs()))
    table = _table(answers, asked, stop, questions, np.random.default_rng([bench.run.seed, 6]))
    table = table.rows(bench.spec.ladder)
    everything = np.ones(table.frames, dtype=np.bool_)

    def limits_at(risk: float, as_if: int | None = None) -> dict[AnswerType, float]:
        return calibrate_thresholds(table, everything, replace(promise, risk=risk), as_if=as_if)

    def proven(risk: float, as_if: int) -> bool:
        return any(limit < NEVER for limit in limits_at(risk, as_if).values())

    rows = []
    for risk in sorted({*RISKS, promise.risk}, reverse=True):
        fewest = fewest_of(replace(promise, risk=risk))
        estimate: int | None = frames
        limits = limits_at(risk)
        is_proven = any(limit < NEVER for limit in limits.values())
        if not is_proven:
            estimate = _estimated(partial(proven, risk), max(frames, fewest["calibration"]))
        rows.append(
            {
                "risk": risk,
                "early_answers_proven": is_proven,
                "early_share": round(run_policy(table, limits, everything).early_share, 4),
                "pictures_at_least": sum(fewest.values()),
                "calibration_pictures_at_least": fewest["calibration"],
                "calibration_pictures_estimated": estimate,
            }
        )
    return rows


def _estimated(proven: Callable[[int], bool], frames: int) -> int | None:
    """Pictures of a calibration like this one that would prove a risk; None if not even many times as many."""
    count = float(frames)
    while count <= _MOST_TIMES * frames:
        if proven(round(count)):
            return round(count)
        count *= _GROWTH
    return None
