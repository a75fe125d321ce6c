"""Takes what is private out of a log and keeps its shape: every message stays, as long as it was and decodable.

Coded latents and pictures become zero bytes. Texts become placeholder characters, one for each character and as long
as it is on the wire, so that sizes, rates, latencies and outcomes read as before. The digest of a text would tell
whoever guesses it that the guess is right: it becomes a digest of that digest under a key that nobody keeps, so that
equal ones stay equal. A message that does not decode might hold anything: all of its bytes become zero. Names
(cameras, questions, workers, clients) and reasons of outcomes stay.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from analysis.version_one import changed_version_one, is_version_one, read_version_one
from pipeline.recording.format import LATENT_ROOT, LOG_METADATA
from pipeline.recording.message import LoggedMessage, MqttProperties
from pipeline.recording.stored_latent import decode_stored_latent, encode_stored_latent
from schemas.errors import WireError
from schemas.identity import DIGEST_BYTES
from schemas.messages import (
    Answer,
    Ask,
    BinaryMessage,
    Chunk,
    EventLatents,
    EventList,
    EventPicture,
    FollowUp,
    Handover,
    KeyFrame,
    Message,
    NeedText,
    Open,
    Question,
    Text,
)
from schemas.types import AnswerType
from schemas.wire import decode_publish, encode

METADATA_KEY: Final = "redaction"
"""Says what was redacted, in the metadata record that describes the log."""

PLACEHOLDERS: Final = {1: "x", 2: "¤", 3: "□", 4: "🔲", 6: "\0"}
"""Placeholder of a character by its bytes on the wire. Six is a control character in JSON, ``\\u0000``."""

_SEEN: Final = Open | Chunk | KeyFrame | Handover | EventLatents | EventPicture
"""What carries coded latents or pixels."""
_OPTION_PLACEHOLDERS: Final = {
    1: "abcdefghijklmnop",
    2: "αβγδεζηθικλμνξοπ",
    3: "■□▢▣▤▥▦▧▨▩▪▫▬▭▮▯",
    4: "🔲🔳🔴🔵🔶🔷🔸🔹🔺🔻🔼🔽🔾🔿🕀🕁",
    6: "\x00\x01\x02\x03\x04\x05\x06\x07\x0e\x0f\x10\x11\x12\x13\x14\x15",
}
"""The same for options, another one for each, since a question's options differ."""


class Redaction(StrEnum):
    """What is taken out of a log."""

    LATENTS = "latents"
    """Coded latents and pictures: what the cameras saw."""
    TEXT = "text"
    """Questions and answers, and what clients put into MQTT properties."""


def redactor(kinds: Iterable[Redaction]) -> Callable[[LoggedMessage], LoggedMessage]:
    """A function that redacts one message.

    Args:
        kinds: what to take out; nothing leaves every message as it is.
    """
    rules = _Rules(frozenset(kinds), secrets.token_bytes(16))

    def redact(logged: LoggedMessage) -> LoggedMessage:
        if not rules.kinds:
            return logged
        properties = logged.properties
        if Redaction.TEXT in rules.kinds and properties is not None:
            properties = _without_text(properties)
        return replace(logged, payload=rules.payload(logged), properties=properties)

    return redact


def redacted(metadata: Mapping[str, Mapping[str, str]]) -> frozenset[Redaction]:
    """What was taken out of a log, by its metadata."""
    named = metadata.get(LOG_METADATA, {}).get(METADATA_KEY, "").split(",")
    return frozenset(kind for kind in Redaction if kind.value in named)


def redaction_value(kinds: Iterable[Redaction]) -> str:
    """Value of :data:`METADATA_KEY` for what was taken out."""
    return ",".join(sorted(kinds))


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is taken out of one log, and the key of its digests."""

    kinds: frozenset[Redaction]
    key: bytes

    def payload(self, logged: LoggedMessage) -> bytes:
        """The payload without what is private."""
        try:
            if logged.topic.startswith(LATENT_ROOT):
                return self._stored_latent(logged)
            if is_version_one(logged.topic):
                return self._version_one(logged)
            return self._message(logged)
        except WireError:
            return bytes(len(logged.payload))

    def _stored_latent(self, logged: LoggedMessage) -> bytes:
        stored = decode_stored_latent(logged.topic, logged.payload)
        if Redaction.LATENTS not in self.kinds:
            return logged.payload
        return encode_stored_latent(replace(stored, payload=bytes(len(stored.payload))))

    def _message(self, logged: LoggedMessage) -> bytes:
        _, message = decode_publish(logged.topic, logged.payload)
        changes = {} if message is None else self._changes(message)
        if message is None or not changes:
            return logged.payload
        changed = message.model_copy(update=changes)
        if isinstance(changed, BinaryMessage):
            return encode(changed)
        # Fields that the sender left out stay out; what it spaced or escaped differently is made up for with blanks.
        return changed.model_dump_json(exclude_unset=True).encode().ljust(len(logged.payload))

    def _version_one(self, logged: LoggedMessage) -> bytes:
        """The same for a message of wire version 1, which had no options and no digests."""
        old = read_version_one(logged.topic, logged.payload)
        text, latents = old.fields.get("text"), old.fields.get("payload")
        changes: dict[str, Any] = {}
        if Redaction.LATENTS in self.kinds and isinstance(latents, bytes):
            changes["payload"] = bytes(len(latents))
        if Redaction.TEXT in self.kinds and isinstance(text, str):
            changes["text"] = _placeholders(text, _msgpack_bytes if old.number else _json_bytes)
        return changed_version_one(old, logged.payload, changes)

    def _changes(self, message: Message) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if Redaction.LATENTS in self.kinds and isinstance(message, _SEEN):
            changes["payload"] = bytes(len(message.payload))
        if Redaction.TEXT not in self.kinds:
            return changes
        cost = _msgpack_bytes if isinstance(message, BinaryMessage) else _json_bytes
        match message:
            case Open() | Handover() | FollowUp():
                refs = tuple(ref._replace(digest=self._digest(ref.digest)) for ref in message.queries)
                changes["queries"] = refs
            case NeedText():
                changes["digests"] = tuple(map(self._digest, message.digests))
            case Question() | Ask() | Text():
                changes["text"] = _placeholders(message.text, cost)
                if message.options:
                    changes["options"] = tuple(
                        _placeholders(option, cost, number) for number, option in enumerate(message.options)
                    )
                if isinstance(message, Question) and message.keep_when:
                    changes["keep_when"] = _conditions(message, cost)
            case Answer():
                changes["text"] = _placeholders(message.text, cost)
            case EventList():
                changes["events"] = tuple(
                    entry.model_copy(update={"text": _placeholders(entry.text, cost)}) for entry in message.events
                )
            case _:
                pass
        return changes

    def _digest(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, digest_size=DIGEST_BYTES, key=self.key).digest()


def _placeholders(text: str, cost: Callable[[str], int], option: int | None = None) -> str:
    """As many characters of the same cost; those of an option differ from those of the question's other options."""
    if option is None:
        return "".join(PLACEHOLDERS[cost(character)] for character in text)
    return "".join(_OPTION_PLACEHOLDERS[cost(character)][option] for character in text)


def _conditions(question: Question, cost: Callable[[str], int]) -> tuple[str, ...]:
    """Those of a yes or no and of a count say nothing of the question; the others are answers to it."""
    match question.answer_type:
        case AnswerType.YES_NO | AnswerType.COUNT:
            return question.keep_when
        case AnswerType.CHOICE:
            numbers = {option.strip().casefold(): number for number, option in enumerate(question.options)}
            return tuple(
                _placeholders(condition, cost, numbers.get(condition.strip().casefold()))
                for condition in question.keep_when
            )
        case _:
            return tuple(_placeholders(condition, cost) for condition in question.keep_when)


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
