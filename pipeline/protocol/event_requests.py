"""What an edge asks of the disk that keeps its events, and what it is told. Plain data.

The shell does the requests one after the other, in the order in which they come, and answers each one once with
``event_stored(token, result, now_s)``. :class:`edge_nodes.event_file.EventFile` does them with SQLite.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.protocol.effects import Latent
from schemas.messages import EventEntry
from schemas.types import FrameId


@dataclass(frozen=True, slots=True)
class KeepEventFrame:
    """Store a frame of an event: :class:`EventsChanged`.

    Attributes:
        token: names the request.
        camera: its camera.
        event: the event, named by the frame that made it.
        question_id: the question whose answer did.
        text: the answer.
        event_age_s: how old the frame is that made it.
        frame: the frame to store.
        offset_ms: when it was taken, from the frame that made the event.
        latent: its latent.
        picture: its picture, if the camera has any.
    """

    token: int
    camera: str
    event: FrameId
    question_id: str
    text: str
    event_age_s: float
    frame: FrameId
    offset_ms: int
    latent: Latent = field(repr=False)
    picture: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ListKeptEvents:
    """Events of a camera, the latest first: :class:`EventsListed`.

    Attributes:
        token: names the request.
        camera: the camera.
        before: only those before this one.
        limit: at most so many.
    """

    token: int
    camera: str
    before: FrameId | None
    limit: int


@dataclass(frozen=True, slots=True)
class ReadEventFrame:
    """One frame of an event, in the order in which they were taken: :class:`EventFrameRead`.

    Attributes:
        token: names the request.
        camera: the camera.
        event: the event.
        index: which one.
        picture: its picture, counted among the frames that have one; else its latents.
    """

    token: int
    camera: str
    event: FrameId
    index: int
    picture: bool


@dataclass(frozen=True, slots=True)
class EraseKeptEvents:
    """Forget frames of events, and overwrite them: :class:`EventsChanged`.

    Attributes:
        token: names the request.
        camera: the camera; None takes all cameras.
        event: this event alone.
        older_than_s: frames that are at least so old; what has an unknown age counts as old.
        younger_than_s: frames that are no older; None: however old.
    """

    token: int
    camera: str | None
    event: FrameId | None = None
    older_than_s: float = 0.0
    younger_than_s: float | None = None


EventRequest = KeepEventFrame | ListKeptEvents | ReadEventFrame | EraseKeptEvents


@dataclass(frozen=True, slots=True)
class EventsChanged:
    """It is done; so many frames were stored or erased."""

    frames: int


@dataclass(frozen=True, slots=True)
class EventsListed:
    """A page of events; more of them are older."""

    entries: tuple[EventEntry, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class EventFrameRead:
    """A frame of an event.

    Attributes:
        frame: the frame; None where the event has no such one, or is not kept.
        count: frames of the event, or of them those with a picture.
        offset_ms: when it was taken, from the frame that made the event.
        payload: all its latents as one chunk, or the picture.
        fingerprint: first 4 bytes of the fingerprint of the codec that made the latents.
    """

    frame: FrameId | None
    count: int = 0
    offset_ms: int = 0
    payload: bytes = field(default=b"", repr=False)
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True)
class EventDiskFailed:
    """The disk did not do it.

    Attributes:
        problem: why.
    """

    problem: str


EventResult = EventsChanged | EventsListed | EventFrameRead | EventDiskFailed
EVENT_REQUESTS = (KeepEventFrame, ListKeptEvents, ReadEventFrame, EraseKeptEvents)
