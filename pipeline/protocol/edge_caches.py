"""What an edge session remembers beside its frames, all bounded: boot ids of workers, and ad-hoc queries."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from pipeline.protocol.edge_frame import EdgeFrame
from pipeline.protocol.effects import Decision
from schemas.messages import Status
from schemas.types import FrameId

KNOWN_WORKERS = 4096


@dataclass(slots=True)
class WorkerBoots:
    """Which start of each worker is the current one, so that the last will of an earlier one is ignored."""

    _boots: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._boots)

    def lost_by(self, status: Status) -> bool:
        """Whether a worker's status means that it has lost what it held: the current start ended, or another began."""
        if not status.online:
            return self._boots.get(status.id, status.boot) == status.boot
        known = self._boots.pop(status.id, None)
        self._boots[status.id] = status.boot
        if len(self._boots) > KNOWN_WORKERS:
            self._boots.popitem(last=False)
        return known is not None and known != status.boot


@dataclass(slots=True)
class AdHocQueries:
    """Which frame carries an ad-hoc query, and how the last ``capacity`` of them ended, to answer a repeated ask."""

    capacity: int
    _running: dict[str, tuple[str, FrameId]] = field(default_factory=dict)
    _decided: OrderedDict[str, Decision] = field(default_factory=OrderedDict)

    def sizes(self) -> tuple[int, int]:
        """Queries that run, and decided ones that are remembered."""
        return len(self._running), len(self._decided)

    def carried_by(self, frame: EdgeFrame) -> None:
        """A frame carries its ad-hoc queries."""
        for query_id, query in frame.queries.items():
            if query.ad_hoc:
                self._running[query_id] = (frame.camera, frame.frame)

    def running(self, query_id: str) -> tuple[str, FrameId] | None:
        """Camera and frame of an undecided query."""
        return self._running.get(query_id)

    def decide(self, decision: Decision) -> None:
        """The query has ended."""
        del self._running[decision.query_id]
        self._decided[decision.query_id] = decision
        if len(self._decided) > self.capacity:
            self._decided.popitem(last=False)

    def state(self, query_id: str) -> Decision | FrameId | None:
        """The decision of a query, as far as it is remembered, or the frame that carries it."""
        key = self._running.get(query_id)
        return key[1] if key is not None else self._decided.get(query_id)
