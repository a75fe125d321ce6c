"""Requests for events: lists, latents, pictures, erasures. What they cost the uplink leaves when nothing else waits.

One frame of a request is read and sent at a time, and the next one when the broker has it. A client that misses some
asks for the rest; whoever asks again under the same id begins anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from pipeline.protocol.client_budgets import ClientBudgets
from pipeline.protocol.departures import Departure, TrafficClass
from pipeline.protocol.edge_messages import always
from pipeline.protocol.event_keeper import EventKeeper, EventSettings
from pipeline.protocol.event_link import EventLink
from pipeline.protocol.event_requests import (
    EraseKeptEvents,
    EventFrameRead,
    EventResult,
    EventsChanged,
    EventsListed,
    ListKeptEvents,
    ReadEventFrame,
)
from pipeline.protocol.frame_ring import FrameRing
from pipeline.protocol.ports import Delivery, Notice, Problem, Received
from schemas import topics
from schemas.limits import MAX_EVENTS_A_PAGE, MAX_PICTURE_PART_BYTES, MAX_RECEIPT_CHARS
from schemas.messages import (
    EraseEvents,
    EventLatents,
    EventList,
    EventPicture,
    FetchEvent,
    FetchPictures,
    ListEvents,
    Message,
    Receipt,
)
from schemas.printable import as_reason
from schemas.topics import Family, Topic
from schemas.types import FrameId

MAX_FETCHES: Final = 8
"""Fetches of a site at a time; a further one is refused."""

EventMessage = ListEvents | FetchEvent | FetchPictures | EraseEvents


@dataclass(slots=True)
class _Fetch:
    """Somebody gets an event.

    Attributes:
        camera: its camera.
        client: who gets it.
        request_id: of the client.
        event: the event.
        pictures: its pictures; else its latents.
        index: the frame that is read or sent.
        sent_bytes: so far.
    """

    camera: str
    client: str
    request_id: str
    event: FrameId
    pictures: bool
    index: int
    sent_bytes: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it."""
        return self.camera, self.client, self.request_id


class EventFetches:
    """Serves clients that ask for events.

    Args:
        site: this edge.
        cameras: its cameras.
        settings: what is kept, by camera.
        keeper: events that go on.
        ring: kept frames.
        link: the disk.
        budgets: what each client may cost.
        counters: what happened, by reason.
    """

    def __init__(
        self,
        site: str,
        cameras: Collection[str],
        settings: Mapping[str, EventSettings],
        keeper: EventKeeper,
        ring: FrameRing,
        link: EventLink,
        budgets: ClientBudgets,
        counters: Counter[str],
    ) -> None:
        self._site = site
        self._cameras = cameras
        self._settings = settings
        self._keeper = keeper
        self._ring = ring
        self._link = link
        self._budgets = budgets
        self._counters = counters
        self._fetches: dict[tuple[str, str, str], _Fetch] = {}
        self._departures: list[Departure] = []
        self._problems: list[Problem] = []

    def take_departures(self) -> list[Departure]:
        """What wants to leave, since the last call, in order."""
        departures, self._departures = self._departures, []
        return departures

    def take_problems(self) -> list[Problem]:
        """What clients did wrong, since the last call."""
        problems, self._problems = self._problems, []
        return problems

    def sizes(self) -> dict[str, int]:
        """Entries of its tables."""
        return {"event_fetches": len(self._fetches)}

    def receive(self, received: Received, topic: Topic, message: EventMessage, now_s: float) -> None:
        """A client wants something of the events of a camera."""
        camera, client = topic.name("camera"), topic.name("client")
        if camera not in self._cameras or received.retained:
            kind = "retained" if received.retained else "camera"
            problem = "a request for events was retained" if received.retained else f"no camera {camera} at this site"
            self._problems.append(Problem(f"{topic.family}/{kind}", problem))
            return
        if not self._budgets.ask(client, now_s):
            self._refuse(camera, client, message.request_id, "over the budget of this client", now_s)
            return
        self._counters[f"requests_{topic.family}"] += 1
        match message:
            case ListEvents():
                make = partial(ListKeptEvents, camera=camera, before=message.before, limit=MAX_EVENTS_A_PAGE)
                self._link.request(make, partial(self._listed, camera, client, message.request_id))
            case EraseEvents():
                self._erase(camera, client, message, now_s)
            case FetchPictures() if client not in self._allowed(camera):
                reason = f"pictures of camera {camera} are not for {client}: edge.cameras.{camera}.ring.pictures_for"
                self._link.notice(Notice("warning", "pictures of an event are refused", _who(camera, client)))
                self._refuse(camera, client, message.request_id, reason, now_s)
            case FetchEvent() | FetchPictures():
                pictures = isinstance(message, FetchPictures)
                event = message.pictures_of if isinstance(message, FetchPictures) else message.event
                fetch = _Fetch(camera, client, message.request_id, event, pictures, message.skip)
                if fetch.key not in self._fetches and len(self._fetches) >= MAX_FETCHES:
                    self._refuse(camera, client, message.request_id, f"{MAX_FETCHES} fetches run: ask later", now_s)
                    return
                context = {**_who(camera, client), "of_event": str(event), "skip": message.skip}
                what = "pictures" if pictures else "latents"
                self._link.notice(Notice("info", f"{what} of an event are fetched", context))
                self._fetches[fetch.key] = fetch
                self._read(fetch)

    # ---- lists, erasures --------------------------------------------------------------------------------------------

    def _listed(self, camera: str, client: str, request_id: str, result: EventResult, now_s: float) -> None:
        if isinstance(result, EventsListed):
            self._say(camera, client, request_id, EventList(camera=camera, events=result.entries, more=result.more))
        else:
            self._refuse(camera, client, request_id, "the disk of the edge cannot be read", now_s)

    def _erase(self, camera: str, client: str, message: EraseEvents, now_s: float) -> None:
        younger_s = None if message.younger_than_ms is None else message.younger_than_ms / 1000
        older_s, in_memory = message.older_than_ms / 1000, 0
        if message.event is None:
            from_s = float("-inf") if younger_s is None else now_s - younger_s
            in_memory = self._ring.erase(camera, from_s, now_s - older_s)
        self._keeper.erased(camera, message.event)
        make = partial(
            EraseKeptEvents, camera=camera, event=message.event, older_than_s=older_s, younger_than_s=younger_s
        )
        self._link.request(make, partial(self._erased, camera, client, message.request_id, in_memory))

    def _erased(
        self, camera: str, client: str, request_id: str, in_memory: int, result: EventResult, now_s: float
    ) -> None:
        if not isinstance(result, EventsChanged):
            self._refuse(camera, client, request_id, "the disk of the edge did not erase it", now_s)
            return
        context = {**_who(camera, client), "frames": result.frames, "frames_in_memory": in_memory}
        self._link.notice(Notice("info", "events were erased", context))
        said = f"erased {result.frames} frames of events, {in_memory} frames in memory"
        receipt = Receipt(site=self._site, about=request_id[:32], accepted=True, reason=said)
        self._say(camera, client, request_id, receipt)

    # ---- fetches ----------------------------------------------------------------------------------------------------

    def _read(self, fetch: _Fetch) -> None:
        make = partial(
            ReadEventFrame, camera=fetch.camera, event=fetch.event, index=fetch.index, picture=fetch.pictures
        )
        self._link.request(make, partial(self._frame_read, fetch))

    def _frame_read(self, fetch: _Fetch, result: EventResult, now_s: float) -> None:
        if self._fetches.get(fetch.key) is not fetch:
            return  # asked again meanwhile
        if not isinstance(result, EventFrameRead) or result.frame is None:
            what = "pictures" if fetch.pictures else "frames"
            if not isinstance(result, EventFrameRead):
                reason = "the disk of the edge cannot be read"
            elif fetch.index and result.count:
                reason = f"the event has {result.count} {what}"
            else:
                reason = f"no {what} of event {fetch.event} of camera {fetch.camera} are kept"
            self._end(fetch)
            self._refuse(fetch.camera, fetch.client, fetch.request_id, reason, now_s)
            return
        messages = _messages(fetch, result)
        fetch.sent_bytes += len(result.payload)
        family = Family.PICTURE if fetch.pictures else Family.CLIP
        topic = topics.event_topic(family, fetch.client, fetch.camera, fetch.request_id)
        for number, message in enumerate(messages):
            last = number == len(messages) - 1
            done = partial(self._delivered, fetch, result.count, last)
            self._put(TrafficClass.HISTORY, fetch.camera, topic, message, done)

    def _delivered(self, fetch: _Fetch, count: int, last: bool, delivery: Delivery, _now_s: float) -> None:
        if self._fetches.get(fetch.key) is not fetch:
            return
        if not delivery.arrived:
            self._end(fetch)  # the client asks for what it misses
        elif last and fetch.index + 1 < count:
            fetch.index += 1
            self._read(fetch)
        elif last:
            self._end(fetch)
            what = "pictures" if fetch.pictures else "latents"
            context = {**_who(fetch.camera, fetch.client), "of_event": str(fetch.event), "bytes": fetch.sent_bytes}
            self._link.notice(Notice("info", f"{what} of an event were sent", context))

    def _end(self, fetch: _Fetch) -> None:
        self._fetches.pop(fetch.key, None)

    # ---- words ------------------------------------------------------------------------------------------------------

    def _allowed(self, camera: str) -> frozenset[str]:
        settings = self._settings.get(camera)
        return frozenset() if settings is None else settings.pictures_for

    def _refuse(self, camera: str, client: str, request_id: str, reason: str, now_s: float) -> None:
        self._counters["requests_refused"] += 1
        said = as_reason(reason, MAX_RECEIPT_CHARS)
        if self._budgets.say(client, 200, now_s):
            receipt = Receipt(site=self._site, about=request_id[:32], accepted=False, reason=said)
            self._say(camera, client, request_id, receipt)

    def _say(self, camera: str, client: str, request_id: str, message: Message) -> None:
        topic = topics.event_topic(Family.EVENTS, client, camera, request_id)
        self._put(TrafficClass.REPORT, camera, topic, message, None)

    def _put(
        self,
        traffic_class: TrafficClass,
        camera: str,
        topic: str,
        message: Message,
        done: Callable[[Delivery, float], None] | None,
    ) -> None:
        label = topics.label_of(topic)
        self._departures.append(
            Departure(traffic_class, camera, label, topic, always(message), qos=1, until_sent=True, done=done)
        )


def _who(camera: str, client: str) -> dict[str, object]:
    return {"camera": camera, "client": client}


def _messages(fetch: _Fetch, read: EventFrameRead) -> list[EventLatents] | list[EventPicture]:
    assert read.frame is not None  # noqa: S101 - the caller has looked
    if not fetch.pictures:
        latents = EventLatents(
            event=fetch.event,
            frame=read.frame,
            index=fetch.index,
            count=read.count,
            offset_ms=read.offset_ms,
            fingerprint=read.fingerprint,
            payload=read.payload,
        )
        return [latents]
    starts = range(0, len(read.payload), MAX_PICTURE_PART_BYTES)
    return [
        EventPicture(
            event=fetch.event,
            frame=read.frame,
            index=fetch.index,
            count=read.count,
            offset_ms=read.offset_ms,
            part=number,
            parts=len(starts),
            payload=read.payload[start : start + MAX_PICTURE_PART_BYTES],
        )
        for number, start in enumerate(starts)
    ]
