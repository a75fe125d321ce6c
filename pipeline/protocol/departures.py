"""What waits for the uplink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pipeline.protocol.effects import UtilityFunction
from pipeline.protocol.ports import Delivery, Qos
from schemas.messages import Message
from schemas.types import FrameId


class TrafficClass(StrEnum):
    """Which messages wait in line with one another."""

    FRAME_UNDER_WAY = "under way"
    """Chunks, *revoke*, question texts: a worker waits for them, and an answer is near."""
    OPEN = "open"
    """Frames that nobody works on yet."""
    REPORT = "report"
    """Outcomes, replies, status, standing questions."""
    HISTORY = "history"
    """Frames that waited for the link to come back: they leave when nothing else waits."""


TRAFFIC_CLASS_LIMITS = {
    TrafficClass.FRAME_UNDER_WAY: 1024,
    TrafficClass.OPEN: 2048,
    TrafficClass.REPORT: 4096,
    TrafficClass.HISTORY: 64,
}
"""Messages that may wait in each traffic class. A worker repeats a request for a lost chunk, an open that finds no room
expires at its deadline; reports hold about 400 bytes each."""


@dataclass(slots=True)
class Departure:
    """One publish that waits for the uplink.

    Attributes:
        traffic_class: what it waits in line with.
        camera: camera that it is about, None for what concerns the site.
        label: kind of message, for counters.
        topic: where to.
        stamp: the message as it leaves at the given time; None when there is nothing to send any more.
        qos: MQTT quality of service, 0 or 1.
        retain: MQTT retain flag.
        clears: the payload is empty, which deletes what is retained; the message only says what that was.
        frame: frame that it is about.
        correlation_data: MQTT 5 CorrelationData.
        until_sent: send it again after a lost connection; what nobody else would repeat.
        done: told what became of it, and when.
        utility: what it is worth; None for what does not compete.
        same_as: equal for two departures that say the same; the second one is not queued.
        patient: it may wait for others to share their headers with, see :class:`~pipeline.protocol.uplink.Uplink`.
        last_word: it leaves although the budget of the uplink is spent.
        queued_s: since when it waits; the queue sets it.
    """

    traffic_class: TrafficClass
    camera: str | None
    label: str
    topic: str
    stamp: Callable[[float], Message | None] = field(repr=False, compare=False)
    qos: Qos = 0
    retain: bool = False
    clears: bool = False
    frame: FrameId | None = None
    correlation_data: bytes | None = None
    until_sent: bool = False
    done: Callable[[Delivery, float], None] | None = field(default=None, repr=False, compare=False)
    utility: UtilityFunction | None = field(default=None, repr=False, compare=False)
    same_as: Hashable = None
    patient: bool = False
    last_word: bool = False
    queued_s: float = field(default=0.0, compare=False)


class DepartureOrder(Protocol):
    """What decides which message leaves next. The simulator compares several; the edge has :class:`DepartureQueue`."""

    counters: Counter[str]

    def __len__(self) -> int:
        """Messages that wait."""
        ...

    def put(self, departure: Departure, now_s: float) -> bool:
        """Queue a message; false when its traffic class is full."""
        ...

    def pop(self, now_s: float) -> Departure | None:
        """The message that goes next, None when nothing waits."""
        ...
