"""How fast the uplink may be filled. Pure: time goes in, waiting times come out."""

from __future__ import annotations

BURST_S = 0.02
"""What may leave ahead of the rate, in seconds of the rate: covers timers that fire late, so that a fast uplink is not
slowed down to one message a timer tick. At 64 kbps it is 160 bytes."""


class UplinkBucket:
    """A leaky bucket over bytes on the wire.

    A message leaves when the bucket has run down to the burst, whatever its own size, and fills it by that size. So in
    any time ``t`` at most ``rate * t + burst + the largest message`` leave, and every message leaves eventually.

    Args:
        rate_kbps: rate in 1000 bits a second; None has no limit.
        burst_s: see :data:`BURST_S`.
    """

    def __init__(self, rate_kbps: float | None, burst_s: float = BURST_S) -> None:
        if rate_kbps is not None and not rate_kbps > 0:
            raise ValueError(f"a rate of {rate_kbps} kbps")
        self._bytes_per_s = None if rate_kbps is None else rate_kbps * 1000 / 8
        self._burst_s = burst_s
        self._empty_s = float("-inf")

    @property
    def free_s(self) -> float:
        """When the next message may leave."""
        return self._empty_s - self._burst_s

    def wait_s(self, now_s: float) -> float:
        """Time until the next message may leave; 0 when it may leave at once."""
        return max(0.0, self.free_s - now_s)

    def time_s(self, size_bytes: int) -> float:
        """Time that so many bytes take; 0 without a limit."""
        return 0.0 if self._bytes_per_s is None else size_bytes / self._bytes_per_s

    def charge(self, size_bytes: int, now_s: float) -> None:
        """Something leaves, or left without asking (an acknowledgement)."""
        if self._bytes_per_s is not None:
            self._empty_s = max(self._empty_s, now_s) + size_bytes / self._bytes_per_s

    def backlog_s(self, now_s: float) -> float:
        """Time that what has left will still occupy the uplink."""
        return max(0.0, self._empty_s - now_s)
