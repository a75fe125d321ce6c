"""A moment that a person chose, in UTC: ``2026-11-30T18:00:00Z``.

Durations cross the wire everywhere else, since no two hosts' clocks are compared. What a person wants until seven in
the evening is a moment, and must not begin anew when an edge restarts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

UTC_PATTERN = r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"


def utc_seconds(text: str) -> float:
    """Seconds since 1970.

    Raises:
        ValueError: there is no such moment.
    """
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no moment of UTC, such as 2026-11-30T18:00:00Z") from None


def utc_text(utc_s: float) -> str:
    """A moment as a text, whole seconds."""
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _checked(text: str) -> str:
    utc_seconds(text)
    return text


UtcTime = Annotated[str, Field(pattern=UTC_PATTERN), AfterValidator(_checked)]
"""A moment of UTC."""
