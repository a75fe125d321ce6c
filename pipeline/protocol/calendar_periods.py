"""Days and months, and which of them it is when the clock may be wrong. Pure: the clock's word goes in.

Both are UTC's, so that no change of summer time makes one longer or shorter; a month begins on a day of the contract.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final, Protocol

DAY_S: Final = 86_400
_LATEST_S: Final = 253_370_000_000.0
"""In the year 9998; a clock that says a later time has no date."""


class Calendar(Protocol):
    """Numbers periods that follow one another."""

    def number(self, utc_s: float) -> int:
        """Which period a time is in."""
        ...

    def begins_s(self, number: int) -> float:
        """When a period begins, in seconds of UTC since 1970."""
        ...


class Days:
    """Days of UTC, counted from 1970."""

    def number(self, utc_s: float) -> int:
        """See :class:`Calendar`."""
        return int(_dated(utc_s) // DAY_S)

    def begins_s(self, number: int) -> float:
        """See :class:`Calendar`."""
        return float(number * DAY_S)


@dataclass(frozen=True, slots=True)
class Months:
    """Months of UTC, counted from the year 0.

    Attributes:
        first_day: day on which each begins, 1 to 28.
    """

    first_day: int = 1

    def number(self, utc_s: float) -> int:
        """See :class:`Calendar`."""
        date = dt.datetime.fromtimestamp(_dated(utc_s), dt.UTC)
        return date.year * 12 + date.month - 1 - (date.day < self.first_day)

    def begins_s(self, number: int) -> float:
        """See :class:`Calendar`."""
        year, month = divmod(number, 12)
        return dt.datetime(year, month + 1, self.first_day, tzinfo=dt.UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Period:
    """The present day or month.

    Attributes:
        number: which it is.
        behind: the period that the clock says, while that is an earlier one.
    """

    number: int
    behind: int | None = None

    def at(self, number: int, *, jumped: bool = False) -> tuple[Period, bool]:
        """The present period, when the clock says this one.

        A period never goes back: a device without a battery behind its clock starts in 1970 and would find a whole
        budget there. Where the clock was wrong *before* and stays behind, the period ends when the clock itself has
        come to its next one: then a day, or a month, has passed.

        Args:
            number: the period that the clock says.
            jumped: the clock was set since it was last looked at.

        Returns:
            The period, and whether it is another one.
        """
        if number == self.number:
            return Period(number), False
        went_on = self.behind is not None and number > self.behind and not jumped
        if number > self.number or went_on:
            return Period(number), True
        return Period(self.number, number), False


def _dated(utc_s: float) -> float:
    return min(max(0.0, utc_s), _LATEST_S)
