"""What operators say about a whole site."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from schemas.messages.base import JsonMessage
from schemas.types import Name
from schemas.utc_time import UtcTime

MAX_CONFIGURED: Final = 64
MAX_SNOOZED: Final = 48
"""Entries of one kind; a message with all of them fits its limit."""

Interval = Annotated[float, Field(ge=0.02, le=86_400, allow_inf_nan=False)]


class SiteConfig(JsonMessage):
    """Operator to an edge, retained: what holds at a site in place of its settings. It replaces the one before."""

    site: Name
    """The site, the same as in the topic."""
    profile: Name | None = None
    """Profile of the settings that says which questions are asked and which alerts count; null: the one they name."""
    camera_intervals_s: Annotated[dict[Name, Interval], Field(max_length=MAX_CONFIGURED)] = Field(default_factory=dict)
    """Seconds from one analysed frame to the next, by camera."""
    question_intervals_s: Annotated[dict[Name, Interval], Field(max_length=MAX_CONFIGURED)] = Field(
        default_factory=dict
    )
    """Seconds from one asking to the next, by question."""
    snoozed_cameras: Annotated[dict[Name, UtcTime], Field(max_length=MAX_SNOOZED)] = Field(default_factory=dict)
    """Cameras that are asked no standing question until then."""
    snoozed_alerts: Annotated[dict[Name, UtcTime], Field(max_length=MAX_SNOOZED)] = Field(default_factory=dict)
    """Alerts of which nobody is told until then, by question, or by rule of the gateway."""
