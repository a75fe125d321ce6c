"""Takes what is private out of a log and keeps its shape: every message stays, as long as it was and decodable.

Coded latents become zero bytes. Texts become placeholder characters, one for each character and as long as it is on
the wire, so that sizes, rates, latencies and outcomes read as before. A message that does not decode might hold
anything: all of its bytes become zero. Names (cameras, questions, workers, clients) and reasons of outcomes stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final

from pipeline.recording.deposit import decode_deposit, encode_deposit
from pipeline.recording.format import LATENT_ROOT, LOG_METADATA
from pipeline.recording.message import LoggedMessage, MqttProperties
from schemas.errors import WireError
from schemas.messages import Answer, Ask, BinaryMessage, Chunk, Handover, KeyFrame, Message, Open, Question, Text
from schemas.types import AnswerType
from schemas.wire import decode_publish, encode

METADATA_KEY: Final = "redaction"
"""Says what was redacted, in the metadata record that describes the log."""

PLACEHOLDERS: Final = {1: "x", 2: "¤", 3: "□", 4: "🔲", 6: "\0"}
"""Placeholder of a character by its bytes on the wire. Six is a control character in JSON, ``\\u0000``."""


class Redaction(StrEnum):
    """What is taken out of a log."""

    LATENTS = "latents"
    """Coded latents: what the cameras saw."""
    TEXT = "text"
    """Questions and answers, and what clients put into MQTT properties."""


def redactor(kinds: Iterable[Redaction]) -> Callable[[LoggedMessage], LoggedMessage]:
    """A function that redacts one message.

    Args:
        kinds: what to take out; nothing leaves every message as it is.
    """
    chosen = frozenset(kinds)

    def redact(logged: LoggedMessage) -> LoggedMessage:
        if not chosen:
            return logged
        properties = logged.properties
        if Redaction.TEXT in chosen and properties is not None:
            properties = _without_text(properties)
        return replace(logged, payload=_payload(logged, chosen), properties=properties)

    return redact


def redacted(metadata: Mapping[str, Mapping[str, str]]) -> frozenset[Redaction]:
    """What was taken out of a log, by its metadata."""
    named = metadata.get(LOG_METADATA, {}).get(METADATA_KEY, "").split(",")
    return frozenset(kind for kind in Redaction if kind.value in named)


def redaction_value(kinds: Iterable[Redaction]) -> str:
    """Value of :data:`METADATA_KEY` for what was taken out."""
    return ",".join(sorted(kinds))


def _payload(logged: LoggedMessage, kinds: frozenset[Redaction]) -> bytes:
    """The payload without what is private."""
    blank = bytes(len(logged.payload))
    try:
        if logged.topic.startswith(LATENT_ROOT):
            deposit = decode_deposit(logged.topic, logged.payload)
            if Redaction.LATENTS not in kinds:
                return logged.payload
            return encode_deposit(replace(deposit, payload=bytes(len(deposit.payload))))
        _, message = decode_publish(logged.topic, logged.payload)
    except WireError:
        return blank
    changes = {} if message is None else _changes(message, kinds)
    if message is None or not changes:
        return logged.payload
    changed = message.model_copy(update=changes)
    if isinstance(changed, BinaryMessage):
        return encode(changed)
    # Fields that the sender left out stay out; what it spaced or escaped differently is made up for with blanks.
    return changed.model_dump_json(exclude_unset=True).encode().ljust(len(logged.payload))


def _changes(message: Message, kinds: frozenset[Redaction]) -> dict[str, Any]:
    match message:
        case Open() | Chunk() | KeyFrame() | Handover() if Redaction.LATENTS in kinds:
            return {"payload": bytes(len(message.payload))}
        case Question() | Ask() | Text() | Answer() if Redaction.TEXT in kinds:
            cost = _msgpack_bytes if isinstance(message, BinaryMessage) else _json_bytes
            changes: dict[str, Any] = {"text": "".join(PLACEHOLDERS[cost(character)] for character in message.text)}
            if not isinstance(message, Answer) and message.options:
                # Placeholders of one length would be equal options; so they go, and their answer type with them.
                changes |= {"options": (), "answer_type": AnswerType.WORD}
            return changes
        case _:
            return {}


def _without_text(properties: MqttProperties) -> MqttProperties:
    correlation = properties.correlation_data
    return replace(
        properties,
        correlation_data=None if correlation is None else bytes(len(correlation)),
        user=tuple(
            (name, "".join(PLACEHOLDERS[_msgpack_bytes(character)] for character in value))
            for name, value in properties.user
        ),
    )


def _msgpack_bytes(character: str) -> int:
    return len(character.encode())


def _json_bytes(character: str) -> int:
    """Bytes of a character within a JSON string: some are escaped with two bytes, other control characters with six."""
    if character in '"\\\b\f\n\r\t':
        return 2
    return 6 if character < " " else len(character.encode())
