"""Whether questions miss their deadlines faster than a budget allows: burn rates over two windows each.

The budget is a share of all questions. What burns it fast, so that a month's budget would be gone within two days, is
critical; what burns it six times too fast is a warning. Each is judged over a long window, so that a few misses are
none, and over a short one, so that it ends soon after the misses do (Google, *Site Reliability Workbook*, chapter 5).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from pipeline.health.conditions import Severity

MAX_SITES: Final = 4_096
MISSED_SHARE: Final = 0.01
"""Of the questions, what may miss its deadline."""
MIN_QUESTIONS: Final = 20
"""Of the short window: a share of fewer says nothing."""
_MINUTE_S: Final = 60
_WINDOWS: Final[tuple[tuple[Severity, float, int, int], ...]] = (("critical", 14.4, 60, 5), ("warning", 6.0, 360, 30))
"""Severity, burn rate, long and short window in minutes."""
_KEPT_MINUTES: Final = 360
_OVER: Final = 0.8
"""Below this share of the burn rate it is over; between the two it stays as it is."""


@dataclass(frozen=True, slots=True)
class Burn:
    """What the deadlines of a site look like.

    Attributes:
        bad: the budget burns too fast; None for a little less than that.
        severity: how fast.
        missed: questions that missed their deadline in the short window.
        asked: all questions of it.
        minutes: its length.
    """

    bad: bool | None
    severity: Severity = "warning"
    missed: int = 0
    asked: int = 0
    minutes: int = 0


@dataclass(slots=True)
class _Site:
    minutes: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=_KEPT_MINUTES + 1))

    def add(self, minute: int, missed: bool) -> None:
        if self.minutes and self.minutes[-1][0] >= minute:
            known, asked, lost = self.minutes.pop()
            self.minutes.append((known, asked + 1, lost + missed))
        else:
            self.minutes.append((minute, 1, int(missed)))

    def within(self, minute: int, length: int) -> tuple[int, int]:
        recent = [entry for entry in self.minutes if minute - length < entry[0] <= minute]
        return sum(entry[1] for entry in recent), sum(entry[2] for entry in recent)


class Deadlines:
    """How many questions of each site end in time.

    Args:
        share: of the questions, what may miss its deadline.
    """

    def __init__(self, share: float = MISSED_SHARE) -> None:
        self._share = share
        self._sites: OrderedDict[str, _Site] = OrderedDict()

    def ended(self, site: str, missed: bool, now_s: float) -> None:
        """A question has its outcome.

        Args:
            site: where it was asked.
            missed: its deadline came before a safe answer.
            now_s: monotonic time.
        """
        found = self._sites.pop(site, None) or _Site()
        self._sites[site] = found
        if len(self._sites) > MAX_SITES:
            self._sites.popitem(last=False)
        found.add(int(now_s // _MINUTE_S), missed)

    def burn(self, site: str, now_s: float) -> Burn:
        """Whether the budget of a site burns too fast."""
        known = self._sites.get(site)
        if known is None:
            return Burn(False)
        minute, between = int(now_s // _MINUTE_S), Burn(False)
        for severity, rate, long, short in _WINDOWS:
            asked, missed = known.within(minute, short)
            if asked < MIN_QUESTIONS:
                continue
            all_asked, all_missed = known.within(minute, long)
            share = min(missed / asked, all_missed / all_asked)
            # A budget that generous cannot be burnt that fast: what misses almost always is too much all the same.
            limit = min(rate * self._share, 0.9)
            if share > limit:
                return Burn(True, severity, missed, asked, short)
            if share > _OVER * limit:
                between = Burn(None, severity, missed, asked, short)
        return between

    def __len__(self) -> int:
        """Sites that are remembered."""
        return len(self._sites)
