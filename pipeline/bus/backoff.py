"""How long to wait between connection attempts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with jitter over the upper half, so that a fleet does not come back in one instant.

    Attributes:
        initial_s: longest wait after the first failure.
        maximum_s: longest wait after many.
        stable_s: a connection that lived this long ends the series; a shorter one counts as a failure, so that two
            processes with one client id, which throw each other out, do not do so in a busy loop.
    """

    initial_s: float = 0.5
    maximum_s: float = 10.0
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
        doublings = min(max(failures, 1) - 1, 64)  # 2**64 is past any maximum and still a float
        longest_s = min(self.maximum_s, self.initial_s * 2.0**doublings)
        return longest_s * (0.5 + 0.5 * draw)
