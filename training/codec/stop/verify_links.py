"""The prefix policy against its fixed baselines over links of many rates and round trips, all at the same promise."""

from __future__ import annotations

from collections.abc import Iterator
from operator import methodcaller
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.prefix_policy import Link
from training.codec.stop.learn_then_test import Promise, calibrate_thresholds
from training.codec.stop.pass_table import PassTable
from training.codec.stop.policy import (
    CalibratedPolicy,
    at_once_length,
    best_fixed_length,
    first_rungs,
    run_policy,
    sent_at_once,
    statistics_of,
)
from training.run import Progress, silent

RATES_KBPS: Final = (16, 64, 200, 1_000)
ROUND_TRIPS_S: Final = (0.03, 0.1, 0.6)
"""A wired or 5G link, a mobile one, a satellite."""


def counted(total: int, what: str, progress: Progress) -> Iterator[int]:
    """Numbers from 0 on, with a line of progress for every twentieth of them.

    Args:
        total: how many.
        what: what they number, for the line.
        progress: takes the line.
    """
    step = max(1, total // 20)
    for number in range(total):
        yield number
        if (number + 1) % step == 0 or number + 1 == total:
            progress(f"{what}: {number + 1} of {total}")


def half_of(frames: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random half of the frames [F]."""
    chosen = np.zeros(frames, dtype=np.bool_)
    chosen[rng.permutation(frames)[: frames // 2]] = True
    return chosen


def link_rows(
    measured: PassTable,
    ladder: tuple[int, ...],
    promise: Promise,
    resplits: int,
    rng: np.random.Generator,
    *,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Expected time to the safe answers of a frame, for first prefixes that are chosen to shorten it.

    Transfer at the link's rate and one round trip a message; no queue, no time to compute.

    Args:
        measured: Passes over all prefixes, scores of single answers.
        ladder: Prefix lengths of the passes, the last one whole.
        promise: What every way has to keep.
        resplits: How often the frames are split; each link sees the same splits.
        rng: Draws the halves.
        progress: Called with a line for every twentieth of the splits.

    Returns:
        A row for each link: mean seconds a frame of the policy, of the ladder from its base prefix, of the best fixed
        prefix and of the whole latent; the share of frames that it would send whole on the ladder; the share of splits
        in which it leaves the ladder for the one length that needs no further pass; and `against_best`: the policy's
        time over that of the better of the two fixed baselines.
    """
    measured = measured.judged(by_frame=promise.by_frame)
    table = measured.rows(ladder)
    links = [Link(rate * 125.0, round_trip_s) for rate in RATES_KBPS for round_trip_s in ROUND_TRIPS_S]
    seconds = np.zeros((len(links), 4))
    whole_share, at_once_share = np.zeros(len(links)), np.zeros(len(links))
    for _ in counted(resplits, "resplits over links", progress):
        chosen = half_of(table.frames, rng)
        thresholds = calibrate_thresholds(table, chosen, promise)
        statistics = statistics_of(table, thresholds, chosen, by_frame=promise.by_frame)
        fixed = best_fixed_length(measured, chosen, promise)
        length = at_once_length(measured, ladder, chosen, promise)
        at_once = None if length is None else measured.rows((length, ladder[-1]))
        baselines = (
            run_policy(table, thresholds, ~chosen),
            sent_at_once(measured, ~chosen, measured.lengths.index(fixed)),
            sent_at_once(table, ~chosen, len(ladder) - 1),
        )
        for row, link in enumerate(links):
            first = first_rungs(table, statistics, objective="delay", link=link)
            policy = CalibratedPolicy(table, thresholds, first, at_once)
            result, leaves = policy.run(~chosen, chosen, methodcaller("delay_s", link))
            at_once_share[row] += leaves
            seconds[row] += [way.delay_s(link) for way in (result, *baselines)]
            whole_share[row] += (first[~chosen] == len(ladder) - 1).mean()
    means = (seconds / resplits, whole_share / resplits, at_once_share / resplits)
    return [_link_row(link, *each) for link, *each in zip(links, *means, strict=True)]


def _link_row(link: Link, seconds: NDArray[np.float64], whole_share: float, at_once_share: float) -> dict[str, Any]:
    names = ("policy_s", "base_s", "best_fixed_s", "whole_s")
    return {
        "rate_kbps": round((link.bytes_per_s or 0) / 125),
        "round_trip_s": link.round_trip_s,
        **{name: round(float(value), 4) for name, value in zip(names, seconds, strict=True)},
        "sent_whole_share": round(float(whole_share), 3),
        "at_once_share": round(float(at_once_share), 3),
        "against_best": round(float(seconds[0] / min(seconds[2], seconds[3])), 4),
    }
