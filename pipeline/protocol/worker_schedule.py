"""What a worker does first, and what it does not do, when there is more work than time.

The rule, in order:

1. Ad-hoc questions go first, the earliest deadline first; a batch shrinks when a full one would end too late for them.
2. Standing questions fill the batch, the earliest deadline first, as long as they can still be in time at the measured
   pace. Plain earliest-deadline-first would serve each frame at the last moment, or just after it, once it is behind.
3. A standing frame that cannot be in time any more is dropped, or finalised with the answer that it has.
4. A standing frame whose first look would begin too late is not admitted. The rest of its time is for refines.
5. A full worker makes room for an ad-hoc question: a parked standing frame has to go.

The model never idles for it: when nothing can be in time, one frame is looked at all the same, and its batch corrects
the pace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery, WorkerStage
from pipeline.protocol.worker_pace import WorkerPace


@dataclass(frozen=True, slots=True)
class Picked:
    """Frames for the next batch.

    Attributes:
        batch: to look at, the most urgent first.
        hopeless: standing frames that not even a batch of one would answer in time.
    """

    batch: list[WorkerFrame]
    hopeless: list[WorkerFrame]


class Schedule:
    """The rule of this module.

    Args:
        settings: times and bounds.
        pace: measured time of a batch.
    """

    def __init__(self, settings: WorkerProtocolSettings, pace: WorkerPace) -> None:
        self._settings = settings
        self._pace = pace

    def pick(self, parked: Sequence[WorkerFrame], max_frames: int, now_s: float) -> Picked:
        """Frames for the next batch; it is never empty while a frame is parked.

        Args:
            parked: frames that wait for the model.
            max_frames: size of a batch.
            now_s: the worker's monotonic time.
        """
        if not parked:
            return Picked([], [])
        alone_s = self._pace.batch_s(1)
        urgent: list[WorkerFrame] = []
        worth: list[WorkerFrame] = []
        late: list[WorkerFrame] = []
        hopeless: list[WorkerFrame] = []
        for frame in sorted(parked, key=WorkerFrame.first_deadline_s):
            in_time = self._slack_s(frame, now_s) >= alone_s
            if frame.ad_hoc:
                (urgent if in_time else late).append(frame)
            else:
                (worth if in_time else hopeless).append(frame)
        size = min(max_frames, len(parked))
        while size > 1 and not self._fits(urgent[:size], worth, size, now_s):
            size //= 2
        batch = urgent[:size]
        batch += [frame for frame in worth if self._in_time(frame, size, now_s)][: size - len(batch)]
        # What is late costs the others nothing where the batch has room; an ad-hoc question is never dropped.
        batch += late[: size - len(batch)]
        return Picked(batch, hopeless) if batch else Picked(hopeless[-1:], hopeless[:-1])

    def admits(self, queries: Iterable[WorkerQuery], ahead: int, now_s: float) -> bool:
        """Whether a frame would be looked at soon enough, with so many frames before it."""
        if ahead == 0 or any(query.ad_hoc for query in queries):
            return True
        left_s = min(query.deadline_s for query in queries) - now_s
        begins_in_time = self._pace.begins_s(ahead) <= self._settings.standing_wait_share * left_s
        return begins_in_time and self._pace.wait_s(ahead) <= left_s - self._settings.finalise_margin_s

    def displaced(self, frames: Iterable[WorkerFrame]) -> WorkerFrame | None:
        """The standing frame that has to go for an ad-hoc question: parked, never looked at, with most time left.

        One that its edge has not heard of from here goes first.
        """
        parked = [frame for frame in frames if _may_be_displaced(frame)]
        return max(parked, key=lambda frame: (frame.spoke_s is None, frame.first_deadline_s()), default=None)

    def _fits(self, urgent: list[WorkerFrame], worth: list[WorkerFrame], size: int, now_s: float) -> bool:
        """Whether a batch of this size is in time for all ad-hoc questions in it, or for some standing one."""
        if urgent:
            return all(self._in_time(frame, size, now_s) for frame in urgent)
        return any(self._in_time(frame, size, now_s) for frame in worth)

    def _in_time(self, frame: WorkerFrame, size: int, now_s: float) -> bool:
        return self._slack_s(frame, now_s) >= self._pace.batch_s(size)

    def _slack_s(self, frame: WorkerFrame, now_s: float) -> float:
        """Time in which a look must be over to be of use to the query with most time."""
        return frame.last_deadline_s() - self._settings.finalise_margin_s - now_s


def _may_be_displaced(frame: WorkerFrame) -> bool:
    return frame.stage is WorkerStage.PARKED and frame.looks == 0 and not frame.ad_hoc
