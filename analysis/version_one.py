"""Reads publishes of wire version 1, by tables of its own: no process speaks it any more, and logs keep it.

It says what a message was and what its fields held, in the form of then. What a field may hold is left to whoever turns
it into a message of today. A field can be changed, to redact a log or to rename its cameras.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from schemas.errors import SchemaVersionError, TopicError, WireError, WireSizeError
from schemas.types import NAME_PATTERN, FrameId

VERSION: Final = 1
ROOT: Final = "lb/v1/"
MAX_BYTES: Final = 24_576
"""Largest message of version 1: an open message, a chunk, a hand-over, a key frame."""
MAX_ITEMS: Final = 64
"""Longest array: the queries of a frame."""
_NAME = re.compile(NAME_PATTERN)
_MAX_SHOWN = 80

LEVELS: Final[Mapping[str, tuple[str, ...]]] = {
    "open": ("pool", "camera"),
    "chunk": ("worker", "camera"),
    "key": ("pool", "camera"),
    "handover": ("worker",),
    "control": ("camera",),
    "answer": ("camera",),
    "outcome": ("camera",),
    "question": ("question_id",),
    "ask": ("camera",),
    "reply": ("client", "query_id"),
    "status": ("kind", "id"),
    "load": ("pool", "id"),
}
"""Levels of a topic below its family."""
_RETAINED: Final = frozenset({"key", "question", "status"})
"""Families in which an empty payload deletes what is retained."""

_OPEN: Final = ("frame", "attempt", "fingerprint", "queries", "stop", "payload", "key")
_CONTROL: Final = ("worker", "frame", "attempt")
_BINARY: Final[Mapping[str, Mapping[int, tuple[str, tuple[str, ...]]]]] = {
    "open": {1: ("Open", _OPEN)},
    "chunk": {
        2: ("Chunk", ("camera", "frame", "attempt", "start", "stop", "payload", "key")),
        3: ("Gone", ("camera", "frame", "attempt")),
        4: ("Text", ("camera", "question_id", "text", "answer_type")),
    },
    "key": {11: ("KeyFrame", ("frame", "fingerprint", "payload"))},
    "handover": {5: ("Handover", ("camera", "hops", *_OPEN))},
    "control": {
        6: ("Accept", (*_CONTROL, "lease_ms")),
        7: ("Refine", (*_CONTROL, "start", "stop", "lease_ms")),
        8: ("Busy", (*_CONTROL, "retry_after_ms")),
        9: ("Reject", (*_CONTROL, "reason", "fingerprint")),
        10: ("NeedText", (*_CONTROL, "question_ids")),
    },
}
"""Name and fields of each kind of message, by family; ``key`` is left out where the latents stand by themselves."""

_ANSWER: Final = frozenset(
    {
        "query_id", "camera", "frame", "attempt", "question_id", "worker", "outcome", "text", "score", "latents",
        "payload_bytes", "looks", "reason",
    }
)  # fmt: skip
_OUTCOME: Final = frozenset({"query_id", "camera", "frame", "question_id", "outcome", "reason"})
_STATUS: Final = frozenset(
    {"kind", "id", "boot", "online", "pool", "fingerprint", "parked", "capacity", "cameras"}
)  # fmt: skip
_JSON: Final[Mapping[str, tuple[tuple[str, frozenset[str]], ...]]] = {
    "answer": (("Answer", _ANSWER),),
    "outcome": (("QueryOutcome", _OUTCOME),),
    "reply": (("QueryOutcome", _OUTCOME), ("Answer", _ANSWER)),
    "question": (("Question", frozenset({"question_id", "text", "answer_type", "deadline_ms", "risk"})),),
    "ask": (("Ask", frozenset({"query_id", "text", "answer_type", "deadline_ms"})),),
    "status": (("Status", _STATUS),),
    "load": (("Status", _STATUS),),
}
"""Name and keys of each message, by family; of several the first that has all keys."""


@dataclass(frozen=True, slots=True)
class OldPublish:
    """A publish of version 1.

    Attributes:
        family: what its topic was for.
        names: its topic levels below the family.
        kind: name of the message; None for an empty payload, which deleted what was retained.
        number: its tag, of a binary message; 0 of a JSON one.
        fields: its fields by name, as they were on the wire; frames are :class:`FrameId`. Fields that were left out,
            and had a default, are not there.
    """

    family: str
    names: Mapping[str, str]
    kind: str | None
    number: int
    fields: Mapping[str, Any]


def is_version_one(topic: str) -> bool:
    """Whether a topic is one of version 1."""
    return topic.startswith(ROOT)


def read_version_one(topic: str, payload: bytes) -> OldPublish:
    """What a publish of version 1 said.

    Args:
        topic: its topic.
        payload: its bytes.

    Raises:
        TopicError: the topic is none of version 1, or names what the payload contradicts.
        WireError: the payload is no message of that topic.
    """
    family, names = parse_version_one(topic)
    if not payload and family in _RETAINED:
        return OldPublish(family, names, None, 0, {})
    if len(payload) > MAX_BYTES:
        raise WireSizeError(family, len(payload), MAX_BYTES)
    kind, number, fields = _binary(family, payload) if family in _BINARY else _json(family, payload)
    for level, name in names.items():
        if fields.get(level, name) != name:
            raise TopicError(family, f"{level} in the payload is not {name!r} as in the topic")
    return OldPublish(family, names, kind, number, fields)


def changed_version_one(old: OldPublish, payload: bytes, changes: Mapping[str, Any]) -> bytes:
    """The payload of a publish with other values in some of its fields; JSON is blank at the end where it is shorter.

    Args:
        old: what :func:`read_version_one` made of it.
        payload: its bytes.
        changes: new values by name, of fields that it has.
    """
    if not changes:
        return payload
    if old.number:
        packed: bytes = msgpack.packb([VERSION, old.number, *{**old.fields, **changes}.values()])
        return packed
    values = {**json.loads(payload), **changes}
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode().ljust(len(payload))


def parse_version_one(topic: str) -> tuple[str, dict[str, str]]:
    """Family of a topic of version 1, and its levels below it by name.

    Raises:
        TopicError: it is none.
    """
    family, *names = topic.removeprefix(ROOT).split("/") if is_version_one(topic) else ("",)
    levels = LEVELS.get(family)
    if levels is None or len(names) != len(levels) or not all(_NAME.fullmatch(name) for name in names):
        raise TopicError("topic", f"{topic[:_MAX_SHOWN]!r} is no topic of wire version {VERSION}")
    return family, dict(zip(levels, names, strict=True))


def _binary(family: str, payload: bytes) -> tuple[str, int, dict[str, Any]]:
    try:
        values: Any = msgpack.unpackb(
            payload, use_list=False, raw=False, strict_map_key=True, max_bin_len=MAX_BYTES, max_str_len=MAX_BYTES,
            max_array_len=MAX_ITEMS, max_map_len=0, max_ext_len=0,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - msgpack raises many types on hostile bytes; all mean the same here
        raise WireError(family, f"not msgpack: {str(error) or type(error).__name__}") from None
    if not isinstance(values, tuple) or len(values) < 2 or not all(type(value) is int for value in values[:2]):
        raise WireError(family, "not an array that starts with a schema version and a kind")
    version, number, *fields = values
    if version != VERSION:
        raise SchemaVersionError(family, version, frozenset({VERSION}))
    if number not in _BINARY[family]:
        raise WireError(family, f"message kind {number} does not belong here")
    kind, names = _BINARY[family][number]
    if not len(names) - (names[-1] == "key") <= len(fields) <= len(names):
        raise WireError(kind, f"{len(fields)} fields instead of {len(names)}")
    found = dict(zip(names, fields, strict=False))
    if "frame" in found:
        found["frame"] = _frame(kind, found["frame"])
    return kind, number, found


def _json(family: str, payload: bytes) -> tuple[str, int, dict[str, Any]]:
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise WireError(family, f"not JSON: {type(error).__name__}") from None
    if not isinstance(values, dict):
        raise WireError(family, "no JSON object")
    version = values.pop("v", VERSION)
    if type(version) is not int or version != VERSION:
        raise SchemaVersionError(family, version if type(version) is int else -1, frozenset({VERSION}))
    for kind, keys in _JSON[family]:
        if values.keys() <= keys:
            if "frame" in keys:
                values["frame"] = _frame(kind, values.get("frame"))
            return kind, 0, values
    raise WireError(family, f"unknown keys: {sorted(values.keys() - _JSON[family][-1][1])}"[:_MAX_SHOWN])


def _frame(kind: str, value: object) -> FrameId:
    if isinstance(value, tuple | list) and len(value) == 2 and all(type(number) is int for number in value):
        boot, sequence = value
        if 0 <= boot < 2**32 and 0 <= sequence < 2**32:
            return FrameId(boot, sequence)
    raise WireError(kind, "frame: no boot id and sequence number")
