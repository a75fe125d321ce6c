"""Topics of Home Assistant's MQTT discovery, those that the gateway publishes for it.

A camera is a *device*, a standing question that is asked of it an *entity*. Everything is retained and below one
prefix, so that an identity for Home Assistant may read that and little more. The topics are no part of the wire
version. Source: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "homeassistant"
"""What Home Assistant listens below, unless it is set up otherwise."""
NODE: Final = "latentbus-"
"""How the id of a device of ours begins."""


def device_id(camera: str) -> str:
    """Identifier of the device of a camera."""
    return f"{NODE}{camera}"


def camera_of(device: str) -> str | None:
    """The camera of a device; None of one that is not ours."""
    return device.removeprefix(NODE) if device.startswith(NODE) else None


def config_topic(camera: str, prefix: str = PREFIX) -> str:
    """Where a device is described; an empty message removes it."""
    return f"{prefix}/device/{device_id(camera)}/config"


def availability_topic(camera: str, prefix: str = PREFIX) -> str:
    """Whether a camera is online: ``online`` or ``offline``."""
    return f"{prefix}/device/{device_id(camera)}/availability"


def state_topic(camera: str, question_id: str, prefix: str = PREFIX) -> str:
    """The latest answer to a question, with its attributes, as JSON."""
    return f"{prefix}/device/{device_id(camera)}/{question_id}/state"


def filters(prefix: str = PREFIX) -> tuple[str, str, str]:
    """All topics of this kind, of whomever: a filter cannot name a part of a level."""
    return f"{prefix}/device/+/config", f"{prefix}/device/+/availability", f"{prefix}/device/+/+/state"


def birth_topic(prefix: str = PREFIX) -> str:
    """Where Home Assistant says that it is online."""
    return f"{prefix}/status"
