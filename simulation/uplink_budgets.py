"""A site's budget of the uplink on virtual days: its clock, what is on disk, and whether the budget holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pipeline.protocol.calendar_periods import DAY_S
from pipeline.protocol.uplink_budget import BudgetSettings, StoreSpending
from simulation.query_ledger import Problem

OVERSPENT = "more left than the budget of the day"
LOOK_S = 1.0
"""Virtual time between two looks at the clock."""
_FIRST_DAY = 20_000


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """Budget and clock of a site.

    Attributes:
        day_bytes: bytes on the wire a day.
        day_s: virtual seconds that a day lasts.
        clock_set_s: so long after each start of its process the clock is in 1970.
    """

    day_bytes: int
    day_s: float
    clock_set_s: float = 0.0

    def settings(self, largest_message_bytes: int) -> BudgetSettings:
        """What the session is told."""
        return BudgetSettings(self.day_bytes, largest_message_bytes=largest_message_bytes)


class SiteBudget:
    """What outlives the processes of a site, and what really left on each day.

    Args:
        site: its name.
        plan: budget and clock.
        on_problem: told when more leaves than the budget.

    Attributes:
        stored: what is on disk.
    """

    def __init__(self, site: str, plan: BudgetPlan, on_problem: Problem) -> None:
        self.stored: StoreSpending | None = None
        self._site = site
        self._plan = plan
        self._on_problem = on_problem
        self._scale = DAY_S / plan.day_s
        self._started_s = 0.0
        self._left: Counter[int] = Counter()

    def started(self, now_s: float) -> None:
        """Another process starts."""
        self._started_s = now_s

    def wall_clock(self, now_s: float) -> tuple[float, float]:
        """What the device's clock says, and for how long the device runs."""
        since_s = now_s - self._started_s
        if since_s < self._plan.clock_set_s:
            return since_s * self._scale, now_s * self._scale
        return _FIRST_DAY * DAY_S + now_s * self._scale, now_s * self._scale

    def next_look_s(self, now_s: float) -> float:
        """Virtual time until the clock is looked at again: soon, and as the day ends."""
        return min(LOOK_S, self._plan.day_s - now_s % self._plan.day_s)

    def sent(self, wire_bytes: int, now_s: float) -> None:
        """So many bytes left."""
        day = int(now_s // self._plan.day_s)
        self._left[day] += wire_bytes
        if self._left[day] > self._plan.day_bytes:
            self._on_problem(OVERSPENT, self._site, f"{self._left[day]} of {self._plan.day_bytes} bytes on day {day}")
