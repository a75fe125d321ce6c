"""What goes next of what waits for the uplink. The edge process and the simulator run this same code.

The order (docs/decisions/0005-fair-uplink.md):

1. *Revoke* and question texts first: they are tiny, and a worker waits for them. While anything else waits they have
   every second turn at most: an edge that comes back from a freeze finds a flood of claims to refuse.
2. Open messages and chunks compete by what they offer (:class:`~pipeline.protocol.effects.Utility`). Those that can
   leave in time are taken in the order of their deadlines; when they do not all fit, the one that gains least for its
   bytes is left out until they do (Moore and Hodgson, 1968). Of those that are kept, the one that gains most for its
   bytes goes next, provided that the others stay in time behind it; in need (:data:`NEED_S`), those that gain at least
   half as much (:data:`AS_MUCH`).
3. A camera that was not served for :data:`MAX_WAIT_S`, or a message that has waited for that long, may go before them
   at every :data:`LONG_WAIT_TURN`-th departure at most: nothing starves, and not everything becomes first come, first
   served when everything has waited long.
4. Reports (outcomes, replies, status, standing questions) take turns with them, first come first served: all of
   them are due at once.
5. What cannot be in time any more goes when nothing else waits; what nobody wants any more is withdrawn and counted.
6. History, opens and chunks of frames that waited for the link to come back, goes last, first come first served.

Messages to a worker about one frame leave in the order in which they were queued. What waits already is not queued
again when a worker repeats its request.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from pipeline.protocol.departures import TRAFFIC_CLASS_LIMITS, Departure, TrafficClass
from pipeline.protocol.effects import Utility
from schemas.wire_cost import publish_wire_bytes

MAX_WAIT_S: Final = 5.0
"""Longest wait of a camera, or of a message that can still be in time, before it may go out of turn."""
LONG_WAIT_TURN: Final = 4
"""One departure in so many may go to what has waited longest."""
NEED_S: Final = 2.0
"""The uplink is in need for so long after a message had to be left out."""
AS_MUCH: Final = 0.5
"""In need, a message may make another one late that gains less than this share of its own gain for a byte: what is
worth more is banked early, since new messages will come before its deadline does."""
COMPARED_MESSAGES: Final = 64
"""Messages that one choice compares: those that gain most for their bytes. It bounds the work for each departure."""


@dataclass(slots=True)
class _Waiting:
    """A departure that competes, with its latest utility."""

    departure: Departure
    number: int
    gain_per_byte: float = 0.0
    takes_s: float = 0.0
    leave_by_s: float = 0.0
    ends_s: float = 0.0

    def take(self, utility: Utility, bytes_per_s: float) -> None:
        size_bytes = publish_wire_bytes(self.departure.topic, utility.message_bytes, self.departure.qos)
        self.gain_per_byte = utility.gain / size_bytes
        self.takes_s = size_bytes / bytes_per_s
        self.leave_by_s, self.ends_s = utility.leave_by_s, utility.ends_s

    def is_in_time(self, now_s: float) -> bool:
        return now_s + self.takes_s <= self.leave_by_s


def feasible(candidates: list[_Waiting], now_s: float) -> list[_Waiting]:
    """Those that can all leave in time one after the other, by deadline; what gains least for its bytes is left out."""
    kept: list[tuple[float, int, _Waiting]] = []
    left_out: set[int] = set()
    candidates = sorted(candidates, key=lambda waiting: waiting.leave_by_s)
    busy_until_s = now_s
    for waiting in candidates:
        heapq.heappush(kept, (waiting.gain_per_byte, -waiting.number, waiting))
        busy_until_s += waiting.takes_s
        while busy_until_s > waiting.leave_by_s and kept:
            dropped = heapq.heappop(kept)[2]
            left_out.add(dropped.number)
            busy_until_s -= dropped.takes_s
    return [waiting for waiting in candidates if waiting.number not in left_out]


def goes_next(kept: list[_Waiting], now_s: float, as_much: float) -> _Waiting:
    """Of a feasible list by deadline, the one that gains most for its bytes without harm.

    Args:
        kept: the list.
        now_s: the edge's monotonic time.
        as_much: nothing may become late that gains more than this share of the chosen one's gain for a byte.
    """
    slack_s, busy_until_s = [], now_s
    for waiting in kept:
        busy_until_s += waiting.takes_s
        slack_s.append(waiting.leave_by_s - busy_until_s)
    for position in sorted(range(len(kept)), key=lambda index: -kept[index].gain_per_byte):
        chosen = kept[position]
        counts = as_much * chosen.gain_per_byte
        if all(slack_s[i] >= chosen.takes_s or kept[i].gain_per_byte < counts for i in range(position)):
            return chosen
    raise AssertionError("the first by deadline has nothing before it")


class DepartureQueue:
    """The order that the module describes.

    Args:
        rate_kbps: rate of the uplink; None has no limit.

    Attributes:
        counters: what was withdrawn or merged, by reason and label.
    """

    def __init__(self, rate_kbps: float | None) -> None:
        self.counters: Counter[str] = Counter()
        self._bytes_per_s = float("inf") if rate_kbps is None else rate_kbps * 1000 / 8
        self._counts: Counter[TrafficClass] = Counter()
        self._next_number = 0
        self._urgent: dict[int, Departure] = {}
        self._reports: deque[Departure] = deque()
        self._history: deque[Departure] = deque()
        self._competing: dict[int, _Waiting] = {}  # all that compete
        self._timely: dict[int, _Waiting] = {}  # in time when they were last looked at; the oldest first
        self._ranked: list[tuple[float, int]] = []  # the same, sorted: minus the gain for a byte, number
        self._late: list[tuple[float, int]] = []  # what cannot be in time, sorted: when it ends, number
        self._of_camera: dict[str | None, dict[int, _Waiting]] = {}
        self._unserved_since_s: OrderedDict[str | None, float] = OrderedDict()  # the longest first
        self._same: set[Hashable] = set()
        self._late_turn = 0
        self._need_until_s = float("-inf")
        self._urgent_was_last = False
        self._report_is_next = False
        self._turns_since_long_wait = LONG_WAIT_TURN

    def __len__(self) -> int:
        return len(self._urgent) + len(self._competing) + len(self._reports) + len(self._history)

    def count(self, traffic_class: TrafficClass) -> int:
        """Messages that wait in a traffic class."""
        return self._counts[traffic_class]

    def put(self, departure: Departure, now_s: float) -> bool:
        """Queue a message; false when its traffic class is full."""
        if departure.same_as in self._same:
            self.counters[f"merged_{departure.label}"] += 1
            return True
        traffic_class = departure.traffic_class
        if departure.utility is not None:
            self._withdraw_unwanted(departure.camera, now_s)
        if self._counts[traffic_class] >= TRAFFIC_CLASS_LIMITS[traffic_class]:
            return False
        departure.queued_s = now_s
        self._counts[traffic_class] += 1
        self._next_number += 1
        if departure.same_as is not None:
            self._same.add(departure.same_as)
        if traffic_class is TrafficClass.REPORT:
            self._reports.append(departure)
        elif traffic_class is TrafficClass.HISTORY:
            self._history.append(departure)
        elif departure.utility is None:
            self._urgent[self._next_number] = departure
        else:
            self._put_competing(_Waiting(departure, self._next_number), now_s)
        return True

    def pop(self, now_s: float) -> Departure | None:
        """The message that goes next, None when nothing waits."""
        if self._urgent and not (self._urgent_was_last and (self._competing or self._reports)):
            self._urgent_was_last = True
            return self._pop_urgent(next(iter(self._urgent)), now_s)
        self._urgent_was_last = False
        if self._reports and (self._report_is_next or not self._competing):
            return self._pop_report()
        self._withdraw_ended(now_s)
        self._rank_late_again(now_s)
        while (waiting := self._choose(now_s)) is not None:
            if (number := self._earlier_urgent(waiting)) is not None:
                return self._pop_urgent(number, now_s)
            self._remove(waiting)
            # Asked again, so that nothing leaves that was decided since.
            if self._wanted(waiting, now_s):
                self._serve(waiting, now_s)
                return waiting.departure
        # All that competed were withdrawn; what gave way to them goes now.
        if self._reports:
            return self._pop_report()
        if self._urgent:
            return self._pop_urgent(next(iter(self._urgent)), now_s)
        return self._pop_history() if self._history else None

    # ---- traffic classes --------------------------------------------------------------------------------------------

    def _pop_urgent(self, number: int, now_s: float) -> Departure:
        departure = self._urgent[number]
        while (earlier := self._first_chunk(departure)) is not None and earlier.number < number:
            self._remove(earlier)
            if self._wanted(earlier, now_s):
                return earlier.departure
        del self._urgent[number]
        self._forget(departure)
        return departure

    def _pop_report(self) -> Departure:
        self._report_is_next = False
        departure = self._reports.popleft()
        self._forget(departure)
        return departure

    def _pop_history(self) -> Departure:
        departure = self._history.popleft()
        self._forget(departure)
        return departure

    def _forget(self, departure: Departure) -> None:
        self._counts[departure.traffic_class] -= 1
        self._same.discard(departure.same_as)

    def _put_competing(self, waiting: _Waiting, now_s: float) -> None:
        departure = waiting.departure
        self._competing[waiting.number] = waiting
        self._of_camera.setdefault(departure.camera, {})[waiting.number] = waiting
        self._unserved_since_s.setdefault(departure.camera, now_s)
        self._rank(waiting, now_s)

    def _remove(self, waiting: _Waiting) -> None:
        departure = waiting.departure
        del self._competing[waiting.number]
        self._timely.pop(waiting.number, None)
        mine = self._of_camera[departure.camera]
        del mine[waiting.number]
        if not mine:
            del self._of_camera[departure.camera]
        self._forget(departure)
        self._unrank(waiting)

    def _first_chunk(self, departure: Departure) -> _Waiting | None:
        """The first message to a worker that waits about the same frame: they leave in order."""
        if departure.traffic_class is not TrafficClass.FRAME_UNDER_WAY:
            return None
        for waiting in self._of_camera.get(departure.camera, {}).values():
            if (
                waiting.departure.frame == departure.frame
                and waiting.departure.traffic_class is TrafficClass.FRAME_UNDER_WAY
            ):
                return waiting
        return None

    def _earlier_urgent(self, waiting: _Waiting) -> int | None:
        """What goes to a worker about the same frame and was queued before."""
        if waiting.departure.traffic_class is TrafficClass.FRAME_UNDER_WAY:
            for number, departure in self._urgent.items():
                if number > waiting.number:
                    break
                if (departure.camera, departure.frame) == (waiting.departure.camera, waiting.departure.frame):
                    return number
        return None

    def _serve(self, waiting: _Waiting, now_s: float) -> None:
        """Note whose turn this was."""
        self._report_is_next = True
        camera = waiting.departure.camera
        del self._unserved_since_s[camera]
        if camera in self._of_camera:
            self._unserved_since_s[camera] = now_s

    # ---- utilities --------------------------------------------------------------------------------------------------

    def _wanted(self, waiting: _Waiting, now_s: float) -> bool:
        """Ask for the utility anew; what nobody wants any more is counted."""
        assert waiting.departure.utility is not None  # noqa: S101
        utility = waiting.departure.utility(now_s)
        if utility is not None:
            waiting.take(utility, self._bytes_per_s)
            return True
        reason = "too_late" if waiting.ends_s and now_s >= waiting.ends_s else "decided"
        self.counters[f"withdrawn_{waiting.departure.label}_{reason}"] += 1
        return False

    def _withdraw_unwanted(self, camera: str | None, now_s: float) -> None:
        """Drop what a newer frame of this camera has superseded, so that it does not stand in the others' way.

        Where it has superseded some queries of a frame, the others may have more time than those had.
        """
        for waiting in list(self._of_camera.get(camera, {}).values()):
            assert waiting.departure.utility is not None  # noqa: S101
            if waiting.departure.utility(now_s) is None:
                self._remove(waiting)
                self._wanted(waiting, now_s)
            elif waiting.number not in self._timely:
                self._rank(waiting, now_s)  # without the queries that are over it may be in time again

    def _withdraw_ended(self, now_s: float) -> None:
        while self._late and self._late[0][0] <= now_s:
            waiting = self._competing[self._late[0][1]]
            self._remove(waiting)
            self.counters[f"withdrawn_{waiting.departure.label}_too_late"] += 1

    def _rank(self, waiting: _Waiting, now_s: float) -> bool:
        """Ask for its utility and give it its place in the order; whether it can be in time."""
        self._unrank(waiting)
        if not self._wanted(waiting, now_s):
            self._remove(waiting)
        elif waiting.is_in_time(now_s):
            self._timely[waiting.number] = waiting
            insort(self._ranked, (-waiting.gain_per_byte, waiting.number))
            return True
        else:
            self._timely.pop(waiting.number, None)
            insort(self._late, (waiting.ends_s, waiting.number))
        return False

    def _unrank(self, waiting: _Waiting) -> None:
        if not _discard(self._ranked, (-waiting.gain_per_byte, waiting.number)):
            _discard(self._late, (waiting.ends_s, waiting.number))

    # ---- the choice -------------------------------------------------------------------------------------------------

    def _choose(self, now_s: float) -> _Waiting | None:
        if len(self._competing) == 1:
            return next(iter(self._competing.values()))
        chosen = self._long_waiting(now_s) or self._most_gain(now_s) or self._best_of_late()
        if chosen is None:
            return None
        return self._first_chunk(chosen.departure) or chosen

    def _long_waiting(self, now_s: float) -> _Waiting | None:
        """What has waited for longer than the bound, the longest first, at every so many departures."""
        self._turns_since_long_wait += 1
        if self._turns_since_long_wait < LONG_WAIT_TURN:
            return None
        longest, since_s = None, now_s - MAX_WAIT_S
        for waiting in list(islice(self._timely.values(), COMPARED_MESSAGES)):
            if waiting.is_in_time(now_s) or self._rank(waiting, now_s):
                if waiting.departure.queued_s < since_s:
                    longest, since_s = waiting, waiting.departure.queued_s
                break
        for camera, unserved_since_s in islice(self._unserved_since_s.items(), COMPARED_MESSAGES):
            if unserved_since_s >= since_s:
                break
            mine = self._of_camera.get(camera, {}).values()
            first = next((waiting for waiting in mine if waiting.is_in_time(now_s)), None)
            if first is not None:
                longest = first
                break
        if longest is not None:
            self._turns_since_long_wait = 0
        return longest

    def _rank_late_again(self, now_s: float) -> None:
        """One of those that were late, in turn: what made it late may be over."""
        if self._late:
            self._late_turn = (self._late_turn + 1) % len(self._late)
            self._rank(self._competing[self._late[self._late_turn][1]], now_s)

    def _most_gain(self, now_s: float) -> _Waiting | None:
        candidates: list[_Waiting] = []
        stale: list[_Waiting] = []
        for _, number in self._ranked:
            waiting = self._competing[number]
            (candidates if waiting.is_in_time(now_s) else stale).append(waiting)
            if len(candidates) == COMPARED_MESSAGES:
                break
        # The query with the first deadline is lost; the others of the frame may still be in time.
        candidates += [waiting for waiting in stale if self._rank(waiting, now_s)]
        if len(candidates) <= 1:
            return candidates[0] if candidates else None
        kept = feasible(candidates, now_s)
        if len(kept) < len(candidates):
            self._need_until_s = now_s + NEED_S
        return goes_next(kept, now_s, AS_MUCH if now_s < self._need_until_s else 0.0)

    def _best_of_late(self) -> _Waiting | None:
        late = [self._competing[number] for _, number in self._late[:COMPARED_MESSAGES]]
        return max(late, key=lambda waiting: waiting.gain_per_byte, default=None)


def _discard(entries: list[tuple[float, int]], entry: tuple[float, int]) -> bool:
    """Take an entry out of a sorted list; whether it was there."""
    index = bisect_left(entries, entry)
    if index == len(entries) or entries[index] != entry:
        return False
    del entries[index]
    return True
