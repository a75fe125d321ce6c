"""Events that an edge keeps: list them, get their latents or pictures, let them be erased.

Requests and replies are those of docs/ring.md. What does not come in time is asked for again from the first frame that
is missing, so a broken connection costs no more than one frame.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from latentbus.client.bus_client import BusClient
from latentbus.options.arguments import checked_name
from pipeline.bus.base import Inbound, Subscription
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.errors import EventError, RemoteError
from schemas.messages import (
    EraseEvents,
    EventEntry,
    EventLatents,
    EventList,
    EventPicture,
    FetchEvent,
    FetchPictures,
    ListEvents,
    Message,
    Receipt,
)
from schemas.topics import Family
from schemas.types import FrameId

PATIENCE_S: Final = 20.0
"""Silence after which what is missing is asked for again: a thin uplink may be busy with what goes first."""
TRIES: Final = 3
"""Requests in a row that bring nothing."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class EventFrame:
    """One frame of an event.

    Attributes:
        frame: the frame.
        index: its place in the event.
        count: frames of the event, or pictures.
        offset_ms: when it was taken, from the frame that made the event.
        payload: all its latents, or a JPEG.
        fingerprint: first 4 bytes of the fingerprint of the codec of the latents; empty for a picture.
    """

    frame: FrameId
    index: int
    count: int
    offset_ms: int
    payload: bytes = field(repr=False)
    fingerprint: bytes = b""


@dataclass(slots=True)
class _Parts:
    """Puts frames together from what comes, in order and without a gap."""

    frames: int = 0
    _parts: dict[int, bytes] = field(default_factory=dict)

    def add(self, message: EventLatents | EventPicture) -> EventFrame | None:
        """Take a message in; the next frame, if it is whole now."""
        if message.index != self.frames:
            return None
        if isinstance(message, EventLatents):
            self.frames += 1
            return EventFrame(
                message.frame, message.index, message.count, message.offset_ms, message.payload, message.fingerprint
            )
        self._parts[message.part] = message.payload
        if len(self._parts) < message.parts:
            return None
        payload = b"".join(self._parts[number] for number in sorted(self._parts))
        self._parts.clear()
        self.frames += 1
        return EventFrame(message.frame, message.index, message.count, message.offset_ms, payload)

    def again(self) -> int:
        """Frames that are whole: those after them are asked for again."""
        self._parts.clear()
        return self.frames


class EventClient(BusClient):
    """Asks edges for the events of their cameras, as an async context manager.

    Args:
        broker: where the broker is, and who this client is to it.
        name: name to ask under; the broker's user name, or a drawn one, unless given.
        patience_s: silence after which something is asked again.
    """

    def __init__(self, broker: BrokerSettings, *, name: str | None = None, patience_s: float = PATIENCE_S) -> None:
        super().__init__(broker, name=name)
        self._patience_s = patience_s

    async def events(self, camera: str) -> list[EventEntry]:
        """All events of a camera that are kept, the latest first.

        Raises:
            EventError: the edge refuses, or does not answer.
            NotAuthorizedError: the broker does not let this client ask.
        """
        found: list[EventEntry] = []
        before: FrameId | None = None
        while True:
            page = await self._one(camera, Family.RING, EventList, partial(ListEvents, before=before))
            found += page.events
            if not page.more or not page.events:
                return found
            before = page.events[-1].event

    async def erase(
        self,
        camera: str,
        *,
        event: FrameId | None = None,
        older_than_s: float = 0.0,
        younger_than_s: float | None = None,
    ) -> str:
        """Let an edge forget events of a camera; what it says that it did.

        Args:
            camera: the camera.
            event: this event alone; None takes all of the time that is named, in memory too.
            older_than_s: frames that are at least so old.
            younger_than_s: frames that are no older; None: however old.

        Raises:
            EventError: the edge refuses, or does not answer.
            NotAuthorizedError: the broker does not let this client erase.
        """
        make = partial(
            EraseEvents,
            event=event,
            older_than_ms=round(1000 * older_than_s),
            younger_than_ms=None if younger_than_s is None else round(1000 * younger_than_s),
        )
        receipt = await self._one(camera, Family.ERASE, Receipt, make)
        return receipt.reason

    async def fetch(self, camera: str, event: FrameId, *, pictures: bool = False) -> AsyncIterator[EventFrame]:
        """Get the frames of an event, in the order in which they were taken.

        Args:
            camera: its camera.
            event: the event, as a list names it.
            pictures: its pictures, which the camera's settings allow to some clients; else its latents.

        Raises:
            EventError: the edge refuses, keeps no such event, or does not answer.
            NotAuthorizedError: the broker does not let this client ask.
        """
        request_id, parts = self._request_id(), _Parts()
        make = partial(FetchPictures, pictures_of=event) if pictures else partial(FetchEvent, event=event)
        family, ask = (Family.PICTURE, Family.PICTURES) if pictures else (Family.CLIP, Family.RING)
        filters = await self._subscribe(camera, request_id, family)
        try:
            tries = 0
            while tries < TRIES:
                message = make(request_id=request_id, skip=parts.again())
                await self._bus.publish(topics.request_topic(ask, camera, self.name), wire.encode(message), qos=1)
                tries += 1
                while (reply := await self._next(filters)) is not None:
                    if isinstance(reply, Receipt):
                        raise EventError(camera, reply.reason)
                    if isinstance(reply, EventLatents | EventPicture) and (frame := parts.add(reply)) is not None:
                        tries = 0
                        yield frame
                        if frame.index + 1 >= frame.count:
                            return
            raise EventError(camera, f"nothing came within {TRIES * self._patience_s:g} s; {parts.frames} frames did")
        finally:
            for name in filters:
                await self._bus.unsubscribe(name)

    async def _one(self, camera: str, ask: Family, kind: type[M], make: Callable[..., ListEvents | EraseEvents]) -> M:
        """Ask, and wait for the one reply."""
        request_id = self._request_id()
        filters = await self._subscribe(camera, request_id)
        try:
            for _ in range(TRIES):
                payload = wire.encode(make(request_id=request_id))
                await self._bus.publish(topics.request_topic(ask, camera, self.name), payload, qos=1)
                reply = await self._next(filters)
                if isinstance(reply, Receipt) and not reply.accepted:
                    raise EventError(camera, reply.reason)
                if isinstance(reply, kind):
                    return reply
        finally:
            for name in filters:
                await self._bus.unsubscribe(name)
        raise EventError(
            camera,
            f"no answer within {TRIES * self._patience_s:g} s: is its edge online, and does the camera keep events?",
        )

    async def _subscribe(self, camera: str, request_id: str, *families: Family) -> list[str]:
        checked_name("CAMERA", camera)
        names = [topics.event_topic(family, self.name, camera, request_id) for family in (Family.EVENTS, *families)]
        for name in names:
            await self._bus.subscribe(Subscription(name, qos=1))
        return names

    async def _next(self, names: list[str]) -> Message | None:
        """The next reply; None when nothing comes in time."""
        due_s = time.monotonic() + self._patience_s
        while (left_s := due_s - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    (event,) = await self._bus.receive_batch(1)
            except TimeoutError:
                return None
            if not isinstance(event, Inbound):
                continue
            if event.qos:
                self._bus.acknowledge(event)
            try:
                _, message = wire.decode_publish(event.topic, event.payload)
            except RemoteError:
                continue
            if event.topic in names and not event.retain:
                return message
        return None

    def _request_id(self) -> str:
        return f"r-{secrets.token_hex(6)}"
