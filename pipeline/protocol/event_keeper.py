"""Events: the frames around an answer that matches a rule of its question, kept on the disk of the edge.

An event begins so long before the frame whose answer matches, and ends so long after the last of them. Answers that
match while it lasts make it longer, up to :data:`~schemas.limits.MAX_EVENT_FRAMES` frames; then a new one begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pipeline.protocol.event_link import EventLink
from pipeline.protocol.event_requests import EraseKeptEvents, EventResult, EventsChanged, KeepEventFrame
from pipeline.protocol.frame_ring import FrameRing, HeldFrame
from pipeline.protocol.ports import Notice
from schemas.event_rule import is_event
from schemas.limits import MAX_EVENT_FRAMES, MAX_EVENT_TEXT_CHARS
from schemas.messages import Question
from schemas.printable import as_reason
from schemas.types import FrameId

MAX_EVENT_WRITES: Final = 1_024
"""Frames of events on their way to the disk; a further one is left out of its event, and counted."""
EXPIRY_INTERVAL_S: Final = 600.0
"""Between two looks for events that are too old."""


@dataclass(frozen=True, slots=True)
class EventSettings:
    """What is kept of a camera's events.

    Attributes:
        before_s: time before the frame whose answer matches.
        after_s: time after it.
        pictures_for: clients that may fetch pictures.
    """

    before_s: float = 0.0
    after_s: float = 0.0
    pictures_for: frozenset[str] = frozenset()

    @property
    def any(self) -> bool:
        """Whether events are kept."""
        return self.before_s > 0 or self.after_s > 0


@dataclass(slots=True)
class _Event:
    """An event that goes on.

    Attributes:
        event: the frame that made it.
        question_id: its question.
        text: the answer.
        at_s: when that frame was taken.
        from_s: frames from then on belong to it.
        until_s: and until then.
        stored: frames that went to the disk.
    """

    event: FrameId
    question_id: str
    text: str
    at_s: float
    from_s: float
    until_s: float
    stored: set[FrameId] = field(default_factory=set)


class EventKeeper:
    """Events of a site.

    Args:
        cameras: what is kept, by camera; of others nothing is.
        ring: kept frames.
        link: the disk.
        max_age_s: age from which on an event is dropped.
        counters: what happened, by reason.
        now_s: the edge's monotonic time.
    """

    def __init__(
        self,
        cameras: Mapping[str, EventSettings],
        ring: FrameRing,
        link: EventLink,
        max_age_s: float,
        counters: Counter[str],
        now_s: float,
    ) -> None:
        self._cameras = {camera: settings for camera, settings in cameras.items() if settings.any}
        self._ring = ring
        self._link = link
        self._max_age_s = max_age_s
        self._counters = counters
        self._expires_s = now_s
        self._events: dict[str, _Event] = {}
        self._writes = 0

    def sizes(self) -> dict[str, int]:
        """Entries of its tables."""
        return {"events": len(self._events), "event_writes": self._writes}

    def answered(self, camera: str, frame: FrameId, question: Question, text: str, now_s: float) -> None:
        """A standing question was answered of a frame.

        Args:
            camera: its camera.
            frame: the frame.
            question: the question, with its rule.
            text: the answer.
            now_s: the edge's monotonic time.
        """
        settings = self._cameras.get(camera)
        if settings is None or not is_event(question.answer_type, question.keep_when, text):
            return
        held = self._ring.find(camera, frame)
        if held is None:
            self._counters["event_frames_gone"] += 1
            return
        event = self._events.get(camera)
        goes_on = event is not None and held.captured_s - settings.before_s <= event.until_s
        if event is None or not goes_on or len(event.stored) >= MAX_EVENT_FRAMES:
            said = as_reason(text, MAX_EVENT_TEXT_CHARS)
            from_s, until_s = held.captured_s - settings.before_s, held.captured_s + settings.after_s
            event = _Event(frame, question.question_id, said, held.captured_s, from_s, until_s)
            self._events[camera] = event
            self._counters["events"] += 1
            context = {"camera": camera, "of_event": str(frame), "question": question.question_id}
            self._link.notice(Notice("info", "an event is kept", context))
        event.until_s = max(event.until_s, held.captured_s + settings.after_s)
        for other in list(self._ring.of(camera)):
            if event.from_s <= other.captured_s <= event.until_s:
                self._store(camera, event, other, now_s)

    def frame_kept(self, held: HeldFrame, now_s: float) -> None:
        """A frame was taken: perhaps it comes after an answer that matched."""
        event = self._events.get(held.camera)
        if event is None:
            return
        if held.captured_s > event.until_s:
            del self._events[held.camera]
        elif held.captured_s >= event.from_s:
            self._store(held.camera, event, held, now_s)

    def erased(self, camera: str, event: FrameId | None) -> None:
        """Events of a camera are forgotten: one that goes on ends."""
        running = self._events.get(camera)
        if running is not None and event in (None, running.event):
            del self._events[camera]

    def next_wake_s(self) -> float | None:
        """When :meth:`tick` is due next."""
        return self._expires_s if self._cameras else None

    def tick(self, now_s: float) -> None:
        """Drop what is too old."""
        if self._cameras and self._expires_s <= now_s:
            self._expires_s = now_s + EXPIRY_INTERVAL_S
            make = partial(EraseKeptEvents, camera=None, older_than_s=self._max_age_s)
            self._link.request(make, self._expired)

    def _expired(self, result: EventResult, _now_s: float) -> None:
        if isinstance(result, EventsChanged):
            self._counters["event_frames_expired"] += result.frames

    def _store(self, camera: str, event: _Event, held: HeldFrame, now_s: float) -> None:
        if held.frame in event.stored or len(event.stored) >= MAX_EVENT_FRAMES:
            return
        if self._writes >= MAX_EVENT_WRITES:
            self._counters["event_frames_left_out"] += 1
            return
        event.stored.add(held.frame)
        self._writes += 1
        self._link.request(
            partial(
                KeepEventFrame,
                camera=camera,
                event=event.event,
                question_id=event.question_id,
                text=event.text,
                event_age_s=max(0.0, now_s - event.at_s),
                frame=held.frame,
                offset_ms=round(1000 * (held.captured_s - event.at_s)),
                latent=held.latent,
                picture=held.picture,
            ),
            self._written,
        )

    def _written(self, result: EventResult, _now_s: float) -> None:
        self._writes -= 1
        self._counters["event_frames" if isinstance(result, EventsChanged) else "event_frames_lost"] += 1
