"""Events for everybody who listens: each subscriber has a bounded queue, and one that is full costs only its own."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from latentbus.gateway.access import Principal

MAX_QUEUED_EVENTS: Final = 4_096
MAX_QUEUED_BYTES: Final = 4_194_304
"""Of one subscriber."""
FLUSH_S: Final = 0.2
"""Least time between two chunks to a subscriber: many events become one write."""


def encoded(event: str, data: str) -> bytes:
    """An event as it stands in the stream.

    Args:
        event: its name.
        data: JSON on one line.
    """
    return f"event: {event}\ndata: {data}\n\n".encode()


def json_line(value: object) -> str:
    """JSON on one line, in ASCII, that no page takes for markup."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass(eq=False, slots=True)
class Subscriber:
    """Somebody who listens.

    Attributes:
        principal: who it is; it gets what that may see.
        ended: why nothing more comes; None while something may.
    """

    principal: Principal
    ended: str | None = None
    _chunks: list[bytes] = field(default_factory=list)
    _size_bytes: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, chunk: bytes) -> None:
        """Add an event; one too many ends the subscription."""
        if self.ended is not None:
            return
        if len(self._chunks) >= MAX_QUEUED_EVENTS or self._size_bytes + len(chunk) > MAX_QUEUED_BYTES:
            self.end("too_slow")
            return
        self._chunks.append(chunk)
        self._size_bytes += len(chunk)
        self._changed.set()

    def end(self, reason: str) -> None:
        """Nothing more comes. What waits is dropped where the subscriber does not read it anyway."""
        if self.ended is None:
            self.ended = reason
            if reason == "too_slow":
                self._chunks.clear()
                self._size_bytes = 0
            self._changed.set()

    async def chunks(self, flush_s: float | None = None) -> AsyncIterator[bytes]:
        """What to send, up to the end; the last event says why it ends.

        Args:
            flush_s: least time between two chunks; :data:`FLUSH_S` unless given.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._chunks:
                chunk, self._chunks, self._size_bytes = b"".join(self._chunks), [], 0
                yield chunk
            if self.ended is not None:
                yield encoded("end", json_line({"reason": self.ended}))
                return
            await asyncio.sleep(FLUSH_S if flush_s is None else flush_s)


class Hub:
    """Hands events to subscribers.

    Attributes:
        counters: subscribers that were dropped, by reason.
    """

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._subscribers: set[Subscriber] = set()
        self._closed: str | None = None

    def __len__(self) -> int:
        return len(self._subscribers)

    def subscribe(self, principal: Principal, first: bytes = b"") -> Subscriber:
        """Listen from now on; :meth:`leave` ends it.

        Args:
            principal: who listens.
            first: what comes before all events.
        """
        subscriber = Subscriber(principal)
        if first:
            subscriber.put(first)
        if self._closed is not None:
            subscriber.end(self._closed)
        self._subscribers.add(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """It does not listen any more."""
        self._subscribers.discard(subscriber)

    def publish(self, event: str, data: str, *, camera: str | None = None) -> None:
        """Tell everybody who may see it.

        Args:
            event: name of the event.
            data: JSON on one line.
            camera: what it is about; None for what only those may see who are held to no camera.
        """
        if not self._subscribers:
            return
        chunk = encoded(event, data)
        for subscriber in [one for one in self._subscribers if one.principal.sees(camera)]:
            self._put(subscriber, chunk)

    def publish_to(self, principal: Principal, event: str, data: str) -> None:
        """Tell what is meant for one principal alone."""
        chunk = encoded(event, data)
        for subscriber in [one for one in self._subscribers if one.principal == principal]:
            self._put(subscriber, chunk)

    def principals(self) -> set[Principal]:
        """Who listens."""
        return {subscriber.principal for subscriber in self._subscribers}

    def note_stuck(self) -> None:
        """A stream was cut off: its client takes nothing."""
        self.counters["takes_nothing"] += 1

    def close(self, reason: str) -> None:
        """Nothing more comes for anybody, those who come later included."""
        self._closed = reason
        for subscriber in self._subscribers:
            subscriber.end(reason)

    def _put(self, subscriber: Subscriber, chunk: bytes) -> None:
        subscriber.put(chunk)
        if subscriber.ended is not None:
            self.counters[subscriber.ended] += 1
            self._subscribers.discard(subscriber)
