"""Settings of what the gateway tells Home Assistant."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.config.section import Section
from schemas.home_assistant import PREFIX


class HomeAssistantSettings(Section):
    """Cameras and standing questions as devices of Home Assistant, by MQTT discovery."""

    enabled: bool = True
    """False removes what was published before."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=64)] = PREFIX
    """Discovery prefix of Home Assistant."""
