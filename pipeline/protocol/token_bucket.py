"""A budget that fills up with time. Pure: time goes in."""

from __future__ import annotations


class TokenBucket:
    """Tokens that come at a rate and are kept up to a burst.

    Whatever is taken is granted while a token is left, and may leave a debt, of one burst at most: so the long-run rate
    holds whatever the sizes are, and who has taken too much is served again after twice the time that a burst takes.

    Args:
        rate_per_s: tokens a second.
        burst: tokens that are kept, all of them at the beginning.
        now_s: monotonic time.
    """

    __slots__ = ("_at_s", "_burst", "_level", "_rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._level = burst
        self._at_s = now_s

    def take(self, count: float, now_s: float) -> bool:
        """Take tokens if there is one left; whether there was."""
        self._fill(now_s)
        if self._level <= 0:
            return False
        self.charge(count, now_s)
        return True

    def charge(self, count: float, now_s: float) -> None:
        """Take tokens whether there are any or not."""
        self._fill(now_s)
        self._level = max(self._level - count, -self._burst)

    def _fill(self, now_s: float) -> None:
        self._level = min(self._burst, self._level + max(0.0, now_s - self._at_s) * self._rate_per_s)
        self._at_s = max(self._at_s, now_s)
