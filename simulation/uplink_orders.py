"""Orders of departure that the edge does not use: what :mod:`simulation.uplink_contest` compares it with."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

from pipeline.protocol.departures import LANE_LIMITS, Departure, Lane


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
        if len(self._line) >= sum(LANE_LIMITS.values()):
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
    """Lanes, and in each of them the cameras in turn: chunks first, then open messages and reports alternately.

    Args:
        rate_kbps: rate of the uplink, of which this order takes no notice.

    Attributes:
        counters: nothing is withdrawn, so it counts nothing by itself.
    """

    def __init__(self, rate_kbps: float | None) -> None:  # noqa: ARG002 - made as every order is
        self.counters: Counter[str] = Counter()
        self._lanes = {lane: Turns() for lane in Lane}
        self._report_is_next = False

    def __len__(self) -> int:
        return sum(len(turns) for turns in self._lanes.values())

    def put(self, departure: Departure, now_s: float) -> bool:
        """Queue a message; false when its lane is full."""
        turns = self._lanes[departure.lane]
        if len(turns) >= LANE_LIMITS[departure.lane]:
            return False
        departure.queued_s = now_s
        turns.put(departure)
        return True

    def pop(self, now_s: float) -> Departure | None:  # noqa: ARG002 - the interface of every order
        """The next one of the first lane that has any."""
        later = (Lane.REPORT, Lane.OPEN) if self._report_is_next else (Lane.OPEN, Lane.REPORT)
        for lane in (Lane.FRAME_UNDER_WAY, *later):
            if len(self._lanes[lane]):
                if lane is not Lane.FRAME_UNDER_WAY:
                    self._report_is_next = lane is Lane.OPEN
                return self._lanes[lane].pop()
        return None
