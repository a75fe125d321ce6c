"""Which births and last wills a simulated process has read, to judge what it makes of those that come too late."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.worker_session import WorkerSession
from schemas.messages import Status

STALE_WILL: Final = "stale will believed"


def seen_outside(session: EdgeSession | WorkerSession) -> tuple[object, ...]:
    """What a session shows: when it is due, its counters, and the sizes of its tables. Stale wills may be counted."""
    counters = Counter({name: count for name, count in session.counters.items() if name != "stale_will"})
    return session.next_wake_s(), counters, session.sizes()


@dataclass(slots=True)
class WillsRead:
    """Boot ids by process name, as one reader knows them.

    Attributes:
        ended: boots that were said to have ended once, or that another one followed.
        over_since_s: those among them that were not heard of again, with the time of the word.
    """

    ended: set[int] = field(default_factory=set)
    over_since_s: dict[int, float] = field(default_factory=dict)
    _latest: dict[str, int] = field(default_factory=dict)

    def is_stale(self, status: Status) -> bool:
        """Whether this is the last will of a start that another one has followed already."""
        return not status.online and self._latest.get(status.id, status.boot) != status.boot

    def learn(self, status: Status, now_s: float) -> None:
        """Take a birth, a load or a last will in."""
        if not status.online:
            self.ended.add(status.boot)
            if not self.is_stale(status):
                self.over_since_s.setdefault(status.boot, now_s)
            return
        before = self._latest.get(status.id, status.boot)
        if before != status.boot:
            self.ended.add(before)
            self.over_since_s.setdefault(before, now_s)
        self.over_since_s.pop(status.boot, None)
        self._latest[status.id] = status.boot
