"""When standing questions are asked, as settings say it: hours of the week, time zones, profiles."""

from __future__ import annotations

from typing import Annotated, Final
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field

from pipeline.config.section import Section
from schemas.types import Name
from schemas.week_hours import WeekHours

MAX_PROFILES: Final = 32
MAX_PROFILE_ENTRIES: Final = 1_024
MAX_ASKING_INTERVAL_S: Final = 86_400.0
MAX_DURATION_S: Final = 2_678_400.0

Interval = Annotated[float, Field(ge=0.02, le=MAX_ASKING_INTERVAL_S)]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ValueError(f"{name[:40]!r} is no time zone: write UTC or a place such as Europe/Berlin") from None
    return name


TimeZone = Annotated[str, AfterValidator(_zone)]
"""A time zone by its IANA name."""


class TimingSettings(Section):
    """When one camera is asked a question, where that is not as the question says."""

    interval_s: Interval | None = None
    """Time from one asking to the next; null takes that of the question."""
    schedule: WeekHours | None = None
    """Hours of the week in which it is asked; null takes those of the question."""


class ProfileSettings(Section):
    """What is asked and what alerts while a profile holds."""

    questions: Annotated[tuple[Name, ...], Field(max_length=MAX_PROFILE_ENTRIES)] | None = None
    """Ids of the questions that are asked; null asks all."""
    alerts: Annotated[tuple[Name, ...], Field(max_length=MAX_PROFILE_ENTRIES)] | None = None
    """Alerts that count, by question, or by rule of the gateway; null counts all."""
