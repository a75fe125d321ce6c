"""What an operator reads of an overload: how much was turned away, and how many answers were degraded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final

from pipeline.protocol.ports import Notice
from schemas.types import Outcome

REPEAT_S: Final = 30.0
"""Between two lines; and so long nothing may be turned away before the overload is said to be over."""
TURNED_AWAY: Final = (
    "busy",
    "standing_not_admitted",
    "standing_too_late",
    "standing_displaced",
    "standing_finalised_early",
)
"""Counters of the worker that only grow when there is more work than time."""


class OverloadNotices:
    """Log lines about what a worker has no time for.

    Args:
        counters: of the worker, by reason.
        outcomes: terminal answers by outcome and by who asks.
    """

    def __init__(self, counters: Mapping[str, int], outcomes: Mapping[tuple[str, str], int]) -> None:
        self._counters = counters
        self._outcomes = outcomes
        self._told: Counter[str] = Counter()
        self._told_outcomes: Counter[tuple[str, str]] = Counter()
        self._told_s = -math.inf
        self._overloaded = False

    def check(self, frames: int, now_s: float) -> Notice | None:
        """What has changed since the last line, if it is time for one.

        Args:
            frames: frames held.
            now_s: the worker's monotonic time.
        """
        if now_s - self._told_s < REPEAT_S:
            return None
        counters = Counter({name: self._counters.get(name, 0) for name in TURNED_AWAY})
        turned_away = counters - self._told
        notice = None
        if turned_away:
            outcomes = Counter(self._outcomes) - self._told_outcomes
            degraded = sum(count for (outcome, _), count in outcomes.items() if outcome == Outcome.DEGRADED)
            percent = round(100 * degraded / max(1, outcomes.total()))
            context: dict[str, object] = {**turned_away, "degraded_percent": percent, "frames": frames}
            notice = Notice("warning", "overloaded: standing questions are turned away", context)
        elif self._overloaded:
            notice = Notice("info", "no longer overloaded")
        if notice is not None:
            self._told, self._told_s = counters, now_s
            self._told_outcomes = Counter(self._outcomes)
        self._overloaded = bool(turned_away)
        return notice
