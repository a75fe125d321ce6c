"""How fast a worker is, and what follows: the wait that a frame must expect and the lease to ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery

_FIRST_GUESS_S = 0.02
_WEIGHT = 0.2
"""Weight of the newest batch in the moving averages: about five batches of memory."""
_FRAME_WEIGHT = 0.02
"""Weight of the newest frame: about fifty frames of memory, because one frame says little."""
_ALIKE_FRAMES = 0.25
"""Variance of the batch sizes under which they say nothing about what a batch costs beside its frames."""

_PATIENCE = 4.0
"""A batch is stalled after the longest lease and so many times its expected duration."""


@dataclass(slots=True)
class WorkerPace:
    """Measured time of a batch: a fixed part and a part for each frame, by weighted least squares over the last ones.

    Attributes:
        settings: times and bounds.
        max_frames: frames that one batch may have.
        looks: moving average of the looks that a frame needs until its queries are decided.
    """

    settings: WorkerProtocolSettings
    max_frames: int = 1
    looks: float = 1.0
    _frames: float = 1.0
    _seconds: float = _FIRST_GUESS_S
    _frames_squared: float = 1.0
    _frames_seconds: float = _FIRST_GUESS_S
    _stalls_at_s: float | None = None

    def batch_starts(self, frames: int, now_s: float) -> None:
        """The model begins with a batch. One that takes far longer than expected is stalled."""
        self._stalls_at_s = now_s + self.settings.max_lease_s + _PATIENCE * self.batch_s(frames)

    def note_batch(self, batch_s: float, frames: int) -> None:
        """Take the time of a batch in."""
        self._stalls_at_s = None
        if frames > 0:
            self._frames += _WEIGHT * (frames - self._frames)
            self._seconds += _WEIGHT * (batch_s - self._seconds)
            self._frames_squared += _WEIGHT * (frames**2 - self._frames_squared)
            self._frames_seconds += _WEIGHT * (frames * batch_s - self._frames_seconds)

    def note_frame(self, looks: int) -> None:
        """A frame was decided after so many looks."""
        self.looks += _FRAME_WEIGHT * (looks - self.looks)

    def batch_s(self, frames: int) -> float:
        """Expected time of a batch of so many frames."""
        mean_s = self._seconds / self._frames
        variance = self._frames_squared - self._frames**2
        frame_s = mean_s
        if variance > _ALIKE_FRAMES:
            slope_s = (self._frames_seconds - self._frames * self._seconds) / variance
            # A batch never gets cheaper by a frame, and its fixed part is never negative.
            frame_s = min(max(slope_s, 0.0), mean_s)
        return self._seconds + frame_s * (frames - self._frames)

    def begins_s(self, ahead: int) -> float:
        """Expected wait until the first look at a frame that has so many before it, each with all its looks.

        What fills no batch leaves it room in one.
        """
        return ahead * self.looks // self.max_frames * self.batch_s(self.max_frames)

    def wait_s(self, frames: int) -> float:
        """Expected wait for the answer of one more frame when so many are held."""
        batches, rest = divmod(frames + 1, self.max_frames)
        return batches * self.batch_s(self.max_frames) + (self.batch_s(rest) if rest else 0.0)

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
        return renew_at_s if self._stalls_at_s is None or renew_at_s < self._stalls_at_s else math.inf

    def stalled(self, now_s: float) -> bool:
        """Whether the model has been at one batch for far longer than expected."""
        return self._stalls_at_s is not None and now_s >= self._stalls_at_s

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
