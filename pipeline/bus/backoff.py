"""How long to wait between connection attempts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with jitter over the upper half, so that a fleet does not come back in one instant.

    Quick at first and slow to grow: the next wait is about half as long as the outage has lasted so far, so that a
    restart of the broker costs little more than the restart.

    Attributes:
        initial_s: longest wait after the first failure.
        maximum_s: longest wait after many.
        growth: factor between the waits.
        stable_s: a connection that lived this long ends the series; a shorter one counts as a failure.
    """

    initial_s: float = 0.2
    maximum_s: float = 10.0
    growth: float = 1.5
    stable_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.initial_s <= self.maximum_s:
            raise ValueError(f"0 < initial_s ({self.initial_s}) <= maximum_s ({self.maximum_s}) does not hold")

    def delay_s(self, failures: int, draw: float) -> float:
        """Time to wait before the next attempt.

        Args:
            failures: failures in a row, at least 1.
            draw: a random number in [0, 1).
        """
        steps = min(max(failures, 1) - 1, 64)  # beyond that it is past any maximum, and still a float
        longest_s = min(self.maximum_s, self.initial_s * self.growth**steps)
        return longest_s * (0.5 + 0.5 * draw)
