"""What a worker does first, and what it does not do, when there is more work than time.

A batch is bounded in work, the tokens that the model reads and writes, and in frames. The rule, in order:

1. Ad-hoc questions go first, the earliest deadline first; a batch shrinks when a full one would end too late for them.
2. Standing questions fill the batch, the earliest deadline first, as long as they can still be in time at the measured
   throughput. Plain earliest-deadline-first would serve each frame at the last moment, or just after it, once it is
   behind.
3. While others wait, one frame takes a quarter of a batch at most, whoever asks; its other questions come in later
   passes over the same prefix, or in what the others have left of the batch.
4. A standing frame that cannot be in time any more is dropped, or finalised with the answer that it has.
5. A standing frame whose first pass would begin too late is not admitted. The rest of its time is for refines.
6. A full worker makes room for an ad-hoc question: a parked standing frame has to go, of a camera that holds no less.
7. A full worker makes room for a camera that holds few frames: one of the camera that holds most has to go.

The model never idles for it: when nothing can be in time, one frame is read all the same, and its batch corrects
the throughput.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery, WorkerStage
from pipeline.protocol.worker_throughput import ThroughputEstimate

_FRAME_SHARE = 0.25
"""Of a batch, what one frame takes at most while others wait."""


@dataclass(slots=True)
class PlannedPass:
    """One pass over one frame: some of its queries, or all.

    Attributes:
        frame: the frame.
        query_ids: what is asked of it, at least one query.
        rest: what is left to ask of its present prefix, in order.
        work: of this pass.
    """

    frame: WorkerFrame
    query_ids: list[str]
    rest: list[tuple[str, WorkerQuery]]
    work: int

    @classmethod
    def first(cls, frame: WorkerFrame, frame_work: int) -> Self:
        """A frame with its most urgent query."""
        (query_id, query), *rest = frame.to_ask()
        return cls(frame, [query_id], rest, frame_work + (query.work or 0))

    @classmethod
    def whole(cls, frame: WorkerFrame, frame_work: int) -> Self:
        """A frame with all its queries."""
        made = cls.first(frame, frame_work)
        made.grow(math.inf)
        return made

    def grow(self, most: float) -> None:
        """Ask more of it, until its work would be over a bound."""
        while self.rest and self.work + (self.rest[0][1].work or 0) <= most:
            query_id, query = self.rest.pop(0)
            self.query_ids.append(query_id)
            self.work += query.work or 0


@dataclass(frozen=True, slots=True)
class Picked:
    """What the next batch does.

    Attributes:
        batch: passes, the most urgent first.
        hopeless: standing frames that not even a batch of one would answer in time.
    """

    batch: list[PlannedPass]
    hopeless: list[WorkerFrame]


class Schedule:
    """The rule of this module.

    Args:
        settings: times and bounds.
        throughput: measured time of a batch.
    """

    def __init__(self, settings: WorkerProtocolSettings, throughput: ThroughputEstimate) -> None:
        self._settings = settings
        self._throughput = throughput

    def pick(
        self,
        parked: Sequence[WorkerFrame],
        max_frames: int,
        now_s: float,
        *,
        max_work: float = math.inf,
        frame_work: int = 1,
    ) -> Picked:
        """What the next batch does; it is never empty while a frame is parked.

        Args:
            parked: frames that wait for the model.
            max_frames: frames that a batch may have.
            now_s: the worker's monotonic time.
            max_work: work that a batch may have. One query of one frame may be more: it is asked alone.
            frame_work: work of a frame beside its queries.
        """
        if not parked:
            return Picked([], [])
        share = _FRAME_SHARE * max_work if len(parked) > 1 else max_work
        urgent: list[PlannedPass] = []
        worth: list[PlannedPass] = []
        late: list[PlannedPass] = []
        hopeless: list[PlannedPass] = []
        for frame in sorted(parked, key=WorkerFrame.first_deadline_s):
            part = PlannedPass.first(frame, frame_work)
            in_time = self._in_time(part, part.work, now_s)
            part.grow(share)
            if frame.ad_hoc:
                (urgent if in_time else late).append(part)
            else:
                (worth if in_time else hopeless).append(part)
        # Frames are halved until the batch that they make is short enough; then each of its passes is as well.
        count = min(max_frames, len(parked))
        while count > 1 and not self._fits(urgent, worth, count, max_work, now_s):
            count //= 2
        batch = _within([*urgent], count, max_work)
        work = self._work(urgent, worth, count, max_work)
        batch += _within(
            [part for part in worth if self._in_time(part, work, now_s)],
            count - len(batch),
            max_work - _work_of(batch),
            first=not batch,
        )
        if not batch and worth:
            batch = [self._shortened(worth[0], now_s)]
        # What is late costs the others nothing where the batch has room; an ad-hoc question is never dropped.
        batch += _within(late, count - len(batch), max_work - _work_of(batch), first=not batch)
        if not batch:
            return Picked(hopeless[-1:], [part.frame for part in hopeless[:-1]])
        if len(batch) == 1 and batch[0] in urgent:
            batch = [self._shortened(batch[0], now_s)]
        self._use_room(batch, urgent, worth, max_work, now_s)
        return Picked(batch, [part.frame for part in hopeless])

    def admits(self, queries: Iterable[WorkerQuery], ahead: int, now_s: float) -> bool:
        """Whether a frame would be read soon enough, with so many frames before it."""
        if ahead == 0 or any(query.ad_hoc for query in queries):
            return True
        left_s = min(query.deadline_s for query in queries) - now_s
        begins_in_time = self._throughput.begins_s(ahead) <= self._settings.standing_wait_share * left_s
        return begins_in_time and self._throughput.wait_s(ahead) <= left_s - self._settings.finalise_margin_s

    def displaced(self, frames: Iterable[WorkerFrame]) -> WorkerFrame | None:
        """The standing frame that has to go for an ad-hoc question: parked, not read yet, with most time left.

        One that its edge has not heard of from here goes first.
        """
        parked = [frame for frame in frames if _may_be_displaced(frame)]
        return max(parked, key=lambda frame: (frame.spoke_s is None, frame.first_deadline_s()), default=None)

    def least_missed(self, frames: Iterable[WorkerFrame]) -> WorkerFrame | None:
        """The frame of a camera that it can best do without; none that is at the model.

        First one that its edge does not answer for, then one that was not read yet, the latest deadline first.
        """
        held = [frame for frame in frames if frame.stage is not WorkerStage.INFERRING]
        return max(held, key=lambda frame: (frame.given_up, frame.passes == 0, frame.first_deadline_s()), default=None)

    def _fits(
        self, urgent: list[PlannedPass], worth: list[PlannedPass], count: int, max_work: float, now_s: float
    ) -> bool:
        """Whether a batch of so many frames is in time for all ad-hoc questions in it, or for some standing one."""
        work = self._work(urgent, worth, count, max_work)
        if urgent:
            return all(self._in_time(part, work, now_s) for part in _within(urgent, count, max_work))
        return any(self._in_time(part, work, now_s) for part in worth)

    def _work(self, urgent: list[PlannedPass], worth: list[PlannedPass], count: int, max_work: float) -> float:
        """Work of a batch of so many frames; one with room left is expected to be filled."""
        batch = _within([*urgent, *worth], count, max_work)
        usual = _work_of(batch) / len(batch) if batch else self._throughput.frame_work
        return min(max_work, _work_of(batch) + usual * (count - len(batch))) if batch else usual * count

    def _use_room(
        self,
        batch: list[PlannedPass],
        urgent: list[PlannedPass],
        worth: list[PlannedPass],
        max_work: float,
        now_s: float,
    ) -> None:
        """Ask more of the frames in a batch, when no other frame that can be in time is left out of it."""
        if any(part not in batch for part in (*urgent, *worth)):
            return
        timely = [part for part in batch if part in urgent or part in worth]
        for part in batch:
            while part.rest:
                more = part.rest[0][1].work or 0
                work = _work_of(batch) + more
                if work > max_work or not all(self._in_time(other, work, now_s) for other in timely):
                    return
                part.grow(part.work + more)

    def _shortened(self, part: PlannedPass, now_s: float) -> PlannedPass:
        """A pass with as many of its queries as are in time, one at least."""
        while len(part.query_ids) > 1 and not self._in_time(part, part.work, now_s):
            query_id = part.query_ids.pop()
            query = part.frame.queries[query_id]
            part.rest.insert(0, (query_id, query))
            part.work -= query.work or 0
        return part

    def _in_time(self, part: PlannedPass, work: float, now_s: float) -> bool:
        return self._slack_s(part.frame, now_s) >= self._throughput.batch_s(work)

    def _slack_s(self, frame: WorkerFrame, now_s: float) -> float:
        """Time in which a pass must be over to be of use to the query with most time."""
        return frame.last_deadline_s() - self._settings.finalise_margin_s - now_s


def _within(parts: list[PlannedPass], count: int, most: float, *, first: bool = True) -> list[PlannedPass]:
    """The first so many passes whose work together is under a bound; the first one in any case, unless told not."""
    chosen: list[PlannedPass] = []
    work = 0.0
    for part in parts[: max(0, count)]:
        if work + part.work > most and (chosen or not first):
            break
        chosen.append(part)
        work += part.work
    return chosen


def _work_of(batch: Iterable[PlannedPass]) -> int:
    return sum(part.work for part in batch)


def _may_be_displaced(frame: WorkerFrame) -> bool:
    return frame.stage is WorkerStage.PARKED and frame.passes == 0 and not frame.ad_hoc
