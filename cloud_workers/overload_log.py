"""What an operator reads of an overload: how much was turned away, and how many answers were degraded."""

from __future__ import annotations

import math
from collections import Counter

from pipeline.config.logs import get_logger
from pipeline.protocol.worker_session import WorkerSession
from schemas.types import Outcome

_log = get_logger(__name__)

REPEAT_S = 30.0
"""Between two lines; and so long nothing may be turned away before the overload is said to be over."""
TURNED_AWAY = ("busy", "standing_not_admitted", "standing_too_late", "standing_displaced", "standing_finalised_early")
"""Counters of the session that only grow when there is more work than time."""


class OverloadLog:
    """Log lines about what a worker has no time for.

    Args:
        session: the worker's protocol machine.
    """

    def __init__(self, session: WorkerSession) -> None:
        self._session = session
        self._told: Counter[str] = Counter()
        self._told_outcomes: Counter[tuple[str, str]] = Counter()
        self._told_s = -math.inf
        self._overloaded = False

    def look(self, now_s: float) -> None:
        """Say what has changed since the last line, if it is time for one."""
        if now_s - self._told_s < REPEAT_S:
            return
        counters = Counter({name: self._session.counters[name] for name in TURNED_AWAY})
        turned_away = counters - self._told
        if turned_away:
            outcomes = self._session.outcomes() - self._told_outcomes
            degraded = sum(count for (outcome, _), count in outcomes.items() if outcome == Outcome.DEGRADED)
            _log.warning(
                "overloaded: standing questions are turned away",
                **turned_away,
                degraded_percent=round(100 * degraded / max(1, outcomes.total())),
                frames=self._session.unfinished(),
            )
        elif self._overloaded:
            _log.info("no longer overloaded")
        if turned_away or self._overloaded:
            self._told, self._told_s = counters, now_s
            self._told_outcomes = Counter(self._session.outcomes())
        self._overloaded = bool(turned_away)
