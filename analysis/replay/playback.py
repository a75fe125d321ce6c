"""When each message of a log is due: rate, pause and step. Pure: the process brings the time and does the waiting."""

from __future__ import annotations

import math
from typing import Final

LOWEST_RATE: Final = 0.01
HIGHEST_RATE: Final = 10_000.0
RATE_STEPS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Where faster and slower lead."""
_NS: Final = 1_000_000_000


class PlayClock:
    """Log time as it passes while a log is played.

    A message is due at a time counted from one anchor, never from the message before it, so nothing drifts.

    Args:
        start_ns: log time at which playing begins.
        now_s: monotonic time of that moment.
        rate: log seconds in a second; infinite plays as fast as possible.
        paused: begin paused.

    Attributes:
        rate: log seconds in a second.
        paused: only steps go on.
    """

    def __init__(self, start_ns: int, now_s: float, *, rate: float = 1.0, paused: bool = False) -> None:
        if not (LOWEST_RATE <= rate <= HIGHEST_RATE or rate == math.inf):
            raise ValueError(f"a rate of {rate}: {LOWEST_RATE} to {HIGHEST_RATE:g}, or infinite")
        self.rate = rate
        self.paused = paused
        self._anchor_ns = start_ns
        self._anchor_s = now_s
        self._steps = 0

    def due_s(self, time_ns: int) -> float | None:
        """Monotonic time at which a message is due; minus infinity for at once, None for not while it is paused."""
        if self._steps:
            return -math.inf
        if self.paused:
            return None
        if self.rate == math.inf:
            return -math.inf
        return self._anchor_s + (time_ns - self._anchor_ns) / _NS / self.rate

    def played(self, time_ns: int, now_s: float) -> None:
        """A message was taken; a step, or the fast mode, takes the position along with it."""
        if self._steps:
            self._steps -= 1
        elif self.rate != math.inf:
            return
        self._anchor_ns, self._anchor_s = max(self._anchor_ns, time_ns), now_s

    def position_ns(self, now_s: float) -> int:
        """Log time now."""
        if self.paused or self.rate == math.inf:
            return self._anchor_ns
        return self._anchor_ns + round((now_s - self._anchor_s) * self.rate * _NS)

    def toggle_pause(self, now_s: float) -> None:
        """Pause, or go on from where it paused."""
        self._anchor(now_s)
        self.paused = not self.paused
        self._steps = 0

    def step(self, now_s: float) -> None:
        """Let one more message go; pauses first."""
        if not self.paused:
            self.toggle_pause(now_s)
        self._steps += 1

    def faster(self, now_s: float) -> None:
        """The next higher rate; from the highest on as fast as possible."""
        self._set_rate(next((step for step in RATE_STEPS if step > self.rate), math.inf), now_s)

    def slower(self, now_s: float) -> None:
        """The next lower rate."""
        self._set_rate(next((step for step in reversed(RATE_STEPS) if step < self.rate), RATE_STEPS[0]), now_s)

    def restart(self, start_ns: int, now_s: float) -> None:
        """Begin again, at the same rate."""
        self._anchor_ns, self._anchor_s = start_ns, now_s

    def _set_rate(self, rate: float, now_s: float) -> None:
        self._anchor(now_s)
        self.rate = rate

    def _anchor(self, now_s: float) -> None:
        self._anchor_ns, self._anchor_s = self.position_ns(now_s), now_s
