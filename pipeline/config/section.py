"""The base of every section of the settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the settings: immutable, and a key that nobody reads is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
