"""The command that calibrates a codec's stop rule and chooses its ladder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.codec.stop_file import StopFile, save_stop_file
from pipeline.codec.stop_shift import ScoreQuantiles
from pipeline.protocol.stop_rule import NEVER
from schemas.types import AnswerType
from training.codec.data import Progress
from training.codec.own_frames import OwnFrames
from training.codec.stop.bench import CodecBench
from training.codec.stop.learn_then_test import calibrate_thresholds, check_frames
from training.codec.stop.look_table import LookTable
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

QUESTIONS_A_FRAME: Final = 3
"""What each camera of the demo is asked."""
OTHER_RISKS: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Risks that thresholds are kept for besides: an operator may ask a question at another one. Each is a promise of its
own, on the ladder of the first."""
_OTHER_SETS: Final = 0.4
"""Frames of the sets for score and ladder, as a share of the calibration's."""


def calibrate_stop(
    vlm_dir: Path,
    codec_dir: Path,
    cache_dir: Path,
    *,
    risk: float = 0.02,
    delta: float = 0.05,
    by_type: bool = False,
    frames: int = 1_500,
    questions_a_frame: int = QUESTIONS_A_FRAME,
    seed: int = 0,
    own: OwnFrames | None = None,
    threads: int = 2,
    progress: Progress = print,
) -> dict[str, Any]:
    """Fit the score, choose the ladder, find the thresholds, write ``stop.json`` and the ladder in ``codec.json``.

    Disjoint sets of frames: two for score and ladder, one for thresholds and statistics; a fourth, on which the promise
    is checked, belongs to `verify_stop`. The fingerprint of the codec does not change.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder; `stop.json` and `codec.json` are written anew.
        cache_dir: For frames, tokens and answers.
        risk: Accepted share of early answers that differ from the whole latent's.
        delta: Accepted chance that the thresholds break that promise on frames like these.
        by_type: Promise it for each answer type, not only on average over all questions.
        frames: Calibration frames, if they are drawn; the other two sets have two fifths as many each.
        questions_a_frame: How many questions are asked of a frame, drawn from those of the set; 0 asks all. The promise
            covers frames of so many, and of fewer. The score is fitted on all.
        seed: Of the frames.
        own: Somebody's own images and questions instead of drawn frames; the sets are shares of them.
        threads: CPU threads.
        progress: Called with a line of text now and then.

    Returns:
        The policy, what it does on the calibration frames, and the best ladders that were considered.

    Raises:
        ArtifactError: the codec or the VLM is not usable, or they do not belong together.
        ConfigError: so few frames cannot prove this risk.
    """
    bench = CodecBench.open(vlm_dir, codec_dir, cache_dir, seed=seed, own=own, threads=threads, progress=progress)
    frames = bench.count("calibration", frames)
    check_frames(frames, len(AnswerType) - 1 if by_type else 1, risk, delta)
    rungs = bench.rungs()
    few = max(round(_OTHER_SETS * frames), 1)
    by_frame = not by_type
    sets = [bench.measure(name, few, rungs) for name in ("score", "policy")]
    # Each set is scored by the model of the other, so that the ladder is chosen on the frames of both.
    halves = [fit_score([one], by_frame=by_frame) for one in sets]
    single = LookTable.joined(
        [LookTable.of(answers, asked, score) for (asked, answers), score in zip(sets, reversed(halves), strict=True)]
    )
    rng = np.random.default_rng([seed, 6])
    plain = LookTable.joined([LookTable.of(answers, asked, None) for asked, answers in sets])
    table = single.with_questions(questions_a_frame, rng).judged(by_frame=by_frame)
    everything = np.ones(table.frames, dtype=np.bool_)
    ladder, considered = choose_ladder(table, everything, risk, delta, by_type=by_type, as_if=frames)
    agrees = ~single.wrong[:-1].reshape(-1)
    rankings = {
        name: round(ranking(of.scores[:-1].reshape(-1), agrees), 4)
        for name, of in (("answer_probability", plain), ("score", single))
    }
    progress(f"{bench.spec.name}: area under the ROC curve {rankings}, ladder {ladder}")
    score = fit_score(sets, by_frame=by_frame)

    asked, answers = bench.measure("calibration", frames, fixed_lengths(rungs))
    single = LookTable.of(answers, asked, score)
    measured = single.with_questions(questions_a_frame, rng).judged(by_frame=by_frame)
    table = measured.rows(ladder)
    everything = np.ones(frames, dtype=np.bool_)
    thresholds = calibrate_thresholds(table, everything, risk, delta, by_type=by_type)
    statistics = statistics_of(table, thresholds, everything, by_frame=by_frame)
    result = run_policy(table, thresholds, everything, first_rungs(table, statistics))
    fixed = best_fixed_length(measured, everything, risk, delta, by_type=by_type)
    at_once = at_once_length(measured, ladder, everything, risk, delta, by_type=by_type)
    by_risk = {
        other: calibrate_thresholds(table, everything, other, delta, by_type=by_type)
        for other in OTHER_RISKS
        if other != risk
    }
    by_risk = {other: limits for other, limits in by_risk.items() if any(limit < NEVER for limit in limits.values())}
    source: dict[str, Any] = {
        "frames": {"score": bench.count("score", few), "policy": bench.count("policy", few), "calibration": frames},
        "questions": len(measured.owner),
        "questions_a_frame": questions_a_frame,
        "domain": bench.domain,
        "seed": seed,
        "delta": delta,
        "guarantee": "Learn-then-Test, fixed sequence, p-values by betting, frames as samples, any safe look",
        "scope": f"{'for each answer type' if by_type else 'over all questions'}, on average over frames like these; "
        "not for every camera or question",
        "ranking": rankings,
        "result": result.as_dict(),
        "wire_bytes": {
            "rule": round(result.wire_bytes, 1),
            "whole": round(sent_at_once(table, everything, len(ladder) - 1).wire_bytes, 1),
            "best_fixed": round(sent_at_once(measured, everything, measured.lengths.index(fixed)).wire_bytes, 1),
            "oracle": round(sent_at_once(measured, everything, oracle_rungs(measured)).wire_bytes, 1),
        },
    }
    stop = StopFile.calibrated(
        ladder,
        thresholds,
        risk=risk,
        score=score,
        shift=ScoreQuantiles.of(_first_scores(single.rows(ladder))),
        statistics=statistics,
        calibrated_on=source,
        by_risk=by_risk,
        at_once=at_once,
    )
    save_stop_file(codec_dir, stop)
    bench.spec.model_copy(update={"ladder": ladder, "base_latents": ladder[0]}).save(codec_dir)
    progress(f"{bench.spec.name}: ladder {ladder}, {result}")
    return {
        "ladder": list(ladder),
        "thresholds": {str(kind): round(limit, 6) for kind, limit in thresholds.items()},
        "provable": any(limit < NEVER for limit in thresholds.values()),
        "calibration": source,
        "best_fixed_latents": fixed,
        "at_once": at_once,
        "by_risk": {
            str(other): {str(kind): round(limit, 6) for kind, limit in limits.items()}
            for other, limits in by_risk.items()
        },
        "ladders_considered": considered[:20],
    }


def _first_scores(table: LookTable) -> dict[AnswerType, Sequence[float]]:
    """Scores of single answers at the shortest prefix: of each frame the first question of a type."""
    found: dict[AnswerType, dict[int, float]] = {kind: {} for kind in set(table.types)}
    for question, (frame, kind) in enumerate(zip(table.owner.tolist(), table.types, strict=True)):
        found[kind].setdefault(frame, float(table.scores[0, question]))
    return {kind: list(scores.values()) for kind, scores in found.items()}
