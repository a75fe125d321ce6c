"""Messages to bytes and back. Any bytes either decode or raise :class:`~schemas.errors.WireError`."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgpack
from pydantic import ValidationError

from schemas.errors import SchemaVersionError, TopicError, WireError, WireSizeError
from schemas.limits import MAX_BINARY_BYTES, MAX_QUERIES_PER_FRAME
from schemas.messages import (
    ACCEPTED_VERSIONS,
    BINARY_MESSAGES,
    RESERVED_KINDS,
    SCHEMA_VERSION,
    Answer,
    BinaryMessage,
    JsonMessage,
    Message,
    QueryOutcome,
    Status,
)
from schemas.problems import problem_text
from schemas.topics import MESSAGES, ROUTES, Family, Topic, parse

_BY_KIND: dict[int, type[BinaryMessage]] = {int(message.kind): message for message in BINARY_MESSAGES}

_MAX_PROBLEM_CHARS = 200
"""A peer chooses the keys and some values that a problem names; a log line stays a line."""


def encode(message: Message) -> bytes:
    """Bytes of a message.

    Raises:
        WireSizeError: larger than the limit of its kind; nothing may be published that a peer would refuse.
    """
    if isinstance(message, BinaryMessage):
        fields = [getattr(message, name) for name in type(message).model_fields]
        while len(fields) > least_fields(type(message)) and fields[-1] == _default(message, len(fields) - 1):
            del fields[-1]
        data: bytes = msgpack.packb([SCHEMA_VERSION, int(message.kind), *fields])
    else:
        data = message.model_dump_json().encode()
    if len(data) > message.limit_bytes:
        raise WireSizeError(type(message).__name__, len(data), message.limit_bytes)
    return data


def decode_publish(topic_name: str, payload: bytes) -> tuple[Topic, Message | None]:
    """The message of a publish, checked against the topic it came on.

    A level that the payload also names must agree: a broker's rules guard the topic, so the topic is what a device may
    claim to be.

    Returns:
        The topic, and the message; None for an empty payload that deletes a retained one.

    Raises:
        TopicError: the topic is none of ours, or names another camera, question or process than the payload.
        SchemaVersionError: topic or payload are of another wire version, or a status announces none that we speak.
        WireError: the payload is no message of that topic.
    """
    topic = parse(topic_name)
    route = ROUTES[topic.family]
    if not payload and route.retain:
        return topic, None
    message = decode(topic.family, payload)
    for level, name in zip(route.levels, topic.names, strict=True):
        if _named(message, topic.family, level, name) != name:
            raise TopicError(topic.family, f"{level} in the payload is not {name!r} as in the topic")
    if isinstance(message, Status) and ACCEPTED_VERSIONS.isdisjoint(message.versions):
        raise SchemaVersionError(topic.family, max(message.versions), ACCEPTED_VERSIONS)
    return topic, message


def _named(message: Message, family: Family, level: str, otherwise: str) -> object:
    """What a message says of a topic level. A reply topic has the client's own id of its question, not the key."""
    if family is Family.REPLY and isinstance(message, Answer | QueryOutcome):
        client = message.owner.removeprefix("client/")
        return {"client": client, "camera": message.camera, "query_id": message.question_id}[level]
    return getattr(message, level, otherwise)


def decode(family: Family, data: bytes) -> Message:
    """The message that these bytes are on a topic of this family.

    Raises:
        WireError: they are none; the subclass says in which way.
    """
    admitted = MESSAGES[family]
    limit_bytes = max(message.limit_bytes for message in admitted)
    if len(data) > limit_bytes:
        raise WireSizeError(family, len(data), limit_bytes)
    if issubclass(admitted[0], BinaryMessage):
        return _decode_binary(family, data)
    return _decode_json(family, data)


@cache
def least_fields(message: type[BinaryMessage]) -> int:
    """Fields that stand in every message of a class; the last ones, which have a default, may be left out."""
    return sum(field.is_required() for field in message.model_fields.values())


def _default(message: BinaryMessage, index: int) -> object:
    return list(type(message).model_fields.values())[index].default


def _decode_binary(family: Family, data: bytes) -> BinaryMessage:
    try:
        values: Any = msgpack.unpackb(
            data,
            use_list=False,
            raw=False,
            strict_map_key=True,
            max_bin_len=MAX_BINARY_BYTES,
            max_str_len=MAX_BINARY_BYTES,
            max_array_len=MAX_QUERIES_PER_FRAME,
            max_map_len=0,
            max_ext_len=0,
        )
    except Exception as error:  # noqa: BLE001 - msgpack raises many types on hostile bytes; all mean the same here
        raise WireError(family, f"not msgpack: {str(error) or type(error).__name__}") from None
    if not isinstance(values, tuple) or len(values) < 2 or not all(type(v) is int for v in values[:2]):
        raise WireError(family, "not an array that starts with a schema version and a kind")
    version, kind, *fields = values
    if version not in ACCEPTED_VERSIONS:
        raise SchemaVersionError(family, version, ACCEPTED_VERSIONS)
    message = _BY_KIND.get(kind)
    if kind in RESERVED_KINDS:
        raise WireError(family, f"message kind {kind} is reserved for {RESERVED_KINDS[kind]}")
    if message is None or message not in MESSAGES[family]:
        raise WireError(family, f"message kind {kind} does not belong here")
    if len(data) > message.limit_bytes:
        raise WireSizeError(message.__name__, len(data), message.limit_bytes)
    names = tuple(message.model_fields)
    least = least_fields(message)
    if not least <= len(fields) <= len(names):
        raise WireError(message.__name__, f"{len(fields)} fields instead of {least} to {len(names)}")
    if len(fields) > least and fields[-1] == message.model_fields[names[len(fields) - 1]].default:
        # One message, one string of bytes.
        raise WireError(message.__name__, f"{names[len(fields) - 1]}: its default stands where the field is left out")
    try:
        return message.model_validate(dict(zip(names, fields, strict=False)))
    except ValidationError as error:
        raise WireError(message.__name__, _first_problem(error)) from None


def _decode_json(family: Family, data: bytes) -> JsonMessage:
    errors: list[ValidationError] = []
    for message in MESSAGES[family]:
        assert issubclass(message, JsonMessage)  # noqa: S101 - families are binary or JSON, never both
        try:
            return message.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            if first["loc"] == ("v",) and type(first["input"]) is int:
                raise SchemaVersionError(family, first["input"], ACCEPTED_VERSIONS) from None
            errors.append(error)
    raise WireError(family, _first_problem(min(errors, key=ValidationError.error_count)))


def _first_problem(error: ValidationError) -> str:
    """The first problem in a line, without the offending value: payloads may be private."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    said = problem_text(first)
    problem = f"{where}: {said}" if where else said
    problem = problem if problem.isprintable() else ascii(problem)
    return problem if len(problem) <= _MAX_PROBLEM_CHARS else f"{problem[:_MAX_PROBLEM_CHARS]}..."


__all__ = ["decode", "decode_publish", "encode", "least_fields"]
