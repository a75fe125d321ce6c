"""Every topic, built and parsed in one place.

:data:`ROUTES` is the table of them. They travel on the thin link, so they are short.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from schemas.errors import SchemaVersionError, TopicError, WireError
from schemas.messages import (
    ACCEPTED_VERSIONS,
    Accept,
    Answer,
    Ask,
    Busy,
    Chunk,
    EraseEvents,
    EventLatents,
    EventList,
    EventPicture,
    FetchEvent,
    FetchPictures,
    FollowUp,
    Handover,
    KeyFrame,
    ListEvents,
    Message,
    NeedText,
    Open,
    QueryOutcome,
    Question,
    Receipt,
    Refine,
    Reject,
    Revoke,
    SiteConfig,
    Status,
    Text,
)
from schemas.types import NAME_PATTERN

ROOT = "lb/v2"
MAX_TOPIC_BYTES = 128
"""Root, family and two names of 32 bytes; well under the 256 bytes of the strictest public broker."""

_NAME = re.compile(NAME_PATTERN)
_OTHER_ROOT = re.compile(r"^lb/v([0-9]{1,6})/([^/]+)")


class Family(StrEnum):
    """First level below the root: what a topic is for."""

    OPEN = "open"
    CHUNK = "chunk"
    KEY = "key"
    HANDOVER = "handover"
    CONTROL = "control"
    ANSWER = "answer"
    OUTCOME = "outcome"
    QUESTION = "question"
    ASK = "ask"
    REPLY = "reply"
    RECEIPT = "receipt"
    CONFIG = "config"
    STATUS = "status"
    LOAD = "load"
    RING = "ring"
    PICTURES = "pictures"
    ERASE = "erase"
    EVENTS = "events"
    CLIP = "clip"
    PICTURE = "picture"


class Role(StrEnum):
    """Who sends or reads a topic."""

    EDGE = "edge"
    WORKER = "worker"
    CLIENT = "client"
    """Any MQTT client: an operator's tool, the gateway, a recorder, a foreign program."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a topic family carries, and between whom.

    Attributes:
        levels: names of the topic levels below the family.
        messages: messages admitted there; anything else is a wire error.
        senders: who publishes.
        receivers: who subscribes.
        qos: quality of service of the publish, the highest one where it depends on the message.
        retain: whether the broker keeps the last message.
        purpose: one sentence.
    """

    levels: tuple[str, ...]
    messages: tuple[type[Message], ...]
    senders: tuple[Role, ...]
    receivers: tuple[Role, ...]
    qos: int
    retain: bool
    purpose: str


ROUTES: dict[Family, Route] = {
    Family.OPEN: Route(
        ("pool", "camera"), (Open,), (Role.EDGE,), (Role.WORKER,), 1, False,
        "A frame with its questions and base prefix, dealt to one worker of the pool by the share group.",
    ),
    Family.CHUNK: Route(
        ("worker", "camera"), (Chunk, Revoke, Text, FollowUp), (Role.EDGE,), (Role.WORKER,), 0, False,
        "A worker's inbox: further latents of a frame, further questions, its end, or the text of a question.",
    ),
    Family.KEY: Route(
        ("pool", "camera"), (KeyFrame,), (Role.EDGE,), (Role.WORKER,), 1, True,
        "The latest key frame of a camera, for every worker of the pool; later frames may be coded given it.",
    ),
    Family.HANDOVER: Route(
        ("worker",), (Handover,), (Role.WORKER,), (Role.WORKER,), 1, False,
        "A parked open message for a less loaded worker.",
    ),
    Family.CONTROL: Route(
        ("camera",), (Accept, Refine, Busy, Reject, NeedText), (Role.WORKER,), (Role.EDGE,), 0, False,
        "What a worker tells the edge about a frame; the first of them makes its sender the owner.",
    ),
    Family.ANSWER: Route(
        ("camera",), (Answer,), (Role.WORKER,), (Role.EDGE, Role.CLIENT), 1, False,
        "Provisional answers (QoS 0) and terminal ones (QoS 1).",
    ),
    Family.OUTCOME: Route(
        ("camera",), (QueryOutcome,), (Role.EDGE,), (Role.CLIENT,), 1, False,
        "Terminal outcomes that only the edge can know.",
    ),
    Family.QUESTION: Route(
        ("site", "question_id"), (Question,), (Role.CLIENT, Role.EDGE), (Role.EDGE, Role.WORKER, Role.CLIENT),
        1, True,
        "A standing question of a site; the uplink carries only its id and a digest. An empty payload deletes it.",
    ),
    Family.ASK: Route(
        ("camera", "client"), (Ask,), (Role.CLIENT,), (Role.EDGE, Role.WORKER), 1, False,
        "A client's ad-hoc question to a camera; workers only remember its text and where to reply.",
    ),
    Family.REPLY: Route(
        ("client", "camera", "query_id"), (Answer, QueryOutcome, Receipt), (Role.EDGE, Role.WORKER), (Role.CLIENT,),
        1, False,
        "The same answer or outcome again, for the client that asked, with its CorrelationData; why an ask is none.",
    ),
    Family.RECEIPT: Route(
        ("client", "site", "question_id"), (Receipt,), (Role.EDGE,), (Role.CLIENT,), 1, False,
        "What became of an operator's standing question, with its CorrelationData.",
    ),
    Family.CONFIG: Route(
        ("site",), (SiteConfig,), (Role.CLIENT, Role.EDGE), (Role.EDGE, Role.CLIENT), 1, True,
        "What operators say about a site: its profile, intervals, snoozes. An empty payload gives it to the settings.",
    ),
    Family.STATUS: Route(
        ("kind", "id"), (Status,), (Role.EDGE, Role.WORKER, Role.CLIENT), (Role.EDGE, Role.WORKER, Role.CLIENT),
        1, True,
        "Birth and last will of a process.",
    ),
    Family.LOAD: Route(
        ("pool", "id"), (Status,), (Role.WORKER,), (Role.WORKER, Role.CLIENT), 0, False,
        "Load of a worker, for its peers and for dashboards; no thin link carries it.",
    ),
    Family.RING: Route(
        ("camera", "client"), (ListEvents, FetchEvent), (Role.CLIENT,), (Role.EDGE,), 1, False,
        "An operator's request for the events of a camera: a list, or the latents of one.",
    ),
    Family.PICTURES: Route(
        ("camera", "client"), (FetchPictures,), (Role.CLIENT,), (Role.EDGE,), 1, False,
        "A request for the pictures of an event, of those whom the camera's settings name.",
    ),
    Family.ERASE: Route(
        ("camera", "client"), (EraseEvents,), (Role.CLIENT,), (Role.EDGE,), 1, False,
        "An operator's order to forget events of a camera.",
    ),
    Family.EVENTS: Route(
        ("client", "camera", "request_id"), (EventList, Receipt), (Role.EDGE,), (Role.CLIENT,), 1, False,
        "Events of a camera, or what became of a request for them.",
    ),
    Family.CLIP: Route(
        ("client", "camera", "request_id"), (EventLatents,), (Role.EDGE,), (Role.CLIENT,), 1, False,
        "Latents of an event, for the operator that fetches them.",
    ),
    Family.PICTURE: Route(
        ("client", "camera", "request_id"), (EventPicture,), (Role.EDGE,), (Role.CLIENT,), 1, False,
        "Pictures of an event, for who fetches them; recorders do not read them.",
    ),
}  # fmt: skip
"""Every topic family."""

LEVELS: dict[Family, tuple[str, ...]] = {family: route.levels for family, route in ROUTES.items()}
"""Names of the levels below each family."""

MESSAGES: dict[Family, tuple[type[Message], ...]] = {family: route.messages for family, route in ROUTES.items()}
"""Messages that a topic family admits; anything else there is a wire error."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A parsed topic.

    Attributes:
        family: what it is for.
        names: the levels below the family, in the order of :data:`LEVELS`.
    """

    family: Family
    names: tuple[str, ...]

    def name(self, level: str) -> str:
        """The name at a level, for example ``topic.name("camera")``."""
        return self.names[LEVELS[self.family].index(level)]


def _build(family: Family, *names: str) -> str:
    for name in names:
        if not _NAME.fullmatch(name):
            raise TopicError(family, f"{name!r} is no topic name (lower case letters, digits, - and _, at most 32)")
    return "/".join((ROOT, family, *names))


def open_topic(pool: str, camera: str) -> str:
    """Where an edge opens frames of a camera."""
    return _build(Family.OPEN, pool, camera)


def chunk_topic(worker: str, camera: str) -> str:
    """Inbox of a worker for one camera."""
    return _build(Family.CHUNK, worker, camera)


def key_topic(pool: str, camera: str) -> str:
    """Retained key frame of a camera."""
    return _build(Family.KEY, pool, camera)


def key_filter(pool: str) -> str:
    """Filter of the key frames of all cameras that a pool answers for."""
    return f"{_build(Family.KEY, pool)}/+"


def handover_topic(worker: str) -> str:
    """Where a worker takes parked open messages from others."""
    return _build(Family.HANDOVER, worker)


def control_topic(camera: str) -> str:
    """Where workers talk to a camera's edge."""
    return _build(Family.CONTROL, camera)


def answer_topic(camera: str) -> str:
    """Provisional and terminal answers about a camera."""
    return _build(Family.ANSWER, camera)


def outcome_topic(camera: str) -> str:
    """Terminal outcomes that only the edge can know."""
    return _build(Family.OUTCOME, camera)


def question_topic(site: str, question_id: str) -> str:
    """Retained text of a site's standing question."""
    return _build(Family.QUESTION, site, question_id)


def question_filter(site: str) -> str:
    """Filter of all standing questions of a site."""
    return f"{_build(Family.QUESTION, site)}/+"


def ask_topic(camera: str, client: str) -> str:
    """Where a client asks a camera; the broker's roles tie the last level to the client."""
    return _build(Family.ASK, camera, client)


def ask_filter(camera: str) -> str:
    """Filter of the ad-hoc questions of all clients to a camera."""
    return f"{_build(Family.ASK, camera)}/+"


def reply_topic(client: str, camera: str, query_id: str) -> str:
    """Response topic of one ad-hoc question; no other is answered, or anybody could make a process write anywhere.

    The camera stands there so that the broker's roles let an edge reply for its own cameras alone.
    """
    return _build(Family.REPLY, client, camera, query_id)


def reply_filter(client: str, camera: str | None = None) -> str:
    """Filter of the replies to a client, about one camera or all; one that is held to some may read theirs alone."""
    return f"{_build(Family.REPLY, client)}/+/+" if camera is None else f"{_build(Family.REPLY, client, camera)}/+"


def receipt_topic(client: str, site: str, question_id: str) -> str:
    """Response topic of a standing question that a client published; only its site may write there."""
    return _build(Family.RECEIPT, client, site, question_id)


def config_topic(site: str) -> str:
    """What operators say about a site, retained."""
    return _build(Family.CONFIG, site)


def request_topic(family: Family, camera: str, client: str) -> str:
    """Where a client asks an edge for events of a camera: :attr:`Family.RING`, ``PICTURES`` or ``ERASE``."""
    return _build(family, camera, client)


def request_filter(family: Family, camera: str) -> str:
    """Filter of such requests of all clients to a camera."""
    return f"{_build(family, camera)}/+"


def event_topic(family: Family, client: str, camera: str, request_id: str) -> str:
    """Where a client gets what it asked for: :attr:`Family.EVENTS`, ``CLIP`` or ``PICTURE``."""
    return _build(family, client, camera, request_id)


def status_topic(kind: str, process_id: str) -> str:
    """Retained status of a process."""
    return _build(Family.STATUS, kind, process_id)


def older_status_filters() -> tuple[str, ...]:
    """Filters of the statuses of processes that speak an older wire version alone: nothing else of them is seen."""
    older = (version for version in range(1, min(ACCEPTED_VERSIONS)))
    return tuple(f"lb/v{version}/{Family.STATUS}/+/+" for version in older)


def load_topic(pool: str, worker: str) -> str:
    """Load of a worker, for the other workers of its pool."""
    return _build(Family.LOAD, pool, worker)


def load_filter(pool: str) -> str:
    """Filter of the loads of a pool's workers."""
    return f"{_build(Family.LOAD, pool)}/+"


def share_filter(pool: str) -> str:
    """Filter that deals a pool's open messages to its workers, one worker each."""
    return f"$share/{pool}/{_build(Family.OPEN, pool)}/+"


def inbox_filter(worker: str) -> str:
    """Filter of all chunks for a worker."""
    return f"{_build(Family.CHUNK, worker)}/+"


def family_filter(family: Family) -> str:
    """Filter of every topic of a family."""
    return "/".join((ROOT, family, *("+" for _ in LEVELS[family])))


def carries_pixels(topic: str) -> bool:
    """Whether pixels are published there: no log keeps them."""
    return topic.startswith(f"{ROOT}/{Family.PICTURE}/")


def label_of(topic: str) -> str:
    """Family of a topic for logs and counters, of low cardinality whatever a stranger publishes."""
    try:
        return parse(topic).family
    except WireError:
        return "topic"


def parse(topic: str) -> Topic:
    """Parse a topic name.

    Raises:
        TopicError: it is not one of ours.
        SchemaVersionError: it is a topic of another wire version.
    """
    if len(topic) > MAX_TOPIC_BYTES:
        raise TopicError("topic", f"{len(topic)} characters are over the limit of {MAX_TOPIC_BYTES}")
    if not topic.startswith(f"{ROOT}/"):
        if other := _OTHER_ROOT.match(topic):
            raise SchemaVersionError(ascii(other[2])[1:-1][:32], int(other[1]), ACCEPTED_VERSIONS)
        raise TopicError("topic", f"{topic!r} is not below {ROOT}/")
    first, *names = topic.removeprefix(f"{ROOT}/").split("/")
    try:
        family = Family(first)
    except ValueError:
        raise TopicError("topic", f"{topic!r}: unknown family {first!r}") from None
    if len(names) != len(LEVELS[family]) or not all(_NAME.fullmatch(name) for name in names):
        raise TopicError(
            family, f"{topic!r} is not {ROOT}/{family}/" + "/".join(f"{{{level}}}" for level in LEVELS[family])
        )
    return Topic(family, tuple(names))
