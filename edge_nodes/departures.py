"""What waits for the uplink, and what goes next. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from schemas.messages import Message
from schemas.types import FrameId


class Lane(Enum):
    """Which messages wait in line with one another."""

    FRAME_UNDER_WAY = "under way"
    """Chunks, *gone*, question texts: a worker waits for them, and an answer is near."""
    OPEN = "open"
    """Frames that nobody works on yet."""
    REPORT = "report"
    """Outcomes, replies, status, standing questions."""


LANE_LIMITS = {Lane.FRAME_UNDER_WAY: 1024, Lane.OPEN: 2048, Lane.REPORT: 4096}
"""Messages that may wait in each lane. A worker repeats a request for a lost chunk, an open that finds no room expires
at its deadline; reports hold about 400 bytes each."""


@dataclass(frozen=True, slots=True)
class Departure:
    """One publish that waits for the uplink.

    Attributes:
        lane: its line.
        camera: camera that it is about, None for what concerns the site.
        label: kind of message, for counters.
        topic: where to.
        stamp: the message as it leaves at the given time; None when there is nothing to send any more.
        qos: MQTT quality of service, 0 or 1.
        retain: MQTT retain flag.
        frame: frame that it is about.
        correlation_data: MQTT 5 CorrelationData.
        until_sent: send it again after a lost connection; what nobody else would repeat.
        done: called with the broker's word (True: nobody subscribed), or with the error.
    """

    lane: Lane
    camera: str | None
    label: str
    topic: str
    stamp: Callable[[float], Message | None] = field(repr=False, compare=False)
    qos: int = 0
    retain: bool = False
    frame: FrameId | None = None
    correlation_data: bytes | None = None
    until_sent: bool = False
    done: Callable[[bool | Exception], None] | None = field(default=None, repr=False, compare=False)


class DepartureQueue:
    """Lanes, and within each of them the cameras in turn.

    Frames under way go first: they are few, bounded by what workers ask for. Opens and reports alternate, so that
    neither a flood of outcomes nor a flood of frames keeps the other from leaving.
    """

    def __init__(self) -> None:
        self._lanes: dict[Lane, OrderedDict[str | None, deque[Departure]]] = {lane: OrderedDict() for lane in Lane}
        self._counts: Counter[Lane] = Counter()
        self._report_is_next = False

    def __len__(self) -> int:
        return self._counts.total()

    def count(self, lane: Lane) -> int:
        """Messages that wait in a lane."""
        return self._counts[lane]

    def waiting(self, lane: Lane, camera: str) -> int:
        """Messages of a camera that wait in a lane."""
        return len(self._lanes[lane].get(camera, ()))

    def put(self, departure: Departure) -> bool:
        """Queue a message; false when its lane is full."""
        lane = departure.lane
        if self._counts[lane] >= LANE_LIMITS[lane]:
            return False
        self._lanes[lane].setdefault(departure.camera, deque()).append(departure)
        self._counts[lane] += 1
        return True

    def pop(self) -> Departure | None:
        """The message that goes next, None when nothing waits."""
        order = [Lane.FRAME_UNDER_WAY, Lane.OPEN, Lane.REPORT]
        if self._report_is_next:
            order = [Lane.FRAME_UNDER_WAY, Lane.REPORT, Lane.OPEN]
        for lane in order:
            if self._counts[lane]:
                if lane is not Lane.FRAME_UNDER_WAY:
                    self._report_is_next = lane is Lane.OPEN
                return self._pop(lane)
        return None

    def _pop(self, lane: Lane) -> Departure:
        cameras = self._lanes[lane]
        camera, line = next(iter(cameras.items()))
        departure = line.popleft()
        del cameras[camera]
        if line:
            cameras[camera] = line  # to the end: the others come first
        self._counts[lane] -= 1
        return departure
