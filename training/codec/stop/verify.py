"""Whether the stop rule's promise holds: calibrate on half of the frames, test on the other half, many times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.stop_file import load_stop_file
from schemas.types import AnswerType
from training.codec.own_frames import OwnFrames
from training.codec.stop.bench import CodecBench
from training.codec.stop.calibrate import QUESTIONS_A_FRAME
from training.codec.stop.learn_then_test import Promise, calibrate_thresholds, check_frames
from training.codec.stop.pass_table import PassTable
from training.codec.stop.policy import (
    CalibratedPolicy,
    at_once_length,
    best_fixed_length,
    first_rungs,
    fixed_lengths,
    oracle_rungs,
    run_policy,
    sent_at_once,
    statistics_of,
)
from training.codec.stop.verify_links import counted, half_of, link_rows
from training.run import Progress, RunSettings, silent

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


@dataclass(frozen=True, slots=True)
class StopVerification:
    """How a promise is checked.

    Attributes:
        promise: What has to be kept.
        frames: Held-out frames, if they are drawn.
        questions_a_frame: How many questions are asked of a frame; 0 asks all.
        resplits: How often the frames are split.
        own: Somebody's own images and questions instead of drawn frames; a share of them that `calibrate_stop` does not
            see is used.
    """

    promise: Promise = field(default_factory=Promise)
    frames: int = 2_000
    questions_a_frame: int = QUESTIONS_A_FRAME
    resplits: int = 100
    own: OwnFrames | None = None


def verify_stop(
    vlm_dir: Path, codec_dir: Path, run: RunSettings, wanted: StopVerification | None = None
) -> dict[str, Any]:
    """Resplit held-out frames again and again into calibration and test, with the codec's own ladder and score.

    The frames are the report's: neither codec, tables, score, ladder nor shipped thresholds have seen them. Each split
    is by frame, half and half. Nothing is written to the codec's folder.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder.
        run: Cache, seed of frames and splits, threads, progress.
        wanted: What is promised, on which frames, and how often they are split.

    Returns:
        See `resplit_results`, with the codec's name and ladder; the same in short for other numbers of questions a
        frame; and `links`, see `link_rows`.

    Raises:
        ArtifactError: the codec or the VLM is not usable, or they do not belong together.
        ConfigError: so few frames cannot prove this risk.
    """
    wanted = wanted or StopVerification()
    promise, own_count = wanted.promise, wanted.questions_a_frame
    bench = CodecBench.open(vlm_dir, codec_dir, run, wanted.own)
    frames = bench.count("report", wanted.frames)
    asked, answers = bench.measure("report", frames, fixed_lengths(bench.rungs()))
    check_frames(frames // 2, len({item.answer_type for item in asked}), promise)
    table = PassTable.of(answers, asked, load_stop_file(codec_dir).score)
    run.progress(f"{wanted.resplits} resplits of {frames} frames")
    ladder = bench.spec.ladder

    def drawn(count: int) -> PassTable:
        return table.with_questions(count, np.random.default_rng([run.seed, 6]))

    def results(count: int, times: int) -> dict[str, Any]:
        rng = np.random.default_rng([run.seed, 5])
        others = {_named(other): drawn(other) for other in COUNTS if other != count}
        return resplit_results(drawn(count), ladder, promise, times, rng, others=others, progress=run.progress)

    few = max(1, wanted.resplits // 5)
    rows = {_named(count): results(count, few) for count in COUNTS}
    links_rng = np.random.default_rng([run.seed, 7])
    few_links = max(1, wanted.resplits // 20)
    links = link_rows(drawn(own_count), ladder, promise, few_links, links_rng, progress=run.progress)
    return {
        "codec": codec_dir.name,
        "ladder": list(ladder),
        "by_type": promise.by_type,
        "domain": bench.domain,
        "judged": "frame" if promise.by_frame else "question",
        "frames": frames,
        "questions": len(drawn(own_count).owner),
        "questions_a_frame": own_count,
        **results(own_count, wanted.resplits),
        "by_questions_a_frame": {
            count: {"resplits": few, **{name: row[name] for name in _SHORT}} for count, row in rows.items()
        },
        "links": links,
    }


def _named(count: int) -> str:
    return str(count) if count else "all"


def resplit_results(
    measured: PassTable,
    ladder: tuple[int, ...],
    promise: Promise,
    resplits: int,
    rng: np.random.Generator,
    *,
    others: Mapping[str, PassTable] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Calibrate and test on random halves.

    Args:
        measured: Passes over all prefixes of the ladder, and at those that a fixed prefix may have.
        ladder: Prefix lengths of the passes, the last one whole.
        promise: What has to be kept.
        resplits: How often.
        rng: Draws the halves.
        others: The same frames with more or fewer questions: what the thresholds do there.
        progress: Called with a line for every twentieth of the splits.

    Returns:
        `realised`: mean risk on the test halves, `realised_ci95`: where 95 % of the splits lie, `resplits_above`:
        splits whose realised risk exceeds the accepted one, overall and for each answer type; mean wire bytes a frame
        of the rule with first prefixes chosen by frame, or with the one length that needs no further pass where that
        costs less on the calibration's half, of the rule with its base prefix for all, of the best fixed
        prefix that keeps the same promise (chosen on the same half), of the whole latent, and of the oracle: the
        shortest prefix from which on a frame's answers are settled, in one message. Bytes both ways, and those on
        the way up. `realised_with_questions`: mean risk of the same thresholds on `others`.
    """
    split = _Split.of(measured, ladder, promise, others or {})
    rows: dict[str, list[float]] = {}
    for _ in counted(resplits, f"resplits of {len(measured.owner)} questions", progress):
        for name, value in split.figures(half_of(split.table.frames, rng)).items():
            rows.setdefault(name, []).append(value)
    return {"risk": promise.risk, "delta": promise.delta, "resplits": resplits, **_summary(rows, split, promise.risk)}


@dataclass(frozen=True, slots=True)
class _Split:
    """What every split of the frames is measured with.

    Attributes:
        measured: Passes over all prefixes.
        ladder: Prefix lengths of the passes.
        promise: What has to be kept.
        table: Passes over the ladder.
        parts: The same for the questions of each answer type.
        others: The same with more or fewer questions.
        oracle: Rung of each frame from which on its answers are settled [F].
    """

    measured: PassTable
    ladder: tuple[int, ...]
    promise: Promise
    table: PassTable
    parts: dict[AnswerType, PassTable]
    others: dict[str, PassTable]
    oracle: NDArray[np.int64]

    @classmethod
    def of(
        cls, measured: PassTable, ladder: tuple[int, ...], promise: Promise, others: Mapping[str, PassTable]
    ) -> _Split:
        """Judge the passes as the promise has them."""
        measured = measured.judged(by_frame=promise.by_frame)
        table = measured.rows(ladder)
        return cls(
            measured,
            ladder,
            promise,
            table,
            {kind: table.of_type(kind) for kind in sorted(set(table.types))},
            {name: other.judged(by_frame=promise.by_frame).rows(ladder) for name, other in others.items()},
            oracle_rungs(measured),
        )

    def figures(self, chosen: NDArray[np.bool_]) -> dict[str, float]:
        """Calibrate on the chosen frames [F], test on the others."""
        measured, table, promise, test = self.measured, self.table, self.promise, ~chosen
        thresholds = calibrate_thresholds(table, chosen, promise)
        first = first_rungs(table, statistics_of(table, thresholds, chosen, by_frame=promise.by_frame))
        length = at_once_length(measured, self.ladder, chosen, promise)
        at_once = None if length is None else measured.rows((length, self.ladder[-1]))
        result, _ = CalibratedPolicy(table, thresholds, first, at_once).run(test, chosen, lambda way: way.wire_bytes)
        fixed = best_fixed_length(measured, chosen, promise)
        ways = {
            "mean": result,
            "base": run_policy(table, thresholds, test),
            "best_fixed": sent_at_once(measured, test, measured.lengths.index(fixed)),
            "whole": sent_at_once(table, test, len(self.ladder) - 1),
            "oracle": sent_at_once(measured, test, self.oracle),
        }
        return {
            "realised": result.risk,
            "early_share": result.early_share,
            "refined_share": result.refined_share,
            **{f"{name}_wire_bytes": way.wire_bytes for name, way in ways.items()},
            **{f"{name}_uplink_bytes": way.uplink_bytes for name, way in ways.items()},
            "best_fixed_latents": float(fixed),
            **{f"realised_{kind}": run_policy(part, thresholds, test, first).risk for kind, part in self.parts.items()},
            "realised_at_once": 0.0 if at_once is None else sent_at_once(at_once, test, 0).risk,
            **{
                f"realised_with_{name}": run_policy(other, thresholds, test).risk for name, other in self.others.items()
            },
        }


def _summary(rows: dict[str, list[float]], split: _Split, risk: float) -> dict[str, Any]:
    """Means over all splits, and how many of them broke the promise."""
    mean = {name: float(np.mean(values)) for name, values in rows.items()}

    def above(name: str) -> int:
        return int((np.array(rows[name]) > risk).sum())

    def ratio(ours: str, theirs: str) -> float:
        return round(mean[ours] / mean[theirs], 4)

    return {
        "realised": round(mean["realised"], 5),
        "realised_ci95": [round(float(value), 5) for value in np.percentile(rows["realised"], [2.5, 97.5])],
        "resplits_above": above("realised"),
        "resplits_above_by_type": {str(kind): above(f"realised_{kind}") for kind in split.parts},
        "realised_at_once": round(mean["realised_at_once"], 5),
        "resplits_above_at_once": above("realised_at_once"),
        "realised_with_questions": {name: round(mean[f"realised_with_{name}"], 5) for name in split.others},
        "early_share": round(mean["early_share"], 4),
        "refined_share": round(mean["refined_share"], 4),
        **{name: round(value, 1) for name, value in mean.items() if name.endswith(("_wire_bytes", "_uplink_bytes"))},
        "best_fixed_latents": sorted({int(value) for value in rows["best_fixed_latents"]}),
        "ratio_vs_best_fixed": ratio("mean_wire_bytes", "best_fixed_wire_bytes"),
        "ratio_vs_oracle": ratio("mean_wire_bytes", "oracle_wire_bytes"),
        "uplink_ratio_vs_best_fixed": ratio("mean_uplink_bytes", "best_fixed_uplink_bytes"),
        "uplink_ratio_vs_oracle": ratio("mean_uplink_bytes", "oracle_uplink_bytes"),
    }
