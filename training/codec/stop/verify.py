"""Whether the stop rule's promise holds: calibrate on half of the frames, test on the other half, many times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.codec.stop_file import load_stop_file
from training.codec.data import Progress
from training.codec.own_frames import OwnFrames
from training.codec.stop.bench import CodecBench
from training.codec.stop.calibrate import QUESTIONS_A_FRAME
from training.codec.stop.learn_then_test import calibrate_thresholds, check_frames
from training.codec.stop.look_table import LookTable
from training.codec.stop.policy import (
    at_once_length,
    best_fixed_length,
    first_rungs,
    fixed_lengths,
    oracle_rungs,
    run_policy,
    run_with_at_once,
    sent_at_once,
    statistics_of,
)
from training.codec.stop.verify_links import counted, half_of, link_rows, silent

COUNTS: Final = (1, QUESTIONS_A_FRAME, 0)
"""Questions a frame that are reported beside each other; 0 are all."""
_SHORT: Final = (
    "realised",
    "resplits_above",
    "realised_with_questions",
    "refined_share",
    "mean_wire_bytes",
    "best_fixed_wire_bytes",
    "whole_wire_bytes",
    "oracle_wire_bytes",
    "ratio_vs_best_fixed",
    "uplink_ratio_vs_best_fixed",
    "ratio_vs_oracle",
)


def verify_stop(
    vlm_dir: Path,
    codec_dir: Path,
    cache_dir: Path,
    *,
    risk: float = 0.02,
    delta: float = 0.05,
    by_type: bool = False,
    frames: int = 2_000,
    questions_a_frame: int = QUESTIONS_A_FRAME,
    resplits: int = 100,
    seed: int = 0,
    own: OwnFrames | None = None,
    threads: int = 2,
    progress: Progress = print,
) -> dict[str, Any]:
    """Resplit held-out frames again and again into calibration and test, with the codec's own ladder and score.

    The frames are the report's: neither codec, tables, score, ladder nor shipped thresholds have seen them. Each split
    is by frame, half and half. Nothing is written to the codec's folder.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder.
        cache_dir: For frames, tokens and answers.
        risk: Accepted share of early answers that differ from the whole latent's.
        delta: Accepted chance that a calibration breaks that promise.
        by_type: Promise it for each answer type.
        frames: Held-out frames, if they are drawn.
        questions_a_frame: How many questions are asked of a frame; 0 asks all.
        resplits: How often they are split.
        seed: Of frames and splits.
        own: Somebody's own images and questions instead of drawn frames; a share of them that `calibrate_stop` does not
            see is used.
        threads: CPU threads.
        progress: Called with a line of text now and then.

    Returns:
        See `resplit_results`, with the codec's name and ladder; the same in short for other numbers of questions a
        frame; and `links`, see `link_rows`.

    Raises:
        ArtifactError: the codec or the VLM is not usable, or they do not belong together.
        ConfigError: so few frames cannot prove this risk.
    """
    bench = CodecBench.open(vlm_dir, codec_dir, cache_dir, seed=seed, own=own, threads=threads, progress=progress)
    frames = bench.count("report", frames)
    asked, answers = bench.measure("report", frames, fixed_lengths(bench.rungs()))
    check_frames(frames // 2, len({item.answer_type for item in asked}) if by_type else 1, risk, delta)
    table = LookTable.of(answers, asked, load_stop_file(codec_dir).score)
    progress(f"{resplits} resplits of {frames} frames")
    ladder = bench.spec.ladder

    def drawn(count: int) -> LookTable:
        return table.with_questions(count, np.random.default_rng([seed, 6]))

    def results(count: int, times: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, 5])
        others = {_named(other): drawn(other) for other in COUNTS if other != count}
        return resplit_results(
            drawn(count), ladder, risk, delta, times, rng, by_type=by_type, others=others, progress=progress
        )

    few = max(1, resplits // 5)
    rows = {_named(count): results(count, few) for count in COUNTS}
    links_rng = np.random.default_rng([seed, 7])
    links = link_rows(
        drawn(questions_a_frame),
        ladder,
        risk,
        delta,
        max(1, resplits // 20),
        links_rng,
        by_type=by_type,
        progress=progress,
    )
    return {
        "codec": codec_dir.name,
        "ladder": list(ladder),
        "by_type": by_type,
        "domain": bench.domain,
        "judged": "question" if by_type else "frame",
        "frames": frames,
        "questions": len(drawn(questions_a_frame).owner),
        "questions_a_frame": questions_a_frame,
        **results(questions_a_frame, resplits),
        "by_questions_a_frame": {
            count: {"resplits": few, **{name: row[name] for name in _SHORT}} for count, row in rows.items()
        },
        "links": links,
    }


def _named(count: int) -> str:
    return str(count) if count else "all"


def resplit_results(
    measured: LookTable,
    ladder: tuple[int, ...],
    risk: float,
    delta: float,
    resplits: int,
    rng: np.random.Generator,
    *,
    by_type: bool,
    others: Mapping[str, LookTable] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Calibrate and test on random halves.

    Args:
        measured: Looks at all prefixes of the ladder, and at those that a fixed prefix may have.
        ladder: Prefix lengths of the looks, the last one whole.
        risk: The accepted risk.
        delta: Accepted chance of a broken promise.
        resplits: How often.
        rng: Draws the halves.
        by_type: Promise it for each answer type.
        others: The same frames with more or fewer questions: what the thresholds do there.
        progress: Called with a line for every twentieth of the splits.

    Returns:
        `realised`: mean risk on the test halves, `realised_ci95`: where 95 % of the splits lie, `resplits_above`:
        splits whose realised risk exceeds the accepted one, overall and for each answer type; mean wire bytes a frame
        of the rule with first prefixes chosen by frame, or with the one length that needs no further look where that
        costs less on the calibration's half, of the rule with its base prefix for all, of the best fixed
        prefix that keeps the same promise (chosen on the same half), of the whole latent, and of the oracle: the
        shortest prefix from which on a frame's answers are settled, in one message. Bytes both ways, and those on
        the way up. `realised_with_questions`: mean risk of the same thresholds on `others`.
    """
    by_frame = not by_type
    measured = measured.judged(by_frame=by_frame)
    table = measured.rows(ladder)
    parts = {kind: table.of_type(kind) for kind in sorted(set(table.types))}
    others = {name: other.judged(by_frame=by_frame).rows(ladder) for name, other in (others or {}).items()}
    oracle = oracle_rungs(measured)
    rows: dict[str, list[float]] = {}
    for _ in counted(resplits, f"resplits of {len(measured.owner)} questions", progress):
        chosen = half_of(table.frames, rng)
        test = ~chosen
        thresholds = calibrate_thresholds(table, chosen, risk, delta, by_type=by_type)
        first = first_rungs(table, statistics_of(table, thresholds, chosen, by_frame=by_frame))
        length = at_once_length(measured, ladder, chosen, risk, delta, by_type=by_type)
        at_once = None if length is None else measured.rows((length, ladder[-1]))
        result, _ = run_with_at_once(table, thresholds, test, first, at_once, chosen, lambda way: way.wire_bytes)
        fixed = best_fixed_length(measured, chosen, risk, delta, by_type=by_type)
        ways = {
            "mean": result,
            "base": run_policy(table, thresholds, test),
            "best_fixed": sent_at_once(measured, test, measured.lengths.index(fixed)),
            "whole": sent_at_once(table, test, len(ladder) - 1),
            "oracle": sent_at_once(measured, test, oracle),
        }
        figures = {
            "realised": result.risk,
            "early_share": result.early_share,
            "refined_share": result.refined_share,
            **{f"{name}_wire_bytes": way.wire_bytes for name, way in ways.items()},
            **{f"{name}_uplink_bytes": way.uplink_bytes for name, way in ways.items()},
            "best_fixed_latents": float(fixed),
            **{f"realised_{kind}": run_policy(part, thresholds, test, first).risk for kind, part in parts.items()},
            "realised_at_once": 0.0 if at_once is None else sent_at_once(at_once, test, 0).risk,
            **{f"realised_with_{name}": run_policy(other, thresholds, test).risk for name, other in others.items()},
        }
        for name, value in figures.items():
            rows.setdefault(name, []).append(value)
    mean = {name: float(np.mean(values)) for name, values in rows.items()}
    realised = np.array(rows["realised"])
    return {
        "risk": risk,
        "delta": delta,
        "realised": round(mean["realised"], 5),
        "realised_ci95": [round(float(value), 5) for value in np.percentile(realised, [2.5, 97.5])],
        "resplits": resplits,
        "resplits_above": int((realised > risk).sum()),
        "resplits_above_by_type": {str(kind): int((np.array(rows[f"realised_{kind}"]) > risk).sum()) for kind in parts},
        "realised_at_once": round(mean["realised_at_once"], 5),
        "resplits_above_at_once": int((np.array(rows["realised_at_once"]) > risk).sum()),
        "realised_with_questions": {name: round(mean[f"realised_with_{name}"], 5) for name in others},
        "early_share": round(mean["early_share"], 4),
        "refined_share": round(mean["refined_share"], 4),
        **{name: round(value, 1) for name, value in mean.items() if name.endswith(("_wire_bytes", "_uplink_bytes"))},
        "best_fixed_latents": sorted({int(value) for value in rows["best_fixed_latents"]}),
        "ratio_vs_best_fixed": round(mean["mean_wire_bytes"] / mean["best_fixed_wire_bytes"], 4),
        "ratio_vs_oracle": round(mean["mean_wire_bytes"] / mean["oracle_wire_bytes"], 4),
        "uplink_ratio_vs_best_fixed": round(mean["mean_uplink_bytes"] / mean["best_fixed_uplink_bytes"], 4),
        "uplink_ratio_vs_oracle": round(mean["mean_uplink_bytes"] / mean["oracle_uplink_bytes"], 4),
    }
