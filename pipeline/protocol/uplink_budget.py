"""What a site may spend of its uplink in a day and in a month, and what it leaves out as the end comes near.

In order: standing questions are asked less often, then not at all, then ad-hoc questions are refused, and in the end
nothing leaves until the next day or month but the pings of the connection and the last word of a process that goes. The
last three steps come with a part of the budget left, which pays for what was begun: answers to refused clients,
outcomes, chunks of frames under way. So the bytes of a day are never more than its budget.

What was spent is on disk ahead of time (:class:`StoreSpending`): after a power cut a little is counted twice, and
nothing is forgotten.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from pipeline.protocol.calendar_periods import Calendar, Days, Months, Period
from pipeline.protocol.ports import Notice
from schemas.limits import MAX_BINARY_BYTES, MAX_JSON_BYTES
from schemas.topics import MAX_TOPIC_BYTES
from schemas.types import UplinkStage
from schemas.wire_cost import transport_wire_bytes

STRETCH_FROM: Final = 0.75
"""Share of a budget from which on standing questions are asked less often, if it would not last otherwise."""
AD_HOC_ONLY_FROM: Final = 0.9
"""Share from which on no standing question is asked."""
SPENT_FROM: Final = 0.98
"""Share from which on ad-hoc questions are refused."""
LEAST_SHARE: Final = 1 / 16
"""Standing questions are asked in so many of their slots at least, before none is."""
LARGEST_MESSAGE_BYTES: Final = transport_wire_bytes(max(MAX_BINARY_BYTES, MAX_JSON_BYTES) + MAX_TOPIC_BYTES + 1_024)
"""No message costs more on the wire."""
STEP_BYTES: Final = 65_536
"""What is written to disk is ahead of what was spent by so much at most, or by :data:`STEP_SHARE` of the budget."""
STEP_SHARE: Final = 0.004
JUMP_S: Final = 300.0
"""A clock that moves by so much more or less than time has passed was set."""
LOOK_S: Final = 60.0
"""The clock is looked at so often."""
_STAGES: Final = tuple(UplinkStage)


@dataclass(frozen=True, slots=True)
class PeriodSpending:
    """What was spent in a day or a month.

    Attributes:
        number: which, see :mod:`~pipeline.protocol.calendar_periods`.
        spent_bytes: bytes on the wire.
        behind: the earlier one that the clock says, if it does.
    """

    number: int
    spent_bytes: int
    behind: int | None = None


@dataclass(frozen=True, slots=True)
class StoreSpending:
    """Write this to disk in place of what is there; a later one may take its place before it is written.

    Attributes:
        periods: by ``day`` and ``month``.
    """

    periods: Mapping[str, PeriodSpending]


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """Budgets of a site.

    Attributes:
        day_bytes: bytes on the wire a day of UTC; None has no limit.
        month_bytes: the same a month.
        month_begins: day of the month on which the month begins, 1 to 28.
        largest_message_bytes: no message costs more on the wire.
        step_bytes: see :data:`STEP_BYTES`.
    """

    day_bytes: int | None = None
    month_bytes: int | None = None
    month_begins: int = 1
    largest_message_bytes: int = LARGEST_MESSAGE_BYTES
    step_bytes: int = STEP_BYTES


@dataclass(slots=True)
class _Account:
    """One budget and its present period."""

    name: str
    calendar: Calendar
    limit_bytes: int
    largest_bytes: int
    period: Period | None = None
    spent_bytes: int = 0
    own_bytes: int = 0
    recent_bytes: int = 0
    ends_s: float = math.inf
    worst: UplinkStage = UplinkStage.NORMAL

    def look(self, utc_s: float, *, jumped: bool) -> bool:
        """Take the clock's word; whether another period begins.

        What was spent since the last look counts in both; and where the clock was set, all that this process has spent
        counts in the new one, in which it really was.
        """
        number = self.calendar.number(utc_s)
        if self.period is None:
            self.period, begins = Period(number), True
        else:
            self.period, begins = self.period.at(number, jumped=jumped)
            if begins:
                self.spent_bytes = self.own_bytes = self.own_bytes if jumped else self.recent_bytes
                self.worst = UplinkStage.NORMAL
        self.recent_bytes = 0
        self.ends_s = self.calendar.begins_s(number + 1)
        return begins

    def charge(self, wire_bytes: int) -> None:
        self.spent_bytes += wire_bytes
        self.own_bytes += wire_bytes
        self.recent_bytes += wire_bytes

    @property
    def left_bytes(self) -> int:
        return self.limit_bytes - self.spent_bytes

    def keeps_bytes(self, share: float, messages: int) -> int:
        """What is kept for later: a share of the budget, and room for so many messages."""
        return max(round((1.0 - share) * self.limit_bytes), messages * self.largest_bytes)

    def share(self, utc_s: float) -> float:
        """Share of the standing slots that lets the budget last."""
        if self.spent_bytes < STRETCH_FROM * self.limit_bytes:
            return 1.0
        for_standing = self.limit_bytes - self.keeps_bytes(AD_HOC_ONLY_FROM, 4)
        left = max(0.0, for_standing - self.spent_bytes) / max(1.0, for_standing)
        begins_s = self.calendar.begins_s(self.calendar.number(utc_s))
        time_left = max(0.0, self.ends_s - utc_s) / (self.ends_s - begins_s)
        return 1.0 if left >= time_left else max(LEAST_SHARE, left / time_left)

    def stage(self, utc_s: float) -> UplinkStage:
        """The worst stage of this period: what comes and goes would be said again and again."""
        self.worst = max(self.worst, self._stage(utc_s), key=_STAGES.index)
        return self.worst

    def _stage(self, utc_s: float) -> UplinkStage:
        if self.left_bytes <= self.keeps_bytes(SPENT_FROM, 2):
            return UplinkStage.SPENT
        if self.left_bytes <= self.keeps_bytes(AD_HOC_ONLY_FROM, 4):
            return UplinkStage.AD_HOC_ONLY
        return UplinkStage.STRETCHED if self.share(utc_s) < 1.0 else UplinkStage.NORMAL


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One budget, for metrics and reports.

    Attributes:
        limit_bytes: what may be spent in a period.
        spent_bytes: what was spent in the present one.
        ends_s: when it ends, in seconds of UTC since 1970.
    """

    limit_bytes: int
    spent_bytes: int
    ends_s: float


@dataclass(slots=True)
class _Clock:
    utc_s: float = 0.0
    uptime_s: float = 0.0
    known: bool = field(default=False)

    def look(self, utc_s: float, uptime_s: float) -> bool:
        """Take a new time; whether the clock was set since the last one."""
        moved_s, passed_s = utc_s - self.utc_s, uptime_s - self.uptime_s
        jumped = self.known and abs(moved_s - passed_s) > JUMP_S
        self.utc_s, self.uptime_s, self.known = utc_s, uptime_s, True
        return jumped


class UplinkBudget:
    """Budgets of one process start. Without settings it allows everything and says nothing.

    Args:
        settings: what may be spent.
        stored: what an earlier process has spent.

    Attributes:
        skipped: standing slots left out for it, by camera.
    """

    def __init__(self, settings: BudgetSettings | None = None, stored: StoreSpending | None = None) -> None:
        settings = settings or BudgetSettings()
        largest = settings.largest_message_bytes
        self.skipped: Counter[str] = Counter()
        self._accounts: list[_Account] = []
        if settings.day_bytes is not None:
            self._accounts.append(_Account("day", Days(), settings.day_bytes, largest))
        if settings.month_bytes is not None:
            months = Months(settings.month_begins)
            self._accounts.append(_Account("month", months, settings.month_bytes, largest))
        for account in self._accounts:
            if stored is not None and (found := stored.periods.get(account.name)) is not None:
                account.period, account.spent_bytes = Period(found.number, found.behind), found.spent_bytes
        least = min((account.limit_bytes for account in self._accounts), default=0)
        self._step_bytes = max(1, min(settings.step_bytes, int(STEP_SHARE * least)))
        self._stored_bytes = -math.inf
        self._spent_bytes = 0
        self._clock = _Clock()
        self._credit: dict[str, float] = {}
        self._stage = UplinkStage.NORMAL
        self._told = UplinkStage.NORMAL
        self._outputs: list[StoreSpending | Notice] = []

    # ---- reading ----------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> UplinkStage:
        """What is left out, by the budget that is worse off."""
        return self._stage

    @property
    def is_closed(self) -> bool:
        """Whether nothing may leave but what cannot wait for the next period."""
        return any(account.left_bytes < account.largest_bytes for account in self._accounts)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all may leave any more: even the last words are spent."""
        return any(4 * account.left_bytes < account.largest_bytes for account in self._accounts)

    def states(self) -> Mapping[str, BudgetState]:
        """Each budget, by ``day`` and ``month``."""
        return {
            account.name: BudgetState(account.limit_bytes, account.spent_bytes, account.ends_s)
            for account in self._accounts
        }

    @property
    def share(self) -> float:
        """Share of the standing slots that is taken."""
        if self._stage in (UplinkStage.AD_HOC_ONLY, UplinkStage.SPENT):
            return 0.0
        return min((account.share(self._clock.utc_s) for account in self._accounts), default=1.0)

    def refusal(self) -> str | None:
        """Why ad-hoc questions are refused, for their clients; None while they are not."""
        if self._stage is not UplinkStage.SPENT:
            return None
        spent = [account for account in self._accounts if account.worst is UplinkStage.SPENT]
        last = max(spent, key=lambda account: account.ends_s)
        return f"the uplink's budget of this {last.name} is spent; the next one begins {_date(last.ends_s)}"

    def next_look_s(self, utc_s: float) -> float:
        """Time until the clock is to be looked at again."""
        ends_s = min((account.ends_s for account in self._accounts), default=math.inf)
        return min(LOOK_S, max(0.001, ends_s - utc_s))

    def take_outputs(self) -> list[StoreSpending | Notice]:
        """What the shell must do, since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def wall_clock(self, utc_s: float, uptime_s: float) -> None:
        """The device's clock, at the start and then every :data:`LOOK_S` at least.

        Args:
            utc_s: seconds of UTC since 1970, as far as the device knows.
            uptime_s: time that has passed, sleep included, from any beginning on.
        """
        if not self._accounts:
            return
        jumped = self._clock.look(utc_s, uptime_s)
        begun = [account.look(utc_s, jumped=jumped) for account in self._accounts]
        if any(begun):
            self._stored_bytes = -math.inf
        self._changed()

    def charge(self, wire_bytes: int) -> None:
        """So many bytes leave."""
        if not self._accounts:
            return
        self._spent_bytes += wire_bytes
        for account in self._accounts:
            account.charge(wire_bytes)
        self._changed()

    def takes(self, camera: str) -> bool:
        """Whether a standing slot of a camera that has come is taken. Asked once a slot."""
        share = self.share
        if share >= 1.0:
            return True
        # Cameras, and starts of a process that wakes for one frame, begin at different points of the pattern.
        begin = crc32(f"{camera}/{self._clock.utc_s}".encode()) / 2**32
        credit = self._credit.get(camera, begin) + share
        taken = credit >= 1.0
        self._credit[camera] = credit - taken
        self.skipped[camera] += not taken
        return taken

    def close(self) -> None:
        """The process is about to end: what was spent is written as it is."""
        if self._accounts and self._stored_bytes != self._spent_bytes:
            self._store(0)

    # ---- internals --------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        if not self._clock.known:
            return
        if 2 * (self._stored_bytes - self._spent_bytes) <= self._step_bytes:
            self._store(self._step_bytes)
        utc_s = self._clock.utc_s
        self._stage = max((account.stage(utc_s) for account in self._accounts), key=_STAGES.index)
        if self._stage is not self._told:
            better = _STAGES.index(self._stage) < _STAGES.index(self._told)
            self._told = self._stage
            self._outputs.append(Notice("info" if better else "warning", _WORDS[self._stage], self._context()))

    def _context(self) -> dict[str, object]:
        context: dict[str, object] = {}
        for account in self._accounts:
            context[f"{account.name}_spent_bytes"] = account.spent_bytes
            context[f"{account.name}_budget_bytes"] = account.limit_bytes
            context[f"{account.name}_ends"] = _date(account.ends_s)
        return context

    def _store(self, ahead_bytes: int) -> None:
        self._stored_bytes = self._spent_bytes + ahead_bytes
        periods = {
            account.name: PeriodSpending(
                account.period.number, account.spent_bytes + ahead_bytes, account.period.behind
            )
            for account in self._accounts
            if account.period is not None
        }
        self._outputs.append(StoreSpending(periods))


_WORDS: Final = {
    UplinkStage.NORMAL: "budget of the uplink: everything is asked again",
    UplinkStage.STRETCHED: "budget of the uplink: standing questions are asked less often",
    UplinkStage.AD_HOC_ONLY: "budget of the uplink: standing questions are not asked any more",
    UplinkStage.SPENT: "budget of the uplink is spent: ad-hoc questions are refused",
}


def _date(utc_s: float) -> str:
    return f"{dt.datetime.fromtimestamp(utc_s, dt.UTC):%Y-%m-%d %H:%M} UTC"
