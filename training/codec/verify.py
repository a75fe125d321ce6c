"""Whether the stop rule's promise holds: calibrate on half of the frames, test on the other half, many times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.codec.stop_file import load_stop_file
from training.codec.bench import CodecBench
from training.codec.data import Progress
from training.codec.stop_ltt import calibrate_thresholds, check_frames
from training.codec.stop_policy import (
    best_fixed_length,
    first_rungs,
    oracle_rungs,
    run_policy,
    sent_at_once,
    statistics_of,
)
from training.codec.stop_table import LookTable


def verify_stop(
    vlm_dir: Path,
    codec_dir: Path,
    cache_dir: Path,
    *,
    risk: float = 0.02,
    delta: float = 0.1,
    by_type: bool = False,
    frames: int = 2_000,
    resplits: int = 100,
    seed: int = 0,
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
        frames: Held-out frames.
        resplits: How often they are split.
        seed: Of frames and splits.
        threads: CPU threads.
        progress: Called with a line of text now and then.

    Returns:
        See `resplit_results`, with the codec's name and ladder.

    Raises:
        ArtifactError: the codec or the VLM is not usable, or they do not belong together.
        ConfigError: so few frames cannot prove this risk.
    """
    bench = CodecBench.open(vlm_dir, codec_dir, cache_dir, seed=seed, threads=threads, progress=progress)
    asked, answers = bench.measure("report", frames, bench.rungs())
    table = LookTable.of(answers, asked, load_stop_file(codec_dir).score)
    check_frames(frames // 2, len(set(table.types)) if by_type else 1, risk, delta)
    progress(f"{resplits} resplits of {frames} frames")
    rng = np.random.default_rng([seed, 5])
    ladder = bench.spec.ladder
    result = resplit_results(table, ladder, risk, delta, resplits, rng, by_type=by_type)
    return {
        "codec": codec_dir.name,
        "ladder": list(ladder),
        "by_type": by_type,
        "frames": frames,
        "questions": len(asked),
        **result,
    }


def resplit_results(
    measured: LookTable,
    ladder: tuple[int, ...],
    risk: float,
    delta: float,
    resplits: int,
    rng: np.random.Generator,
    *,
    by_type: bool,
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

    Returns:
        `realised`: mean risk on the test halves, `realised_ci95`: where 95 % of the splits lie, `resplits_above`:
        splits whose realised risk exceeds the accepted one, overall and for each answer type; mean wire bytes a frame
        of the rule with first prefixes chosen by frame, of the rule with its base prefix for all, of the best fixed
        prefix that keeps the same promise (chosen on the same half), of the whole latent, and of the oracle: the
        shortest prefix from which on a frame's answers are settled, in one message.
    """
    table = measured.rows(ladder)
    parts = {kind: table.of_type(kind) for kind in sorted(set(table.types))}
    oracle = oracle_rungs(measured)
    rows: dict[str, list[float]] = {}
    for _ in range(resplits):
        chosen = np.zeros(table.frames, dtype=np.bool_)
        chosen[rng.permutation(table.frames)[: table.frames // 2]] = True
        test = ~chosen
        thresholds = calibrate_thresholds(table, chosen, risk, delta, by_type=by_type)
        first = first_rungs(table, statistics_of(table, thresholds, chosen))
        result = run_policy(table, thresholds, test, first)
        fixed = best_fixed_length(measured, chosen, risk, delta, by_type=by_type)
        figures = {
            "realised": result.risk,
            "early_share": result.early_share,
            "refined_share": result.refined_share,
            "mean_wire_bytes": result.wire_bytes,
            "base_wire_bytes": run_policy(table, thresholds, test).wire_bytes,
            "whole_wire_bytes": sent_at_once(table, test, len(ladder) - 1),
            "oracle_wire_bytes": sent_at_once(measured, test, oracle),
            "best_fixed_wire_bytes": sent_at_once(measured, test, measured.lengths.index(fixed)),
            "best_fixed_latents": float(fixed),
            **{f"realised_{kind}": run_policy(part, thresholds, test, first).risk for kind, part in parts.items()},
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
        "early_share": round(mean["early_share"], 4),
        "refined_share": round(mean["refined_share"], 4),
        **{
            name: round(mean[name], 1)
            for name in (
                "mean_wire_bytes",
                "base_wire_bytes",
                "best_fixed_wire_bytes",
                "whole_wire_bytes",
                "oracle_wire_bytes",
            )
        },
        "best_fixed_latents": sorted({int(value) for value in rows["best_fixed_latents"]}),
        "ratio_vs_best_fixed": round(mean["mean_wire_bytes"] / mean["best_fixed_wire_bytes"], 4),
        "ratio_vs_oracle": round(mean["mean_wire_bytes"] / mean["oracle_wire_bytes"], 4),
    }
