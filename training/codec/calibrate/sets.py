"""Divides pictures into disjoint sets: what is learned, counted, calibrated and reported sees no picture twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from schemas.errors import ConfigError, TooFewPicturesError
from training.codec.stop.learn_then_test import Promise, frames_needed


@dataclass(frozen=True, slots=True)
class SetPlan:
    """How pictures are divided.

    Attributes:
        shares: Of each set, in the order of the sets; of the pictures beyond the fewest. Sets that questions are asked
            about come last.
        fewest: Below these figures say nothing; the calibration's own number follows from the risk.
        most: Of some sets; what is beyond goes to the first set, unless the risk asks for it.
    """

    shares: Mapping[str, float]
    fewest: Mapping[str, int]
    most: Mapping[str, int] = field(default_factory=dict)

    @property
    def asked(self) -> tuple[str, ...]:
        """Sets that questions are asked about."""
        return tuple(name for name in self.shares if name not in _NOT_ASKED)


CLOSED_FORM: Final = SetPlan(
    {"train": 0.3, "tables": 0.1, "score": 0.1, "policy": 0.1, "calibration": 0.25, "report": 0.15},
    {"train": 16, "tables": 8, "score": 6, "policy": 6, "report": 8},
)
"""For a transform that some dozens of pictures fit."""
_NOT_ASKED: Final = frozenset({"train", "tables"})
"""``score``, ``policy`` and ``calibration`` together calibrate the stop rule."""
PURPOSES: Final = {
    "train": "the transform",
    "tables": "the frequency tables",
    "selection": "the end of the training",
    "score": "the stop rule's score",
    "policy": "its ladder",
    "calibration": "its thresholds",
    "report": "the report",
}
_GAP_FRAMES: Final = 2
"""Of a video, left out between two sets: they would look like both."""


@dataclass(frozen=True, slots=True)
class PictureSets:
    """Which rows belong to which set.

    Attributes:
        order: Row of each picture in the order of the sets; all of a set follow one another.
        ranges: First place of each set in that order, and one past its last.
    """

    order: tuple[int, ...]
    ranges: Mapping[str, tuple[int, int]]

    def rows(self, name: str) -> tuple[int, ...]:
        """Rows of a set."""
        start, stop = self.ranges[name]
        return self.order[start:stop]

    @property
    def sizes(self) -> dict[str, int]:
        """Pictures of each set."""
        return {name: stop - start for name, (start, stop) in self.ranges.items()}


def fewest_of(promise: Promise, plan: SetPlan = CLOSED_FORM) -> dict[str, int]:
    """Fewest pictures of each set that can prove a promise, by name of the set.

    Args:
        promise: What has to be kept.
        plan: The sets.

    Raises:
        ConfigError: a risk that no number of pictures can prove.
    """
    needed = frames_needed(promise.risk, promise.delta)
    return {name: plan.fewest.get(name, needed) for name in plan.shares}


def order_of(count: int, *, video: bool, seed: int, asked: Sequence[int] | None = None) -> tuple[int, ...]:
    """Rows in the order in which sets take them; it does not depend on the sets' sizes.

    Args:
        count: Pictures.
        video: They stay in the order of time, so that each set is one stretch of it.
        seed: Of the shuffle.
        asked: Rows with questions, which come last; None if there are questions about all.
    """
    if video:
        return tuple(range(count))
    shuffled = np.random.default_rng([seed, 8]).permutation(count).tolist()
    if asked is None:
        return tuple(shuffled)
    known = set(asked)
    return (*(row for row in shuffled if row not in known), *(row for row in shuffled if row in known))


def divide(
    order: Sequence[int],
    promise: Promise,
    where: str,
    *,
    video: bool,
    asked: int | None = None,
    plan: SetPlan = CLOSED_FORM,
) -> PictureSets:
    """Give each set its part of the order.

    Args:
        order: From `order_of`.
        promise: What the calibration has to prove.
        where: The pictures, or the file with the questions, for errors.
        video: Leave some frames out between two sets.
        asked: Rows with questions, which are the last ones; None if there are questions about all.
        plan: The sets.

    Raises:
        TooFewPicturesError: a set would have less than it needs.
        ConfigError: a risk that no number of pictures can prove.
    """
    fewest = fewest_of(promise, plan)
    gap = _GAP_FRAMES if video else 0
    gaps = gap * (len(fewest) - 1)
    usable = len(order) - gaps
    if usable < sum(fewest.values()):
        wanted = {PURPOSES[name]: count for name, count in fewest.items()}
        raise TooFewPicturesError(where, len(order), wanted | ({"gaps in time": gaps} if gaps else {}))
    sizes = _allocate(usable, fewest, plan)
    if asked is not None and asked < sum(sizes[name] for name in plan.asked):
        mine = {name: fewest[name] for name in plan.asked}
        if asked < sum(mine.values()):
            wanted = {PURPOSES[name]: count for name, count in mine.items()}
            raise TooFewPicturesError(f"{where}, with questions", asked, wanted)
        others = {name: count for name, count in fewest.items() if name not in mine}
        sizes = {**_allocate(usable - asked, others, plan), **_allocate(asked, mine, plan)}
    ranges, start = {}, 0
    for name in plan.shares:
        ranges[name] = (start, start + sizes[name])
        start += sizes[name] + gap
    return PictureSets(tuple(order), ranges)


def check_size_of(count: int, promise: Promise, where: str, plan: SetPlan = CLOSED_FORM) -> None:
    """Refuse a folder that has too few files before any is read.

    Raises:
        TooFewPicturesError: so few cannot do.
    """
    fewest = fewest_of(promise, plan)
    if count < sum(fewest.values()):
        raise TooFewPicturesError(where, count, {PURPOSES[name]: needed for name, needed in fewest.items()})


def _allocate(count: int, fewest: Mapping[str, int], plan: SetPlan) -> dict[str, int]:
    """Each set its fewest, and its share of what is left; the first one what is over the most of others."""
    left = count - sum(fewest.values())
    if left < 0:
        raise ConfigError("--images", f"{count} pictures are not {sum(fewest.values())}")
    shares = np.array([plan.shares[name] for name in fewest])
    edges = np.rint(np.cumsum(shares / shares.sum()) * left).astype(int)
    more = np.diff(edges, prepend=0).tolist()
    sizes = {name: least + extra for (name, least), extra in zip(fewest.items(), more, strict=True)}
    first = next(iter(sizes))
    for name, most in plan.most.items():
        if name in sizes and (over := sizes[name] - max(most, fewest[name])) > 0:
            sizes[name] -= over
            sizes[first] += over
    return sizes
