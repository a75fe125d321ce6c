"""Events of the ring: what is asked for, what is listed, latents and pictures."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from schemas.limits import (
    MAX_BINARY_BYTES,
    MAX_EVENT_FRAMES,
    MAX_EVENT_TEXT_CHARS,
    MAX_EVENTS_A_PAGE,
    MAX_PICTURE_PART_BYTES,
    MAX_PICTURE_PARTS,
)
from schemas.messages.base import BinaryMessage, JsonMessage, Kind, LatentPayload
from schemas.types import (
    MAX_AGE_MS,
    Age,
    FingerprintPrefix,
    FrameId,
    Name,
    UInt32,
)


class ListEvents(JsonMessage):
    """Operator to an edge: which events of a camera are kept?"""

    request_id: Name
    """Chosen by the client; names the reply."""
    before: FrameId | None = None
    """Only events before this one, the last of the page before; null begins with the latest."""


class FetchEvent(JsonMessage):
    """Operator to an edge: the latents of an event."""

    request_id: Name
    """Chosen by the client; names the replies."""
    event: FrameId
    """The event."""
    skip: Annotated[int, Field(ge=0, le=MAX_EVENT_FRAMES)] = 0
    """Frames that have come already."""


class FetchPictures(JsonMessage):
    """Somebody whom the camera's settings name, to an edge: the pictures of an event."""

    request_id: Name
    """Chosen by the client; names the replies."""
    pictures_of: FrameId
    """The event."""
    skip: Annotated[int, Field(ge=0, le=MAX_EVENT_FRAMES)] = 0
    """Pictures that have come already."""


class EraseEvents(JsonMessage):
    """Operator to an edge: forget events of a camera, and the frames of that time that are kept in memory."""

    request_id: Name
    """Chosen by the client; names the receipt."""
    event: FrameId | None = None
    """This one alone; null takes all of the time that is named."""
    older_than_ms: Annotated[int, Field(ge=0, le=MAX_AGE_MS)] = 0
    """Frames that are at least so old; what has an unknown age counts as old."""
    younger_than_ms: Annotated[int, Field(ge=0, le=MAX_AGE_MS)] | None = None
    """Frames that are no older than this; null: however old."""


class EventEntry(BaseModel):
    """An event in a list."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    event: FrameId
    """The frame whose answer made the event: its name within the camera."""
    question_id: Name
    """The question."""
    text: Annotated[str, Field(max_length=MAX_EVENT_TEXT_CHARS)]
    """The answer, cut."""
    age_ms: Age
    """How long ago that frame was taken, ``unknown`` after a power cut."""
    frames: Annotated[int, Field(ge=1, le=MAX_EVENT_FRAMES)]
    """Frames that are kept."""
    pictures: Annotated[int, Field(ge=0, le=MAX_EVENT_FRAMES)]
    """Those of them with a picture."""
    size_bytes: UInt32
    """Latents and pictures."""


class EventList(JsonMessage):
    """Edge to an operator: events of a camera, the latest first."""

    camera: Name
    """The camera."""
    events: Annotated[tuple[EventEntry, ...], Field(max_length=MAX_EVENTS_A_PAGE)]
    """A page of them."""
    more: bool
    """There are older ones."""


Offset = Annotated[int, Field(ge=-MAX_AGE_MS, le=MAX_AGE_MS)]


EventIndex = Annotated[int, Field(ge=0, le=MAX_EVENT_FRAMES - 1)]


EventCount = Annotated[int, Field(ge=1, le=MAX_EVENT_FRAMES)]


class EventLatents(BinaryMessage):
    """Edge to an operator: the whole latent of one frame of an event."""

    kind: ClassVar[Kind] = Kind.EVENT_LATENTS
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    event: FrameId
    """The event."""
    frame: FrameId
    """The frame."""
    index: EventIndex
    """Its place among the frames of the event, by the time when they were taken."""
    count: EventCount
    """Frames of the event."""
    offset_ms: Offset
    """When it was taken, from the frame that made the event."""
    fingerprint: FingerprintPrefix
    """First 4 bytes of the hash of model, codec and tables that made the latents."""
    payload: LatentPayload
    """Coded symbols of all its latents, by themselves."""


class EventPicture(BinaryMessage):
    """Edge to somebody whom the camera's settings name: a part of one picture of an event, a JPEG."""

    kind: ClassVar[Kind] = Kind.EVENT_PICTURE
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    event: FrameId
    """The event."""
    frame: FrameId
    """The frame."""
    index: EventIndex
    """Its place among the pictures of the event, by the time when they were taken."""
    count: EventCount
    """Pictures of the event."""
    offset_ms: Offset
    """When it was taken, from the frame that made the event."""
    part: Annotated[int, Field(ge=0, le=MAX_PICTURE_PARTS - 1)]
    """Which part of the picture this is."""
    parts: Annotated[int, Field(ge=1, le=MAX_PICTURE_PARTS)]
    """Parts of the picture."""
    payload: Annotated[bytes, Field(min_length=1, max_length=MAX_PICTURE_PART_BYTES)]
    """Bytes of the part."""
