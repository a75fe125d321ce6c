"""What each device may publish, read and subscribe to, worked out from the table of topics.

Two things are combined. :data:`schemas.topics.ROUTES` says which role sends and receives a family; a new family needs
no change here. The device says which names stand in the levels: an edge publishes below its own cameras and site, a
worker reads its own inbox, a client asks below its own name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from broker_config.devices import Device, DeviceKind
from schemas import home_assistant, topics
from schemas.errors import StateError
from schemas.topics import ROOT, ROUTES, Family, Role, Route

ANY = "+"
CONTROL_TOPICS = "$CONTROL/dynamic-security/#"
"""Requests to the dynamic-security plug-in and its responses."""
LEFT_RETAINED = (Family.STATUS, Family.KEY, Family.QUESTION, Family.CONFIG, Family.LOAD, Family.ASK)
"""Families where a device that is gone may have left a message: those that are retained, loads, and asks that a client
published retained, which everybody ignores."""


class Access(StrEnum):
    """A right, by the name that Mosquitto's dynamic-security plug-in has for it."""

    PUBLISH = "publishClientSend"
    READ = "publishClientReceive"
    """Checked again at each delivery, so that rights that were taken away end at once."""
    SUBSCRIBE = "subscribePattern"
    """The filter itself, or any that matches a part of it."""
    SUBSCRIBE_EXACTLY = "subscribeLiteral"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One right of a device; whatever is not granted is denied.

    Attributes:
        access: what may be done.
        topic: topic filter.
    """

    access: Access
    topic: str


_REQUESTS = (Family.RING, Family.PICTURES, Family.ERASE)
"""What a client wants of the events of a camera; only operators may."""
_OPERATOR_READS = frozenset({Family.EVENTS, Family.CLIP, Family.PICTURE})
_BY_CLIENT = frozenset({Family.ASK, *_REQUESTS})
"""Families whose topics name the client that publishes there, and a camera of the fleet."""
_ROLES = {DeviceKind.EDGE: Role.EDGE, DeviceKind.WORKER: Role.WORKER}
_SENDS: dict[DeviceKind, frozenset[Family]] = {
    DeviceKind.EDGE: frozenset(Family),
    DeviceKind.WORKER: frozenset(Family),
    DeviceKind.CLIENT: frozenset({Family.ASK}),
    DeviceKind.DASHBOARD: frozenset(),
    DeviceKind.GATEWAY: frozenset({Family.ASK, Family.STATUS}),
    DeviceKind.OPERATOR: frozenset({Family.ASK, Family.QUESTION, Family.CONFIG, *_REQUESTS}),
    DeviceKind.HOME_ASSISTANT: frozenset(),
    DeviceKind.RECORDER: frozenset({Family.STATUS}),
}
"""Of what the table of topics admits for its role, what a kind publishes."""
_CLIENT_READS = frozenset({Family.ANSWER, Family.OUTCOME, Family.REPLY, Family.STATUS})
_STATUS_READ: dict[DeviceKind, tuple[str, ...]] = {
    DeviceKind.EDGE: ("worker",),
    # A worker speaks for the frames of an edge that is gone.
    DeviceKind.WORKER: ("worker", "edge"),
    DeviceKind.CLIENT: ("edge",),
}
"""Kinds of processes whose status a device reads; the others read all."""


def rights_of(device: Device, fleet_cameras: Collection[str] = ()) -> list[Right]:
    """Everything that a device may do, sorted.

    Args:
        device: the device; an edge's and a worker's rights depend on pool, cameras and name.
        fleet_cameras: every camera of the fleet. Who asks may ask these and no others: each topic can hold a retained
            message, so a topic that somebody can invent is memory that he can take.
    """
    if device.kind is DeviceKind.ADMIN:
        # It could give itself any right, so those to see and clear what dead devices left retained cost nothing. An
        # operator's certificate is on more machines, and a right to clear a topic is one to write there.
        cleared = [topics.family_filter(family) for family in LEFT_RETAINED]
        return sorted(
            right for topic in (CONTROL_TOPICS, *cleared) for right in (*_reading(topic), Right(Access.PUBLISH, topic))
        )
    if device.kind is DeviceKind.HOME_ASSISTANT:
        status = f"{ROOT}/{Family.STATUS}/{DeviceKind.GATEWAY}/{ANY}"
        birth = Right(Access.PUBLISH, home_assistant.birth_topic())
        return sorted([*_reading(f"{home_assistant.PREFIX}/#"), *_reading(status), birth])
    rights = set(_recording()) if device.kind is DeviceKind.RECORDER else set()
    if device.kind is DeviceKind.GATEWAY:
        for topic in home_assistant.filters():
            rights.update((*_reading(topic), Right(Access.PUBLISH, topic)))
    role = _ROLES.get(device.kind, Role.CLIENT)
    for family, route in ROUTES.items():
        if role in route.senders and family in _SENDS[device.kind]:
            names = product(*(_sent(device, family, level, fleet_cameras) for level in route.levels))
            rights.update(Right(Access.PUBLISH, _topic(family, combination)) for combination in names)
        if role in route.receivers and _reads(device.kind, family, route):
            for combination in product(*(_received(device, family, level) for level in route.levels)):
                rights.update(_receiving(family, combination, device))
    if device.kind is DeviceKind.EDGE:
        # What an earlier process of the site left retained, see edge_nodes.node.
        rights.update(_reading(topics.status_topic("edge", device.name)))
    return sorted(rights)


def _reads(kind: DeviceKind, family: Family, route: Route) -> bool:
    if kind is DeviceKind.CLIENT:
        return family in _CLIENT_READS
    if kind is DeviceKind.RECORDER:
        return False  # it reads the root already
    if family in _OPERATOR_READS:
        return kind is DeviceKind.OPERATOR
    # Replies are for the client that asked.
    return not (kind is DeviceKind.DASHBOARD and "client" in route.levels)


def _sent(device: Device, family: Family, level: str, fleet_cameras: Collection[str]) -> tuple[str, ...]:
    """Names that may stand at a level of a topic that the device publishes to."""
    match level:
        case "pool":
            return (device.pool or ANY,)
        case "camera":
            if family in _BY_CLIENT:
                return tuple(camera for camera in fleet_cameras if not device.cameras or camera in device.cameras)
            # A worker answers for any camera of any edge; what an edge may name is its own list.
            return device.cameras or (ANY,)
        case "site":
            return (device.name,) if device.kind is DeviceKind.EDGE else (ANY,)
        case "client":
            # Whose question it is stands in this level and nowhere else; a reply goes to whoever asked.
            return (device.name,) if family in _BY_CLIENT else (ANY,)
        case "kind":
            return (device.kind,)
        case "id":
            return (device.name,)
        case "worker" | "query_id" | "question_id" | "request_id":
            return (ANY,)
    raise StateError(f"whose name a topic level {level!r} holds is not decided")


def _received(device: Device, family: Family, level: str) -> tuple[str, ...]:
    """Names that may stand at a level of a topic that the device reads."""
    match level:
        case "pool":
            return (device.pool or ANY,)
        case "camera":
            # Any camera may be in a frame for a worker's pool, and any may be asked a question that a worker remembers.
            return device.cameras or (ANY,)
        case "site":
            return (device.name,) if device.kind is DeviceKind.EDGE else (ANY,)
        case "client":
            return (ANY,) if family in _BY_CLIENT else (device.name,)
        case "kind":
            return _STATUS_READ.get(device.kind, (ANY,))
        case "worker":
            return (device.name,)
        case "id" | "query_id" | "question_id" | "request_id":
            return (ANY,)
    raise StateError(f"whose name a topic level {level!r} of {family} holds is not decided")


def _topic(family: Family, names: tuple[str, ...]) -> str:
    return "/".join((ROOT, family, *names))


def _receiving(family: Family, names: tuple[str, ...], device: Device) -> list[Right]:
    topic = _topic(family, names)
    if family is Family.OPEN and device.pool is not None:
        # Only through the share group: beside it a worker would see the frames of all others too.
        return [Right(Access.READ, topic), Right(Access.SUBSCRIBE_EXACTLY, topics.share_filter(device.pool))]
    return _reading(topic)


def _recording() -> list[Right]:
    """Everything below the root but pictures: no pixels leave a device for a log."""
    families = [Right(Access.READ, f"{ROOT}/{family}/#") for family in Family if family is not Family.PICTURE]
    return [Right(Access.SUBSCRIBE, f"{ROOT}/#"), *families]


def _reading(topic: str) -> list[Right]:
    return [Right(Access.READ, topic), Right(Access.SUBSCRIBE, topic)]
