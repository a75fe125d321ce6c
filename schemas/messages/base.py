"""What all messages share: versions, kinds, bases."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from schemas.limits import (
    MAX_JSON_BYTES,
    MAX_LATENT_PAYLOAD_BYTES,
)

SCHEMA_VERSION = 2


ACCEPTED_VERSIONS = frozenset({2})
"""Versions that this process understands; its status announces them. Version 1 was never released, so that version 2
stands alone; from the first release on a process speaks its own version and the one before it."""


LatentPayload = Annotated[bytes, Field(min_length=1, max_length=MAX_LATENT_PAYLOAD_BYTES)]


LeaseMs = Annotated[int, Field(ge=1, le=600_000)]


class Kind(IntEnum):
    """Tag of a binary message. A number is never used again for something else."""

    OPEN = 1
    CHUNK = 2
    REVOKE = 3
    TEXT = 4
    HANDOVER = 5
    ACCEPT = 6
    REFINE = 7
    BUSY = 8
    REJECT = 9
    NEED_TEXT = 10
    KEY_FRAME = 11
    FOLLOW_UP = 12
    EVENT_LATENTS = 14
    EVENT_PICTURE = 15


RESERVED_KINDS: dict[int, str] = {
    13: "fetch from the ring of an edge",
}
"""Numbers that later features of version 2 will take; a process that does not know them refuses them by name."""


class Message(BaseModel):
    """Base of all messages: immutable, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    limit_bytes: ClassVar[int]


class BinaryMessage(Message):
    """A msgpack array; the order of its fields is the wire format.

    Optional fields are the last ones. Those that have their default, up to the end, are left out.
    """

    kind: ClassVar[Kind]


class JsonMessage(Message):
    """A JSON object that any MQTT client can read."""

    limit_bytes: ClassVar[int] = MAX_JSON_BYTES

    v: Literal[2] = 2
    """Schema version; 2 when left out, so that a question can be typed by hand."""


class Grown(BaseModel):
    """Of a JSON message that got fields after the first release of its version.

    Where they have their default they are left out, so that an older process reads whatever does not use them.
    """

    grown: ClassVar[frozenset[str]]

    @model_serializer(mode="wrap")
    def _without_defaults(self, usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        values: dict[str, Any] = usual(self)
        return {
            name: value
            for name, value in values.items()
            if name not in self.grown or getattr(self, name) != fields[name].default
        }


def check_range(start: int, stop: int) -> None:
    """Whether a range of latents holds any.

    Raises:
        ValueError: it is empty.
    """
    if start >= stop:
        raise ValueError(f"latent range {start}..{stop} is empty")
