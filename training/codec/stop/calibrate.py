"""The command that calibrates a codec's stop rule and chooses its ladder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.codec.spec import SPEC_FILE, STOP_FILE
from pipeline.codec.stop_file import StopFile, save_stop_file
from pipeline.codec.stop_score import StopScore
from pipeline.codec.stop_shift import ScoreQuantiles
from pipeline.codec.stop_statistics import StopStatistics
from pipeline.protocol.stop_rule import NEVER
from schemas.types import AnswerType
from training.codec.own_frames import OwnFrames
from training.codec.stop.bench import CodecBench
from training.codec.stop.learn_then_test import Promise, calibrate_thresholds, check_frames
from training.codec.stop.pass_table import PassTable
from training.codec.stop.policy import (
    at_once_length,
    best_fixed_length,
    choose_ladder,
    first_rungs,
    fixed_lengths,
    oracle_rungs,
    run_policy,
    sent_at_once,
    statistics_of,
)
from training.codec.stop.score_fit import fit_score, ranking
from training.run import RunSettings

QUESTIONS_A_FRAME: Final = 3
"""What each camera of the demo is asked."""
OTHER_RISKS: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Risks that thresholds are kept for besides: an operator may ask a question at another one. Each is a promise of its
own, on the ladder of the first."""
_OTHER_SETS: Final = 0.4
"""Frames of the sets for score and ladder, as a share of the calibration's."""


@dataclass(frozen=True, slots=True)
class StopCalibration:
    """What a stop rule is calibrated for, and on.

    Attributes:
        promise: What it has to keep.
        frames: Calibration frames, if they are drawn; the other two sets have two fifths as many each.
        questions_a_frame: How many questions are asked of a frame, drawn from those of the set; 0 asks all. The promise
            covers frames of so many, and of fewer. The score is fitted on all.
        own: Somebody's own images and questions instead of drawn frames; the sets are shares of them.
    """

    promise: Promise = field(default_factory=Promise)
    frames: int = 1_500
    questions_a_frame: int = QUESTIONS_A_FRAME
    own: OwnFrames | None = None


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the two sets for score and ladder gave.

    Attributes:
        frames: Of each of the two sets.
        score: Fitted on both.
        ladder: The cheapest one.
        considered: One row for every ladder tried, cheapest first.
        rankings: Area under the ROC curve of the answer's probability and of the score.
    """

    frames: int
    score: StopScore
    ladder: tuple[int, ...]
    considered: list[dict[str, Any]]
    rankings: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Calibrated:
    """Thresholds on a ladder, and what the edge's policy reads."""

    thresholds: dict[AnswerType, float]
    by_risk: dict[float, dict[AnswerType, float]]
    statistics: StopStatistics
    fixed: int
    at_once: int | None
    result: dict[str, Any]
    wire_bytes: dict[str, float]
    line: str


def calibrate_stop(
    vlm_dir: Path, codec_dir: Path, run: RunSettings, wanted: StopCalibration | None = None
) -> dict[str, Any]:
    """Fit the score, choose the ladder, find the thresholds, write ``stop.json`` and the ladder in ``codec.json``.

    Disjoint sets of frames: two for score and ladder, one for thresholds and statistics; a fourth, on which the promise
    is checked, belongs to `verify_stop`. The fingerprint of the codec does not change.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder; `stop.json` and `codec.json` are written anew.
        run: Cache, seed of the frames, threads, progress.
        wanted: What to promise, on which frames.

    Returns:
        The policy, what it does on the calibration frames, and the best ladders that were considered.

    Raises:
        ArtifactError: the codec or the VLM is not usable, or they do not belong together.
        ConfigError: so few frames cannot prove this risk.
    """
    wanted = wanted or StopCalibration()
    return calibrate_on(CodecBench.open(vlm_dir, codec_dir, run, wanted.own), wanted)


def calibrate_on(bench: CodecBench, wanted: StopCalibration) -> dict[str, Any]:
    """What `calibrate_stop` does, for a codec and sets of frames that are open already.

    Args:
        bench: Codec, VLM and sets of frames.
        wanted: What to promise; the frames are the bench's.

    Raises:
        ConfigError: so few frames cannot prove this risk.
    """
    promise, run = wanted.promise, bench.run
    frames = bench.count("calibration", wanted.frames)
    check_frames(frames, len(AnswerType) - 1, promise)
    rng = np.random.default_rng([run.seed, 6])
    choice = _choose(bench, replace(wanted, frames=frames), rng)
    name = bench.spec.name
    run.progress(f"{name}: area under the ROC curve {choice.rankings}, ladder {choice.ladder}")
    asked, answers = bench.measure("calibration", frames, fixed_lengths(bench.rungs()))
    single = PassTable.of(answers, asked, choice.score)
    measured = single.with_questions(wanted.questions_a_frame, rng).judged(by_frame=promise.by_frame)
    found = _calibrate(measured, choice.ladder, promise)
    source = _source(bench, wanted, choice, found, questions=len(measured.owner), frames=frames)
    stop = StopFile.calibrated(
        choice.ladder,
        found.thresholds,
        risk=promise.risk,
        score=choice.score,
        shift=ScoreQuantiles.of(_first_scores(single.rows(choice.ladder))),
        statistics=found.statistics,
        calibrated_on=source,
        by_risk=found.by_risk,
        at_once=found.at_once,
    )
    save_stop_file(bench.codec_dir, stop)
    bench.spec.model_copy(update={"ladder": choice.ladder, "base_latents": choice.ladder[0]}).save(bench.codec_dir)
    run.progress(f"{name}: ladder {choice.ladder}, {found.line}")
    run.progress(f"{bench.codec_dir / STOP_FILE} and {SPEC_FILE} written")
    return {
        "ladder": list(choice.ladder),
        "thresholds": _plain(found.thresholds),
        "provable": any(limit < NEVER for limit in found.thresholds.values()),
        "calibration": source,
        "best_fixed_latents": found.fixed,
        "at_once": found.at_once,
        "by_risk": {str(other): _plain(limits) for other, limits in found.by_risk.items()},
        "ladders_considered": choice.considered[:20],
    }


def _plain(limits: dict[AnswerType, float]) -> dict[str, float]:
    return {str(kind): round(limit, 6) for kind, limit in limits.items()}


def _choose(bench: CodecBench, wanted: StopCalibration, rng: np.random.Generator) -> _Choice:
    """Score and ladder, on two sets of their own."""
    promise, rungs = wanted.promise, bench.rungs()
    few = max(round(_OTHER_SETS * wanted.frames), 1)
    sets = [bench.measure(name, few, rungs) for name in ("score", "policy")]
    # Each set is scored by the model of the other, so that the ladder is chosen on the frames of both.
    halves = [fit_score([one], by_frame=promise.by_frame) for one in sets]
    single = PassTable.joined(
        [PassTable.of(answers, asked, score) for (asked, answers), score in zip(sets, reversed(halves), strict=True)]
    )
    plain = PassTable.joined([PassTable.of(answers, asked, None) for asked, answers in sets])
    table = single.with_questions(wanted.questions_a_frame, rng).judged(by_frame=promise.by_frame)
    everything = np.ones(table.frames, dtype=np.bool_)
    ladder, considered = choose_ladder(table, everything, promise, as_if=wanted.frames)
    agrees = ~single.wrong[:-1].reshape(-1)
    rankings = {
        name: round(ranking(of.scores[:-1].reshape(-1), agrees), 4)
        for name, of in (("answer_probability", plain), ("score", single))
    }
    return _Choice(few, fit_score(sets, by_frame=promise.by_frame), ladder, considered, rankings)


def _calibrate(measured: PassTable, ladder: tuple[int, ...], promise: Promise) -> _Calibrated:
    """Thresholds and statistics on one ladder, and what they do on the same frames."""
    table = measured.rows(ladder)
    everything = np.ones(table.frames, dtype=np.bool_)
    thresholds = calibrate_thresholds(table, everything, promise)
    statistics = statistics_of(table, thresholds, everything, by_frame=promise.by_frame)
    result = run_policy(table, thresholds, everything, first_rungs(table, statistics))
    fixed = best_fixed_length(measured, everything, promise)
    by_risk = {
        other: calibrate_thresholds(table, everything, replace(promise, risk=other))
        for other in OTHER_RISKS
        if other != promise.risk
    }
    wire_bytes = {
        "rule": result.wire_bytes,
        "whole": sent_at_once(table, everything, len(ladder) - 1).wire_bytes,
        "best_fixed": sent_at_once(measured, everything, measured.lengths.index(fixed)).wire_bytes,
        "oracle": sent_at_once(measured, everything, oracle_rungs(measured)).wire_bytes,
    }
    return _Calibrated(
        thresholds,
        {other: limits for other, limits in by_risk.items() if any(limit < NEVER for limit in limits.values())},
        statistics,
        fixed,
        at_once_length(measured, ladder, everything, promise),
        result.as_dict(),
        {name: round(value, 1) for name, value in wire_bytes.items()},
        str(result),
    )


def _source(
    bench: CodecBench, wanted: StopCalibration, choice: _Choice, found: _Calibrated, *, questions: int, frames: int
) -> dict[str, Any]:
    """What ``stop.json`` says about its calibration."""
    scope = "for each answer type" if wanted.promise.by_type else "over all questions"
    return {
        "frames": {
            "score": bench.count("score", choice.frames),
            "policy": bench.count("policy", choice.frames),
            "calibration": frames,
        },
        "questions": questions,
        "questions_a_frame": wanted.questions_a_frame,
        "domain": bench.domain,
        "seed": bench.run.seed,
        "delta": wanted.promise.delta,
        "guarantee": "Learn-then-Test, fixed sequence, p-values by betting, frames as samples, any safe pass",
        "scope": f"{scope}, on average over frames like these; not for every camera or question",
        "ranking": choice.rankings,
        "result": found.result,
        "wire_bytes": found.wire_bytes,
    }


def _first_scores(table: PassTable) -> dict[AnswerType, Sequence[float]]:
    """Scores of single answers at the shortest prefix: of each frame the first question of a type."""
    found: dict[AnswerType, dict[int, float]] = {kind: {} for kind in set(table.types)}
    for question, (frame, kind) in enumerate(zip(table.owner.tolist(), table.types, strict=True)):
        found[kind].setdefault(frame, float(table.scores[0, question]))
    return {kind: list(scores.values()) for kind, scores in found.items()}
