"""Which prefix of a frame the edge sends first: the one that is expected to cost least until every question is safe.

A short first message saves latents on frames that need no more, and costs a refinement, headers and a round trip, on
those that do. What decides is known at the edge before it sends: the coded size of every prefix of this frame, the
answer types of its questions, how often a pass over each rung was safe when the stop rule was calibrated
(:class:`~pipeline.codec.stop_statistics.StopStatistics`), and what this camera needed lately. Sending everything at
once is one of the outcomes. Pure: no clock, no I/O.

Risk does not depend on the choice: the stop rule counts every pass of its ladder as a chance to be wrong, so that its
promise holds wherever the passes begin. Beside the ladder the rule may know a length that keeps the promise whatever is
answered, `at_once`. A camera's frames go out so while that has cost less than the ladder lately, which is decided from
the frames before alone: each of the two ways keeps the promise, a choice by what a frame shows would not.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from pipeline.codec.latent import EncodedLatent
from pipeline.codec.stop_statistics import StopStatistics
from pipeline.codec.wire_bytes import open_wire_bytes, refine_wire_bytes
from schemas.types import AnswerType

Objective = Literal["bytes", "delay"]

_LEARNING_RATE: Final = 0.25
"""Step on a camera's log odds for one first pass; about ten passes move it from the fleet's average to its own."""
_KEPT: Final = 0.99
"""Share of a camera's deviation that one more frame leaves. A camera whose frames go whole shows no first passes any
more; it drifts back to the average and is tried again."""
_MAX_SHIFT: Final = 3.0
_FLOOR: Final = 0.001
"""Shares are held this far from 0 and 1: a calibration of some thousand passes knows no better."""
AT_ONCE: Final = -1
"""Rung of a first prefix that no pass is to follow."""
_MODE_FRAMES: Final = 16
"""Frames of a camera whose costs are compared before it leaves the ladder, and over about which they are averaged."""
MAX_FRAMES_REMEMBERED: Final = 4_096
"""First passes that are still awaited."""


@dataclass(frozen=True, slots=True)
class Link:
    """What the edge knows of its way to the pool.

    Attributes:
        bytes_per_s: rate of the uplink; None when it is not limited.
        round_trip_s: from the departure of a message to the worker's word on it.
    """

    bytes_per_s: float | None = None
    round_trip_s: float = 0.1


@dataclass(frozen=True, slots=True)
class PrefixChoice:
    """A first prefix.

    Attributes:
        rung: its place in the ladder, or `AT_ONCE`.
        latents: its length.
        wire_bytes: expected until every question is decided.
        delay_s: expected on the link until then; passes not counted.
        safe: for each question the chance that the first pass is safe.
    """

    rung: int
    latents: int
    wire_bytes: float
    delay_s: float
    safe: tuple[float, ...]


@dataclass(slots=True)
class _Mode:
    """What the ladder and the one prefix have cost a camera lately."""

    ladder: float = 0.0
    at_once: float = 0.0
    frames: int = 0

    def note(self, ladder: float, at_once: float) -> None:
        self.frames += 1
        step = 1 / min(self.frames, _MODE_FRAMES)
        self.ladder += step * (ladder - self.ladder)
        self.at_once += step * (at_once - self.at_once)


class PrefixPolicy:
    """Chooses first prefixes, and learns from first passes what each camera needs.

    Args:
        statistics: of the stop rule on its calibration frames; their ladder is the one of the passes.
        objective: what is minimised, expected wire bytes or expected time on the link.
        at_once: length that needs no pass to follow, see `StopRule`; None for none.
    """

    def __init__(
        self, statistics: StopStatistics, *, objective: Objective = "bytes", at_once: int | None = None
    ) -> None:
        self._ladder = statistics.ladder
        self._statistics = statistics
        self._objective = objective
        self._at_once = at_once
        self._modes: dict[str, _Mode] = {}
        self._shift: dict[str, float] = {}
        self._awaited: OrderedDict[tuple[str, object], tuple[int, float, float]] = OrderedDict()

    def choose(
        self,
        camera: str,
        size_bytes: Sequence[int],
        questions: Sequence[AnswerType],
        link: Link,
        *,
        whole_bytes: int | None = None,
        at_once_bytes: int | None = None,
    ) -> PrefixChoice:
        """The first prefix of a frame; of equals the longest, which needs the fewest rounds.

        Args:
            camera: its camera.
            size_bytes: coded size of this frame's prefix at each rung, the whole latent last.
            questions: answer type of each of its questions.
            link: what is known of the link.
            whole_bytes: size of the whole latent coded by itself, which tells how much there is to see; None: it is
                coded by itself.
            at_once_bytes: size of the prefix that needs no pass to follow; None leaves it out.
        """
        energy_bytes = size_bytes[-1] if whole_bytes is None else whole_bytes
        shift = self._shift.get(camera, 0.0)
        share = [[self._safe_share(kind, rung, energy_bytes, shift) for rung in self._rungs] for kind in questions]
        choices = [self._expect(rung, size_bytes, questions, share, link) for rung in self._rungs]
        best = min(reversed(choices), key=self._cost)
        if self._at_once is None or at_once_bytes is None or not all(map(self._statistics.knows, questions)):
            return best
        once_bytes = float(open_wire_bytes(at_once_bytes, len(share)))
        once = PrefixChoice(AT_ONCE, self._at_once, once_bytes, _delay_s(1.0, once_bytes, link), (1.0,) * len(share))
        mode = self._modes.setdefault(camera, _Mode())
        chosen = once if mode.frames >= _MODE_FRAMES and mode.at_once < mode.ladder else best
        mode.note(self._cost(best), self._cost(once))
        return chosen

    def _cost(self, choice: PrefixChoice) -> float:
        return choice.delay_s if self._objective == "delay" else choice.wire_bytes

    def choose_for(
        self,
        camera: str,
        latent: EncodedLatent,
        questions: Sequence[AnswerType],
        link: Link,
        *,
        given: EncodedLatent | None = None,
    ) -> PrefixChoice:
        """The first prefix of a latent, see `choose`.

        Args:
            camera: its camera.
            latent: coded by itself.
            questions: answer type of each of its questions.
            link: what is known of the link.
            given: the same latent as it is sent, if it is coded given a key frame.
        """
        by_itself = latent.prefix_bytes()
        # At least a byte of payload is sent.
        sent = np.maximum(by_itself if given is None else given.prefix_bytes(), 1).tolist()
        return self.choose(
            camera,
            [sent[length] for length in self._ladder],
            questions,
            link,
            whole_bytes=int(by_itself[-1]),
            at_once_bytes=None if self._at_once is None else sent[self._at_once],
        )

    def offered(self, camera: str, query_ids: Sequence[str], choice: PrefixChoice) -> None:
        """A frame goes out with this choice: its first passes will be compared with what was expected of them."""
        if camera in self._shift:
            self._shift[camera] *= _KEPT
        if choice.rung in (AT_ONCE, len(self._ladder) - 1):
            return
        # Answers that are judged together are one outcome.
        weight = 1 / len(query_ids) if self._statistics.by_frame and query_ids else 1.0
        for query_id, expected in zip(query_ids, choice.safe, strict=True):
            self._awaited[camera, query_id] = (choice.latents, expected, weight)
        while len(self._awaited) > MAX_FRAMES_REMEMBERED:
            self._awaited.popitem(last=False)

    def answered(self, camera: str, query_id: str, latents: int, *, safe: bool) -> None:
        """A worker answered from a prefix of so many latents; the first word on a query counts."""
        awaited = self._awaited.pop((camera, query_id), None)
        if awaited is None or awaited[0] != latents:
            return
        moved = self._shift.get(camera, 0.0) + _LEARNING_RATE * awaited[2] * (safe - awaited[1])
        self._shift[camera] = min(max(moved, -_MAX_SHIFT), _MAX_SHIFT)

    @property
    def _rungs(self) -> range:
        return range(len(self._ladder))

    def _safe_share(self, kind: AnswerType, rung: int, whole_bytes: int, shift: float) -> float:
        if rung == len(self._ladder) - 1:
            return 1.0
        share = min(max(self._statistics.share(kind, rung, whole_bytes), _FLOOR), 1 - _FLOOR)
        return 1 / (1 + math.exp(-math.log(share / (1 - share)) - shift))

    def _expect(
        self,
        first: int,
        size_bytes: Sequence[int],
        questions: Sequence[AnswerType],
        share: Sequence[Sequence[float]],
        link: Link,
    ) -> PrefixChoice:
        """Expected cost of a first prefix."""
        wire_bytes = float(open_wire_bytes(size_bytes[first], len(share)))
        rounds = 1.0
        decided = [0.0] * len(share)
        for rung in range(first, len(self._ladder) - 1):
            # A question is decided once any pass was safe; passes of one question rise and fall together.
            decided = [max(before, row[rung]) for before, row in zip(decided, share, strict=True)]
            refined = 1 - self._all_decided(questions, decided)
            # A chunk costs up to a byte more than the difference of two prefixes.
            more_bytes = max(size_bytes[rung + 1] - size_bytes[rung], 0) + 1
            wire_bytes += refined * refine_wire_bytes(more_bytes)
            rounds += refined
        safe = tuple(row[first] for row in share)
        return PrefixChoice(first, self._ladder[first], wire_bytes, _delay_s(rounds, wire_bytes, link), safe)

    def _all_decided(self, questions: Sequence[AnswerType], decided: Sequence[float]) -> float:
        """Chance that every question is decided.

        Questions that are judged one by one are taken as independent, which errs towards longer prefixes. Those that
        are judged together share their outcome; types that were not calibrated wait for the whole latent.
        """
        if not self._statistics.by_frame:
            return math.prod(decided)
        known = [chance for kind, chance in zip(questions, decided, strict=True) if self._statistics.knows(kind)]
        if len(known) < len(decided):
            return 0.0
        return sum(known) / len(known) if known else 1.0


def _delay_s(rounds: float, wire_bytes: float, link: Link) -> float:
    """Expected time on the link."""
    return rounds * link.round_trip_s + (0.0 if link.bytes_per_s is None else wire_bytes / link.bytes_per_s)
