"""How fast a worker is, and what follows: the wait that a frame must expect and the lease to ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery, WorkerStage

_FIRST_GUESS_S = 0.02
_WEIGHT = 0.2
"""Weight of the newest batch in the moving averages: about five batches of memory."""
_FRAME_WEIGHT = 0.02
"""Weight of the newest frame: about fifty frames of memory, because one frame says little."""
_ALIKE_FRAMES = 0.25
"""Variance of the work of batches, in usual frames squared, under which it says nothing about their fixed part."""

_PATIENCE = 4.0
"""A batch is stalled after the longest lease and so many times its expected duration."""


@dataclass(slots=True)
class ThroughputEstimate:
    """Measured time of a batch: a fixed part and a part for its work, by weighted least squares over the last ones.

    A model that takes several batches at a time gets more done than the time of one batch says: of what its batches
    take together, it is measured which part of the time passed, each moment counted once.

    Attributes:
        settings: times and bounds.
        max_frames: frames that one batch may have.
        max_work: work that one batch may have.
        max_batches: batches that the model takes at a time.
        frame_work: moving average of the work of one pass.
        passes: moving average of the passes that a frame needs until its queries are decided.
    """

    settings: WorkerProtocolSettings
    max_frames: int = 1
    max_work: float = math.inf
    max_batches: int = 1
    frame_work: float = 1.0
    passes: float = 1.0
    _work: float = 0.0
    _seconds: float = _FIRST_GUESS_S
    _work_squared: float = 0.0
    _work_seconds: float = 0.0
    _alike: float = 0.0
    _counted_s: float = _FIRST_GUESS_S
    _stalls_at_s: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._work, self._work_squared = self.frame_work, self.frame_work**2
        self._work_seconds = self.frame_work * self._seconds
        self._alike = _ALIKE_FRAMES * self.frame_work**2

    def batch_starts(self, work: float, now_s: float, batch: int = 0) -> None:
        """The model begins with a batch. One that takes far longer than expected is stalled."""
        self._stalls_at_s[batch] = now_s + self.settings.max_lease_s + _PATIENCE * self.batch_s(work)

    @property
    def work_per_s(self) -> float:
        """Work done a second of the time in which the model had any."""
        return self._work / self._counted_s if self._counted_s > 0 else math.inf

    def note_batch(self, batch_s: float, work: float, *, counted_s: float | None = None, batch: int = 0) -> None:
        """Take the time of a batch in.

        Args:
            batch_s: from its start to its end.
            work: of the batch.
            counted_s: the part of that time that no batch that ended before has counted; None for all of it.
            batch: as it was named at its start.
        """
        self._stalls_at_s.pop(batch, None)
        if work > 0:
            self._work += _WEIGHT * (work - self._work)
            self._seconds += _WEIGHT * (batch_s - self._seconds)
            self._counted_s += _WEIGHT * ((batch_s if counted_s is None else counted_s) - self._counted_s)
            self._work_squared += _WEIGHT * (work**2 - self._work_squared)
            self._work_seconds += _WEIGHT * (work * batch_s - self._work_seconds)

    def note_pass(self, work: float) -> None:
        """A pass with so much work was taken."""
        self.frame_work += _FRAME_WEIGHT * (work - self.frame_work)

    def note_frame(self, passes: int) -> None:
        """A frame was decided after so many passes."""
        self.passes += _FRAME_WEIGHT * (passes - self.passes)

    def batch_s(self, work: float) -> float:
        """Expected time of a batch with so much work."""
        mean_s = self._seconds / self._work
        variance = self._work_squared - self._work**2
        unit_s = mean_s
        if variance > self._alike:
            slope_s = (self._work_seconds - self._work * self._seconds) / variance
            # A batch never gets cheaper by more work, and its fixed part is never negative.
            unit_s = min(max(slope_s, 0.0), mean_s)
        return self._seconds + unit_s * (work - self._work)

    def begins_s(self, ahead: int) -> float:
        """Expected wait until the first pass over a frame that has so many before it, each with all its passes.

        What fills no batch leaves it room in one.
        """
        size = self._frames_a_batch()
        return ahead * self.passes // size * self.batch_s(size * self.frame_work) * self._time_share()

    def wait_s(self, frames: int) -> float:
        """Expected wait for the answer of one more frame when so many are held."""
        size = self._frames_a_batch()
        before, last = divmod(frames, size)
        before_s = before * self.batch_s(size * self.frame_work) * self._time_share()
        return before_s + self.batch_s((last + 1) * self.frame_work)

    def _time_share(self) -> float:
        """Time that passes for a batch, of the time that it takes: less than all where batches overlap."""
        return min(1.0, self._counted_s / self._seconds) if self._seconds > 0 else 1.0

    def _frames_a_batch(self) -> int:
        """Usual frames in one batch."""
        return max(1, int(min(self.max_frames, self.max_work / self.frame_work)))

    def lease_s(self, frames: int) -> float:
        """Lease to ask for: the base and twice the expected wait, up to the longest."""
        return min(self.settings.max_lease_s, self.settings.base_lease_s + 2 * self.wait_s(frames))

    def renew_at_s(self, frame: WorkerFrame) -> float:
        """When the edge should hear from us: at half of the lease, which a word not yet spoken leaves at its base.

        Never while the model is stalled or requests went unanswered: progress renews leases, and the frame is better
        off with another worker.
        """
        if frame.given_up:
            return math.inf
        since_s = frame.admitted_s if frame.spoke_s is None else frame.spoke_s
        renew_at_s = since_s + frame.lease_s / 2
        return renew_at_s if renew_at_s < self._stalls_s(frame) else math.inf

    def stalled(self, frame: WorkerFrame, now_s: float) -> bool:
        """Whether a frame gets nowhere because the model is at a batch for far longer than expected."""
        return now_s >= self._stalls_s(frame)

    def _stalls_s(self, frame: WorkerFrame) -> float:
        """When a frame's batch counts as stalled; for one that waits, all that the model takes at a time."""
        if frame.stage is WorkerStage.INFERRING:
            return self._stalls_at_s.get(frame.batch, math.inf)
        return max(self._stalls_at_s.values()) if len(self._stalls_at_s) >= self.max_batches else math.inf

    def must_speak(self, frame: WorkerFrame, frames: int, now_s: float) -> bool:
        """Whether *accept* is due: the lease is half over, or its base will not do and nothing was said yet."""
        overdue = self.renew_at_s(frame) <= now_s
        return overdue or (frame.spoke_s is None and self.wait_s(frames) > self.settings.base_lease_s / 2)

    def decided_by_s(self, query: WorkerQuery) -> float:
        """When time decides a query: a margin before its deadline with an answer at hand, else at its deadline."""
        return query.deadline_s - (0.0 if query.text is None else self.settings.finalise_margin_s)

    def due_s(self, frame: WorkerFrame) -> float:
        """When time changes something about a frame."""
        due_s = min(self.renew_at_s(frame), *(self.decided_by_s(query) for query in frame.queries.values()))
        return due_s if frame.timer_s is None else min(due_s, frame.timer_s)
