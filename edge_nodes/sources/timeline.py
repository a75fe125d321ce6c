"""When each frame of a file is shown, by its time stamps as far as they make sense."""

from __future__ import annotations

from typing import Final

MAX_GAP_S: Final = 10.0
"""A frame that comes so long after the one before it follows a splice, unless the file announces such a rate."""
MAX_STEP_BACK_S: Final = 0.5
"""Stamps that go back by less are jitter."""
_LONGEST_GAP_S: Final = 600.0
_STUCK_FRAMES: Final = 3
_TICK_S: Final = 1e-6


class Timeline:
    """Turns time stamps into times that run forwards at the file's pace.

    Recordings are cut and joined, counters wrap, cameras restart: then stamps jump, either way. After a jump the next
    frame is shown one frame period after the last one, and time goes on from there.

    Args:
        period_s: time between frames as the file announces it; None when it does not.

    Attributes:
        period_s: time between frames, as last seen.
        splices: jumps.
        jump_s: how far the last stamp jumped; 0.0 when it did not.
    """

    def __init__(self, period_s: float | None) -> None:
        announced_s = period_s if period_s is not None and period_s > 0 else 1 / 25
        self.period_s = min(announced_s, MAX_GAP_S)
        self.splices = 0
        self.jump_s = 0.0
        self._max_gap_s = min(max(MAX_GAP_S, 3 * announced_s), _LONGEST_GAP_S)
        self._stamp_s = 0.0
        self._origin_s = 0.0
        self._time_s: float | None = None
        self._stuck = 0

    def place(self, stamp_s: float | None) -> float:
        """The time of the next frame, from the first one on.

        Args:
            stamp_s: its time stamp; None when it has none.
        """
        before_s = self._time_s
        self.jump_s = 0.0
        if before_s is None:
            self._stamp_s = self._origin_s = stamp_s if stamp_s is not None else 0.0
            self._time_s = 0.0
            return 0.0
        stamp_s = stamp_s if stamp_s is not None else self._stamp_s + self.period_s
        step_s = stamp_s - self._stamp_s
        self._stamp_s = stamp_s
        time_s = stamp_s - self._origin_s
        if time_s > before_s + _TICK_S:
            self._stuck = 0
        else:
            # A file may have one stamp on all its frames.
            self._stuck += 1
        if time_s - before_s > self._max_gap_s or before_s - time_s > MAX_STEP_BACK_S:
            self._splice(step_s)
            time_s = self._go_on(before_s, stamp_s)
        elif self._stuck > _STUCK_FRAMES:
            if self._stuck == _STUCK_FRAMES + 1:
                self._splice(step_s)
            time_s = self._go_on(before_s, stamp_s)
        elif step_s > 0 and self._stuck == 0:
            self.period_s = min(step_s, MAX_GAP_S)
        self._time_s = max(time_s, before_s + _TICK_S)
        return self._time_s

    def _splice(self, step_s: float) -> None:
        self.splices += 1
        self.jump_s = step_s

    def _go_on(self, before_s: float, stamp_s: float) -> float:
        time_s = before_s + self.period_s
        self._origin_s = stamp_s - time_s
        return time_s
