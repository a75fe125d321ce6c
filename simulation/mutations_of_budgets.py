"""Deliberate faults in the budget of the uplink."""

from __future__ import annotations

from typing import Any

from pipeline.protocol.calendar_periods import Period
from pipeline.protocol.uplink_budget import BudgetSettings, StoreSpending, UplinkBudget
from simulation.mutation import Mutation, nothing

_init = UplinkBudget.__init__


def _forgets(self: UplinkBudget, settings: BudgetSettings | None = None, _stored: StoreSpending | None = None) -> None:
    _init(self, settings, None)


def _goes_back(self: Period, number: int, **_: Any) -> tuple[Period, bool]:
    return Period(number), number != self.number


BUDGET_MUTATIONS = (
    Mutation("a restart forgets what was spent of the uplink's budget", 1, UplinkBudget, "__init__", _forgets),
    Mutation("a day of the uplink's budget goes back with the clock", 2, Period, "at", _goes_back),
    Mutation("a spent budget closes nothing", 1, UplinkBudget, "is_closed", property(lambda _self: False)),
    Mutation("what leaves is not charged to the uplink's budget", 1, UplinkBudget, "charge", nothing),
)
