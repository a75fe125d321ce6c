"""Which open messages wait for an uplink, to judge which of them goes first.

The order of departure weighs much, so only cases are judged that leave no doubt: two first opens of one camera, and
time for everything that waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.protocol.departure_queue import MAX_WAIT_S
from pipeline.protocol.edge_frame import EdgeFrame, EdgeStage
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery
from pipeline.protocol.expected_gain import open_message_bytes
from pipeline.protocol.ports import Publish
from schemas.messages import Chunk, Open
from schemas.types import FrameId
from schemas.wire_cost import publish_wire_bytes
from simulation.query_ledger import Problem
from simulation.worker_ledger import STANDING_FIRST

AD_HOC_COUNTS = 4.0
"""A client's question counts as much as so many standing ones."""
_PLENTY_S = 6.0
_PLENTY_TIMES = 4.5
"""Time to a deadline, beside so many times the usual one, that no answer uses up."""
_USUAL_SHARE = 0.5
"""Of the longest time that what waits may take: messages of half the largest size are large already."""


@dataclass(slots=True)
class _Waiting:
    offered_s: float
    first_deadline_s: float
    ad_hoc: int
    standing: int
    newer_s: float

    def value(self) -> float:
        return AD_HOC_COUNTS * self.ad_hoc + self.standing


class UplinkLedger:
    """First opens of one edge process that wait.

    Args:
        on_problem: told what is broken.
    """

    def __init__(self, on_problem: Problem) -> None:
        self._on_problem = on_problem
        self._standing_s: dict[str, float] = {}
        self._waiting: dict[tuple[str, FrameId], _Waiting] = {}
        self._unserved_s: dict[str, float] = {}

    def offered(self, camera: str, frame: FrameId, queries: Sequence[AskedQuery], now_s: float) -> None:
        """A frame was taken and this is asked of it."""
        self.wants(camera, now_s)
        ad_hoc = sum(query.ad_hoc for query in queries)
        first_s = min(query.deadline_s for query in queries)
        newer_s = math.inf
        if ad_hoc < len(queries):
            # From then on a newer frame of the camera is expected: an edge wants to open this one before.
            newer_s = 2 * now_s - self._standing_s.get(camera, -math.inf)
            self._standing_s[camera] = now_s
        self._waiting[camera, frame] = _Waiting(now_s, first_s, ad_hoc, len(queries) - ad_hoc, newer_s)

    def asked_again(self, camera: str, frame: FrameId) -> None:
        """A frame is asked more: what its open is worth is not judged any more."""
        self._waiting.pop((camera, frame), None)

    def wants(self, camera: str, now_s: float) -> None:
        """A message of this camera begins to wait."""
        self._unserved_s.setdefault(camera, now_s)

    def left(self, session: EdgeSession, publish: Publish, now_s: float, backlog_s: float) -> None:
        """A message leaves.

        Args:
            session: of the process.
            publish: the message.
            now_s: virtual time.
            backlog_s: how long the uplink is busy with what has left and what waits.
        """
        message = publish.message
        if not isinstance(message, Open | Chunk):
            return
        camera = publish.topic.rsplit("/", 1)[1]
        unserved_s = self._unserved_s.get(camera, now_s)
        self._unserved_s[camera] = now_s
        if not isinstance(message, Open):
            return
        gone = self._waiting.pop((camera, message.frame), None)
        if gone is None or gone.ad_hoc or now_s - min(unserved_s, gone.offered_s) >= MAX_WAIT_S:
            return
        clear_s = now_s + _USUAL_SHARE * backlog_s
        answered_s = clear_s + _PLENTY_S + _PLENTY_TIMES * session.frames.response_s
        if gone.newer_s < clear_s or gone.first_deadline_s < answered_s:
            return
        size_bytes = open_message_bytes(message.queries, len(message.payload))
        value = gone.value() / publish_wire_bytes(publish.topic, size_bytes, publish.qos)
        for frame, other in self._others(session, camera):
            if not other.ad_hoc or other.first_deadline_s < answered_s:
                continue
            size_bytes = open_message_bytes(frame.queries.values(), len(frame.coded_prefix()))
            if other.value() / publish_wire_bytes(publish.topic, size_bytes, publish.qos) > value:
                problem = f"{message.frame}, without one, leaves before it"
                self._on_problem(STANDING_FIRST, f"{camera}/{frame.frame}", problem)

    def _others(self, session: EdgeSession, camera: str) -> Iterator[tuple[EdgeFrame, _Waiting]]:
        """Frames of a camera whose first opens wait for the uplink, all of their queries undecided."""
        for frame in session.frames.undecided():
            waiting = self._waiting.get((frame.camera, frame.frame))
            if waiting is None or frame.camera != camera:
                continue
            first = frame.stage is EdgeStage.QUEUED and frame.attempt == 0 and not frame.key_waits
            if first and len(frame.queries) == waiting.ad_hoc + waiting.standing:
                yield frame, waiting
