"""When a camera's next frame is due."""

from __future__ import annotations

import math


class Sampler:
    """A grid of due times. A slot that was missed is skipped, not made up for.

    Args:
        interval_s: time from one slot to the next.
        start_s: first slot.

    Attributes:
        due_s: next slot.
        missed: slots that passed without a frame.
        granted: the slot that is due shall be taken.
    """

    def __init__(self, interval_s: float, start_s: float) -> None:
        if not interval_s > 0:
            raise ValueError(f"an interval of {interval_s} s")
        self._interval_s = interval_s
        self._start_s = start_s
        self._slot = 0
        self.missed = 0
        self.granted = False

    @property
    def due_s(self) -> float:
        """When the next frame is due."""
        return self._start_s + self._slot * self._interval_s

    def taken(self, now_s: float) -> None:
        """A frame was taken for the slot that was due, or it is left out; the next one is the first slot after now."""
        following = max(self._slot, math.floor((now_s - self._start_s) / self._interval_s)) + 1
        self.missed += following - self._slot - 1
        self._slot = following
        self.granted = False
