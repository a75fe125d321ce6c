"""How fast a worker is, and what follows: the wait that a frame must expect and the lease to ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frame import WorkerFrame

_FIRST_GUESS_S = 0.02
_WEIGHT = 0.2
"""Weight of the newest batch in the moving average: about five batches of memory."""

_PATIENCE = 4.0
"""A batch is stalled after the longest lease and so many times its expected duration."""


@dataclass(slots=True)
class WorkerPace:
    """Measured time of a frame in a batch.

    Attributes:
        settings: times and bounds.
        frame_s: moving average of a batch's time by its frames.
    """

    settings: WorkerProtocolSettings
    frame_s: float = _FIRST_GUESS_S
    _stalls_at_s: float | None = None

    def batch_starts(self, frames: int, now_s: float) -> None:
        """The model begins with a batch. One that takes far longer than expected is stalled."""
        self._stalls_at_s = now_s + self.settings.max_lease_s + _PATIENCE * self.frame_s * frames

    def note_batch(self, batch_s: float, frames: int) -> None:
        """Take the time of a batch in."""
        self._stalls_at_s = None
        if frames > 0:
            self.frame_s += _WEIGHT * (batch_s / frames - self.frame_s)

    def wait_s(self, frames: int) -> float:
        """Expected wait of one more frame when so many are held."""
        return self.frame_s * (frames + 1)

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

    def must_speak(self, frame: WorkerFrame, frames: int, now_s: float) -> bool:
        """Whether *accept* is due: the lease is half over, or its base will not do and nothing was said yet."""
        overdue = self.renew_at_s(frame) <= now_s
        return overdue or (frame.spoke_s is None and self.wait_s(frames) > self.settings.base_lease_s / 2)
