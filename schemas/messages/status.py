"""Retained status of a process."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from schemas.messages.base import SCHEMA_VERSION, JsonMessage
from schemas.types import (
    NAME_PATTERN,
    Name,
    UInt32,
    UplinkStage,
)

MAX_CONDITIONS = 32
"""Conditions of a process that its status carries."""


class Condition(BaseModel):
    """Something that is wrong with a process."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    kind: Name
    """What it is: a kind of ``pipeline.health.conditions``, or one of a newer version."""
    about: Annotated[
        str, Field(pattern=NAME_PATTERN.replace("^", "^(").replace("$", ")?$"), exclude_if=lambda about: not about)
    ] = ""
    """Camera, folder or file that it is about; not there where it is the process itself."""


class Status(JsonMessage):
    """Retained birth, load and last will of a process."""

    kind: Literal["edge", "worker", "gateway", "recorder"]
    """What the process is."""
    id: Name
    """Its name, unique within the kind."""
    boot: UInt32
    """Random id of this process start. A will of an earlier boot is ignored."""
    online: bool
    """False in the last will and after a drain."""
    pool: Name | None = None
    """Worker pool, for edges and workers."""
    fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{8})?$")] = ""
    """First 4 bytes of the codec's fingerprint in hexadecimal."""
    parked: UInt32 = 0
    """Frames that a worker holds."""
    capacity: UInt32 = 0
    """Frames that it may hold; 0 while it drains."""
    cameras: Annotated[tuple[Name, ...], Field(max_length=128)] = ()
    """Cameras of an edge."""
    uplink: Annotated[UplinkStage, Field(exclude_if=lambda stage: stage is UplinkStage.NORMAL)] = UplinkStage.NORMAL
    """What an edge leaves out because of the budget of its uplink; not there while that is nothing."""
    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=MAX_CONDITIONS, exclude_if=lambda conditions: not conditions)
    ] = ()
    """What is wrong with the process, as far as it knows; not there while that is nothing."""
    versions: Annotated[tuple[UInt32, ...], Field(min_length=1, max_length=8)] = (SCHEMA_VERSION,)
    """Schema versions that the process understands."""
