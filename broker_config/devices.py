"""Who is in a fleet: one device, one certificate, one line of the register."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.types import Name


class DeviceKind(StrEnum):
    """What a device is, and with that what it may do."""

    EDGE = "edge"
    """The edge process of a site, for its own cameras."""
    WORKER = "worker"
    """A worker of one pool."""
    CLIENT = "client"
    """A person's or program's tool that asks questions of cameras and reads their answers."""
    DASHBOARD = "dashboard"
    """Reads answers, outcomes, statuses, loads and standing questions; publishes nothing."""
    GATEWAY = "gateway"
    """Asks for many people and reads what a dashboard reads."""
    OPERATOR = "operator"
    """As a gateway, and changes standing questions."""
    HOME_ASSISTANT = "home_assistant"
    """Home Assistant: reads what the gateway tells it, and publishes its own birth."""
    RECORDER = "recorder"
    """Reads everything, the coded frames included."""
    ADMIN = "admin"
    """Changes the broker's rules, and clears what dead devices left retained."""


REGISTER_VERSION: Final = 2
"""Of the register's file."""
TAKES_CAMERAS = frozenset({DeviceKind.EDGE, DeviceKind.CLIENT})
TAKES_POOL = frozenset({DeviceKind.EDGE, DeviceKind.WORKER})


class Device(BaseModel):
    """A device and what its rights depend on.

    Its name is the common name of its certificate, and its MQTT user name and client identifier.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    kind: DeviceKind
    pool: Name | None = None
    """Pool of an edge or a worker."""
    cameras: Annotated[tuple[Name, ...], Field(max_length=128)] = ()
    """Cameras of an edge; those that a client may ask, none meaning all that the fleet has."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if (self.pool is not None) != (self.kind in TAKES_POOL):
            raise ValueError(f"{self.kind}: a pool belongs to an edge or a worker, and each of them has one")
        if self.cameras and self.kind not in TAKES_CAMERAS:
            raise ValueError(f"{self.kind}: only an edge has cameras, and a client may be held to some")
        if self.kind is DeviceKind.EDGE and not self.cameras:
            raise ValueError("an edge without a camera could do nothing: name its cameras")
        if twice := sorted({name for name in self.cameras if self.cameras.count(name) > 1}):
            raise ValueError(f"named twice: camera {', '.join(twice)}")
        return self


def fleet_cameras(devices: Iterable[Device]) -> list[str]:
    """The cameras of all edges, sorted."""
    return sorted(camera for device in devices if device.kind is DeviceKind.EDGE for camera in device.cameras)


class Certificate(BaseModel):
    """A certificate that was issued."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    serial: int
    not_after: datetime
    revoked_at: datetime | None = None


class Register(BaseModel):
    """Every device of the fleet, and every certificate that was ever issued to one."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[2] = REGISTER_VERSION
    hosts: tuple[str, ...]
    """Names and addresses of the broker; the first is what devices connect to."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8883
    devices: dict[Name, Device] = Field(default_factory=dict)
    certificates: list[Certificate] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_owner_each(self) -> Self:
        owners: dict[str, str] = {}
        for name, device in self.devices.items():
            if name != device.name:
                raise ValueError(f"device {name} calls itself {device.name}")
            for camera in device.cameras if device.kind is DeviceKind.EDGE else ():
                if (owner := owners.setdefault(camera, name)) != name:
                    raise ValueError(f"camera {camera} belongs to two sites, {owner} and {name}")
        return self

    def valid_certificate(self, name: str) -> Certificate | None:
        """The newest certificate of a device that was not revoked."""
        return next((one for one in reversed(self.certificates) if one.name == name and one.revoked_at is None), None)

    def owner_of(self, camera: str) -> Device | None:
        """The edge that a camera belongs to."""
        edges = (device for device in self.devices.values() if device.kind is DeviceKind.EDGE)
        return next((edge for edge in edges if camera in edge.cameras), None)


def from_version_1(document: dict[str, Any]) -> dict[str, Any]:
    """A register of version 1 as one of version 2, not yet checked.

    Version 1 listed the standing questions of an edge; in version 2 an edge has all of its own site.
    """
    devices = document.get("devices")
    if isinstance(devices, dict):
        devices = {
            name: {key: value for key, value in device.items() if key != "questions"}
            if isinstance(device, dict)
            else device
            for name, device in devices.items()
        }
    return {**document, "version": REGISTER_VERSION, "devices": devices}
