"""What each client may cost: requests, questions and open streams. Pure: the time goes in."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from latentbus.gateway.errors import RateLimitError
from pipeline.config.gateway_settings import GatewayLimitSettings

MAX_CLIENTS: Final = 4_096
"""Clients whose budgets are remembered; the one that was silent longest gets a full budget again."""


@dataclass(slots=True)
class Budget:
    """A token bucket.

    Attributes:
        per_s: tokens a second.
        burst: tokens that it holds at most.
    """

    per_s: float
    burst: float
    _left: float
    _at_s: float

    @classmethod
    def full(cls, per_s: float, burst: float, now_s: float) -> Budget:
        """One that nothing was taken of."""
        return cls(per_s, burst, burst, now_s)

    def take(self, now_s: float) -> float:
        """Take one token.

        Returns:
            0, or how long to wait until there is one; then none was taken.
        """
        self._left = min(self.burst, self._left + self.per_s * max(0.0, now_s - self._at_s))
        self._at_s = max(now_s, self._at_s)
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self.per_s


class Rates:
    """The budgets of all clients.

    Args:
        limits: of each.
    """

    def __init__(self, limits: GatewayLimitSettings) -> None:
        self._limits = limits
        self._budgets: OrderedDict[tuple[str, str], Budget] = OrderedDict()
        self._streams: Counter[str] = Counter()

    def request(self, client: str, now_s: float) -> None:
        """A request comes.

        Raises:
            RateLimitError: it is one too many.
        """
        self._take("requests", client, self._limits.requests_per_s, self._limits.burst_requests, now_s)

    def ask(self, client: str, now_s: float) -> None:
        """A question comes.

        Raises:
            RateLimitError: it is one too many.
        """
        self._take("questions", client, self._limits.asks_per_s, self._limits.burst_asks, now_s)

    def open_stream(self, client: str) -> None:
        """A stream begins; :meth:`close_stream` ends it.

        Raises:
            RateLimitError: it is one too many.
        """
        if self._streams[client] >= self._limits.streams:
            raise RateLimitError(
                f"{self._limits.streams} streams of this client are open: close one", retry_after_s=5.0
            )
        self._streams[client] += 1

    def close_stream(self, client: str) -> None:
        """A stream is over."""
        self._streams[client] -= 1
        if self._streams[client] <= 0:
            del self._streams[client]

    def streams(self) -> int:
        """Streams that are open."""
        return sum(self._streams.values())

    def clients(self) -> int:
        """Budgets that are remembered."""
        return len(self._budgets)

    def _take(self, what: str, client: str, per_s: float, burst: float, now_s: float) -> None:
        key = (what, client)
        budget = self._budgets.pop(key, None) or Budget.full(per_s, burst, now_s)
        self._budgets[key] = budget
        if len(self._budgets) > 2 * MAX_CLIENTS:
            self._budgets.popitem(last=False)
        wait_s = budget.take(now_s)
        if wait_s:
            raise RateLimitError(
                f"more than {per_s:g} {what} a second of this client: wait {wait_s:.1f} s", retry_after_s=wait_s
            )
