"""What a ladder, its thresholds and a choice of first prefixes do to frames, and the ladder that costs least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.prefix_policy import Link, Objective, PrefixPolicy
from pipeline.codec.stop_statistics import StopStatistics
from pipeline.codec.wire_bytes import open_uplink_bytes, open_wire_bytes, refine_uplink_bytes, refine_wire_bytes
from pipeline.protocol.stop_rule import NEVER
from schemas.types import AnswerType
from training.codec.stop.learn_then_test import Promise, betting_p_value, calibrate_thresholds
from training.codec.stop.pass_table import PassTable

_MAX_PASSES: Final = 4
_SIZE_BINS: Final = 5
_LINK: Final = Link()


@dataclass(frozen=True, slots=True)
class RunResult:
    """What happens to a set of frames.

    Attributes:
        risk: Share of answers that differ from the whole latent's, mean over frames.
        early_share: Share of questions answered before the last pass.
        refined_share: Share of frames that need a refinement, all their questions together.
        wire_bytes: Mean bytes a frame both ways, headers included.
        uplink_bytes: Those on the way up.
        payload_bytes: Mean latent bytes a frame.
        looks: Mean passes a frame.
        rounds: Mean refinements a frame.
    """

    risk: float
    early_share: float
    refined_share: float
    wire_bytes: float
    uplink_bytes: float
    payload_bytes: float
    looks: float
    rounds: float

    def delay_s(self, link: Link) -> float:
        """Mean time on a link from the departure of a frame to its last answer; the passes themselves not counted."""
        transfer_s = 0.0 if link.bytes_per_s is None else self.wire_bytes / link.bytes_per_s
        return self.looks * link.round_trip_s + transfer_s

    def as_dict(self) -> dict[str, float]:
        """Plain data, rounded."""
        return {name: round(float(getattr(self, name)), 4) for name in self.__slots__}


def run_policy(
    table: PassTable,
    thresholds: Mapping[AnswerType, float],
    frames: NDArray[np.bool_],
    first: NDArray[np.int64] | int = 0,
) -> RunResult:
    """Run the stop rule over measured passes.

    A frame is refined, a rung at a time, as long as one of its questions has no safe answer, as workers do it.

    Args:
        table: Passes over the rungs of the ladder, the whole latent last.
        thresholds: By answer type, for every pass before the last; a type that is missing waits for the whole.
        frames: Which frames to use [F].
        first: Rung of the first prefix, of each frame [F] or of all.
    """
    rungs, count = len(table.lengths), table.frames
    start = np.broadcast_to(np.asarray(first, dtype=np.int64), count)
    limits = np.array([thresholds.get(kind, NEVER) for kind in table.types])
    safe = table.scores >= limits
    safe[-1] = True
    safe &= np.arange(rungs)[:, None] >= start[table.owner]
    first_safe = safe.argmax(axis=0)  # first safe pass of each question
    wrong = table.wrong[first_safe, np.arange(len(table.owner))]
    last = start.copy()
    np.maximum.at(last, table.owner, first_safe)
    questions = np.bincount(table.owner, minlength=count)
    chosen = np.flatnonzero(frames & (questions > 0))
    sent = [
        _bytes_of(table.payload_bytes[:, frame].tolist(), int(start[frame]), int(last[frame]), int(questions[frame]))
        for frame in chosen.tolist()
    ]
    wire, uplink, payload = np.array(sent, dtype=np.float64).reshape(-1, 3).T
    used = frames[table.owner]
    by_frame = np.bincount(table.owner[used], weights=wrong[used], minlength=count)[chosen] / questions[chosen]
    rounds = (last - start)[chosen]
    return RunResult(
        risk=float(by_frame.mean()),
        early_share=float((first_safe[used] < rungs - 1).mean()),
        refined_share=float((rounds > 0).mean()),
        wire_bytes=float(wire.mean()),
        uplink_bytes=float(uplink.mean()),
        payload_bytes=float(payload.mean()),
        looks=float(rounds.mean() + 1),
        rounds=float(rounds.mean()),
    )


def _bytes_of(sizes: Sequence[int], start: int, last: int, questions: int) -> tuple[int, int, int]:
    """Wire bytes, those on the way up, and payload bytes of a frame.

    Args:
        sizes: Payload bytes of the prefix at each rung.
        start: Rung of the first prefix.
        last: Rung that it is refined to.
        questions: Asked of the frame.
    """
    wire = open_wire_bytes(sizes[start], questions)
    uplink = open_uplink_bytes(sizes[start], questions)
    payload = sizes[start]
    for rung in range(start + 1, last + 1):
        # A chunk costs up to a byte more than the difference of two prefixes.
        more = max(sizes[rung] - sizes[rung - 1], 0) + 1
        wire += refine_wire_bytes(more)
        uplink += refine_uplink_bytes(more)
        payload += more
    return wire, uplink, payload


def statistics_of(
    table: PassTable, thresholds: Mapping[AnswerType, float], frames: NDArray[np.bool_], *, by_frame: bool
) -> StopStatistics:
    """How often passes are safe, by answer type, rung and size of the frame in fifths: what the prefix policy reads."""
    whole = table.payload_bytes[-1]
    edges = sorted(set(np.quantile(whole[frames], np.arange(1, _SIZE_BINS) / _SIZE_BINS).round(1).tolist()))
    bins = np.searchsorted(np.array(edges), whole, side="right")
    used = frames[table.owner]
    share: dict[AnswerType, tuple[tuple[float, ...], ...]] = {}
    for kind in sorted(set(table.types)):
        chosen = used & np.array([item == kind for item in table.types], dtype=np.bool_)
        safe = table.scores[:, chosen] >= thresholds.get(kind, NEVER)
        safe[-1] = True
        mine = bins[table.owner[chosen]]
        share[kind] = tuple(
            tuple(
                # One pass of either outcome more, so that a bin of few frames says nothing extreme.
                round(float((row[mine == size].sum() + 1) / ((mine == size).sum() + 2)), 4) if rung < last else 1.0
                for size in range(len(edges) + 1)
            )
            for last in [len(table.lengths) - 1]
            for rung, row in enumerate(safe)
        )
    return StopStatistics(table.lengths, tuple(edges), share, by_frame)


def first_rungs(
    table: PassTable, statistics: StopStatistics, *, objective: Objective = "bytes", link: Link = _LINK
) -> NDArray[np.int64]:
    """Rung of the first prefix that the edge would choose for each frame [F], cameras being all alike."""
    policy = PrefixPolicy(statistics, objective=objective)
    asked: list[list[AnswerType]] = [[] for _ in range(table.frames)]
    for frame, kind in zip(table.owner.tolist(), table.types, strict=True):
        asked[frame].append(kind)
    return np.array(
        [
            policy.choose("", table.payload_bytes[:, frame].tolist(), kinds, link).rung if kinds else 0
            for frame, kinds in enumerate(asked)
        ],
        dtype=np.int64,
    )


def choose_ladder(
    table: PassTable, frames: NDArray[np.bool_], promise: Promise, *, as_if: int | None = None
) -> tuple[tuple[int, ...], list[dict[str, Any]]]:
    """The ladder of two to four passes that needs the fewest wire bytes, first prefixes chosen for each frame.

    Args:
        table: Passes over candidate prefixes, the whole latent last.
        frames: Which frames to use [F].
        promise: What has to be kept.
        as_if: Frames of the calibration that will follow.

    Returns:
        The ladder, and one row for every ladder tried, cheapest first.
    """
    *shorter, whole = table.lengths
    rows: list[dict[str, Any]] = []
    for count in range(1, min(_MAX_PASSES, len(table.lengths))):
        for some in combinations(shorter, count):
            part = table.rows((*some, whole))
            thresholds = calibrate_thresholds(part, frames, promise, as_if=as_if)
            first = first_rungs(part, statistics_of(part, thresholds, frames, by_frame=promise.by_frame))
            result = run_policy(part, thresholds, frames, first)
            base = run_policy(part, thresholds, frames)
            row = {"ladder": [*some, whole], **result.as_dict(), "base_wire_bytes": round(base.wire_bytes, 1)}
            rows.append(row)
    # Where everything goes whole all ladders cost the same; then the one that is best without a choice by frame.
    rows.sort(key=lambda row: (round(float(row["wire_bytes"])), row["base_wire_bytes"], len(row["ladder"])))
    return tuple(rows[0]["ladder"]), rows


def fixed_lengths(rungs: Sequence[int]) -> tuple[int, ...]:
    """Lengths that a fixed prefix may have: those of the ladders, and one between each two of the four longest."""
    longest = rungs[-4:]
    between = [(low + high) // 2 for low, high in pairwise(longest) if high - low > 1]
    return tuple(sorted({*rungs, *between}))


def best_fixed_length(table: PassTable, frames: NDArray[np.bool_], promise: Promise) -> int:
    """The shortest prefix that, sent to every frame and never refined, is proven to keep the same promise.

    Args:
        table: Passes over candidate prefixes, the whole latent last.
        frames: Which frames to use [F].
        promise: What has to be kept.
    """
    parts = [table.of_type(kind) for kind in sorted(set(table.types))] if promise.by_type else [table]
    level = promise.delta / len(parts)
    # From the longest down: the first that cannot be proven ends the walk, as for thresholds.
    accepted = table.lengths[-1]
    for row in range(len(table.lengths) - 2, -1, -1):
        for part in parts:
            used = frames[part.owner]
            _, members, sizes = np.unique(part.owner[used], return_inverse=True, return_counts=True)
            losses = np.bincount(members, weights=part.wrong[row, used]) / sizes
            if betting_p_value(losses, promise.risk, level) > level:
                return accepted
        accepted = table.lengths[row]
    return accepted


def at_once_length(
    table: PassTable, ladder: tuple[int, ...], frames: NDArray[np.bool_], promise: Promise
) -> int | None:
    """The shortest length off the ladder that keeps the promise whatever is answered, see `StopRule`; None for none.

    Args:
        table: Passes over candidate prefixes, the whole latent last.
        ladder: Prefix lengths of the passes.
        frames: Which frames to use [F].
        promise: What has to be kept.
    """
    shortest = best_fixed_length(table, frames, promise)
    # Longer ones were proven on the way down.
    return min((length for length in table.lengths if length >= shortest and length not in ladder), default=None)


@dataclass(frozen=True, slots=True)
class CalibratedPolicy:
    """A ladder with thresholds and first prefixes, and the one length off the ladder, as an edge has them.

    Attributes:
        table: Passes over the rungs of the ladder, see `run_policy`.
        thresholds: By answer type.
        first: Rung of the first prefix of each frame [F].
        at_once: Passes over the length of `at_once_length`, and at the whole latent; None where there is no such
            length.
    """

    table: PassTable
    thresholds: Mapping[AnswerType, float]
    first: NDArray[np.int64]
    at_once: PassTable | None

    def run(
        self, frames: NDArray[np.bool_], earlier: NDArray[np.bool_], cost: Callable[[RunResult], float]
    ) -> tuple[RunResult, bool]:
        """Run the stop rule as edges use it: off the ladder where that has cost less on earlier frames.

        Args:
            frames: Which frames to use [F].
            earlier: Frames that the way is decided from [F].
            cost: What is saved.

        Returns:
            What happens to the frames, and whether they leave the ladder.
        """
        if self.at_once is not None:
            on_ladder = run_policy(self.table, self.thresholds, earlier, self.first)
            if cost(sent_at_once(self.at_once, earlier, 0)) < cost(on_ladder):
                return sent_at_once(self.at_once, frames, 0), True
        return run_policy(self.table, self.thresholds, frames, self.first), False


def oracle_rungs(table: PassTable) -> NDArray[np.int64]:
    """For each frame the rung from which on all its questions have the whole latent's answers [F].

    The best that any rule could do.
    """
    settled = np.logical_and.accumulate(~table.wrong[::-1], axis=0)[::-1]
    first = settled.argmax(axis=0)
    rungs = np.zeros(table.frames, dtype=np.int64)
    np.maximum.at(rungs, table.owner, first)
    return rungs


def sent_at_once(table: PassTable, frames: NDArray[np.bool_], rungs: NDArray[np.int64] | int) -> RunResult:
    """What happens to frames that go out in one message each, at a rung of each frame [F] or of all."""
    return run_policy(table, dict.fromkeys(table.types, 0.0), frames, rungs)
