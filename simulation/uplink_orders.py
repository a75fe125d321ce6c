"""Orders of departure that the edge does not use: what :mod:`simulation.scheduler_comparison` compares it with."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

from pipeline.protocol.departures import TRAFFIC_CLASS_LIMITS, Departure, TrafficClass


class FirstComeFirstServed:
    """One line for everything.

    Args:
        rate_kbps: rate of the uplink, of which this order takes no notice.

    Attributes:
        counters: nothing is withdrawn, so it counts nothing by itself.
    """

    def __init__(self, rate_kbps: float | None) -> None:  # noqa: ARG002 - made as every order is
        self.counters: Counter[str] = Counter()
        self._line: deque[Departure] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def put(self, departure: Departure, now_s: float) -> bool:
        """Queue a message; false when there are too many."""
        if len(self._line) >= sum(TRAFFIC_CLASS_LIMITS.values()):
            return False
        departure.queued_s = now_s
        self._line.append(departure)
        return True

    def pop(self, now_s: float) -> Departure | None:  # noqa: ARG002 - the interface of every order
        """The one that has waited longest."""
        return self._line.popleft() if self._line else None


class Turns:
    """Messages of several cameras: each camera in turn, first come first served within it."""

    def __init__(self) -> None:
        self._cameras: OrderedDict[str | None, deque[Departure]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, departure: Departure) -> None:
        """Queue a message."""
        self._cameras.setdefault(departure.camera, deque()).append(departure)
        self._count += 1

    def pop(self) -> Departure:
        """The next one; there must be one."""
        camera, line = self._cameras.popitem(last=False)
        departure = line.popleft()
        if line:
            self._cameras[camera] = line  # to the end: the others come first
        self._count -= 1
        return departure


class RoundRobin:
    """Traffic classes, each with its cameras in turn: chunks first, then open messages and reports alternately.

    Args:
        rate_kbps: rate of the uplink, of which this order takes no notice.

    Attributes:
        counters: nothing is withdrawn, so it counts nothing by itself.
    """

    def __init__(self, rate_kbps: float | None) -> None:  # noqa: ARG002 - made as every order is
        self.counters: Counter[str] = Counter()
        self._classes = {traffic_class: Turns() for traffic_class in TrafficClass}
        self._report_is_next = False

    def __len__(self) -> int:
        return sum(len(turns) for turns in self._classes.values())

    def put(self, departure: Departure, now_s: float) -> bool:
        """Queue a message; false when its traffic class is full."""
        turns = self._classes[departure.traffic_class]
        if len(turns) >= TRAFFIC_CLASS_LIMITS[departure.traffic_class]:
            return False
        departure.queued_s = now_s
        turns.put(departure)
        return True

    def pop(self, now_s: float) -> Departure | None:  # noqa: ARG002 - the interface of every order
        """The next one of the first traffic class that has any."""
        later = (
            (TrafficClass.REPORT, TrafficClass.OPEN)
            if self._report_is_next
            else (TrafficClass.OPEN, TrafficClass.REPORT)
        )
        for traffic_class in (TrafficClass.FRAME_UNDER_WAY, *later):
            if len(self._classes[traffic_class]):
                if traffic_class is not TrafficClass.FRAME_UNDER_WAY:
                    self._report_is_next = traffic_class is TrafficClass.OPEN
                return self._classes[traffic_class].pop()
        return None
