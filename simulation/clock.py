"""A virtual clock: events in time order, ties in the order they were scheduled."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class VirtualClock:
    """An event queue that owns the time.

    Attributes:
        now_s: virtual time.
        handled: events handled so far.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.handled = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        """Schedule an action; one in the past runs next."""
        self._scheduled += 1
        heapq.heappush(self._queue, (max(time_s, self.now_s), self._scheduled, action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Schedule an action from now."""
        self.at(self.now_s + delay_s, action)

    def step(self) -> bool:
        """Run the next event; whether there was one."""
        if not self._queue:
            return False
        self.now_s, _, action = heapq.heappop(self._queue)
        action()
        return True

    def next_s(self) -> float | None:
        """Time of the next event."""
        return self._queue[0][0] if self._queue else None
