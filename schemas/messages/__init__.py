"""Every message that crosses the broker.

Binary messages are msgpack arrays ``[schema version, kind, field, ...]`` in the order of the fields below; they travel
on the thin link, where a key name in each message would cost more than a small latent. Whatever a person or a foreign
client would read is JSON with its version in ``v``. Encoding and decoding are in :mod:`schemas.wire`, topics in
:mod:`schemas.topics`.
"""

from __future__ import annotations

from schemas.messages.answers import Answer, QueryOutcome
from schemas.messages.base import (
    ACCEPTED_VERSIONS,
    RESERVED_KINDS,
    SCHEMA_VERSION,
    BinaryMessage,
    JsonMessage,
    Kind,
    LatentPayload,
    LeaseMs,
    Message,
)
from schemas.messages.config import SiteConfig
from schemas.messages.control import Accept, Busy, NeedText, Refine, Reject, RejectReason
from schemas.messages.events import (
    EraseEvents,
    EventCount,
    EventEntry,
    EventIndex,
    EventLatents,
    EventList,
    EventPicture,
    FetchEvent,
    FetchPictures,
    ListEvents,
    Offset,
)
from schemas.messages.frames import Chunk, FollowUp, Handover, KeyFrame, Open, Queries, QueryRef, Revoke
from schemas.messages.questions import Ask, Options, Question, Receipt, Text, check_options
from schemas.messages.status import Condition, Status

__all__ = [
    "ACCEPTED_VERSIONS",
    "BINARY_MESSAGES",
    "JSON_MESSAGES",
    "RESERVED_KINDS",
    "SCHEMA_VERSION",
    "Accept",
    "Answer",
    "Ask",
    "BinaryMessage",
    "Busy",
    "Chunk",
    "Condition",
    "EraseEvents",
    "EventCount",
    "EventEntry",
    "EventIndex",
    "EventLatents",
    "EventList",
    "EventPicture",
    "FetchEvent",
    "FetchPictures",
    "FollowUp",
    "Handover",
    "JsonMessage",
    "KeyFrame",
    "Kind",
    "LatentPayload",
    "LeaseMs",
    "ListEvents",
    "Message",
    "NeedText",
    "Offset",
    "Open",
    "Options",
    "Queries",
    "QueryOutcome",
    "QueryRef",
    "Question",
    "Receipt",
    "Refine",
    "Reject",
    "RejectReason",
    "Revoke",
    "SiteConfig",
    "Status",
    "Text",
    "check_options",
]

BINARY_MESSAGES: tuple[type[BinaryMessage], ...] = (
    Open, Chunk, KeyFrame, FollowUp, EventLatents, EventPicture, Revoke, Text, Handover, Accept, Refine, Busy, Reject,
    NeedText,
)  # fmt: skip  # fmt: skip
JSON_MESSAGES: tuple[type[JsonMessage], ...] = (
    Answer, QueryOutcome, Question, Ask, SiteConfig, Receipt, ListEvents, FetchEvent, FetchPictures, EraseEvents,
    EventList, Status,
)  # fmt: skip  # fmt: skip
