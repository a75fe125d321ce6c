"""Which open messages wait for an uplink, to judge which of them goes first.

The order of departure weighs much, so only cases are judged that leave no doubt: two first opens of one camera, and
time for everything that waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.protocol.departure_queue import MAX_WAIT_S
from pipeline.protocol.departures import Departure
from pipeline.protocol.effects import AskedQuery, SendOpen, SendToWorker
from pipeline.protocol.expected_gain import open_message_bytes
from schemas.messages import Message, Open
from schemas.types import FrameId
from schemas.wire_cost import publish_wire_bytes
from simulation.asked_books import Problem
from simulation.worker_books import STANDING_FIRST

AD_HOC_COUNTS = 4.0
"""A client's question counts as much as so many standing ones."""
_PLENTY_S = 6.0
_PLENTY_TIMES = 4.5
"""Time to a deadline, beside so many times the usual one, that no answer uses up."""
_USUAL_SHARE = 0.5
"""Of the longest time that what waits may take: messages of half the largest size are large already."""


@dataclass(slots=True)
class _Waiting:
    effect: SendOpen
    queued_s: float
    first_deadline_s: float
    ad_hoc: int
    standing: int
    newer_s: float

    def value(self) -> float:
        return AD_HOC_COUNTS * self.ad_hoc + self.standing


class UplinkBooks:
    """First opens of one edge process that wait.

    Args:
        on_problem: told what is broken.
    """

    def __init__(self, on_problem: Problem) -> None:
        self._on_problem = on_problem
        self._offered: dict[tuple[str, FrameId], tuple[float, int, int, float]] = {}
        self._standing_s: dict[str, float] = {}
        self._waiting: dict[tuple[str, FrameId], _Waiting] = {}
        self._unserved_s: dict[str, float] = {}

    def offered(self, camera: str, frame: FrameId, queries: Sequence[AskedQuery], now_s: float) -> None:
        """A frame was taken and this is asked of it."""
        ad_hoc = sum(query.ad_hoc for query in queries)
        first_s = min(query.deadline_s for query in queries)
        newer_s = math.inf
        if ad_hoc < len(queries):
            # From then on a newer frame of the camera is expected: an edge wants to open this one before.
            newer_s = 2 * now_s - self._standing_s.get(camera, -math.inf)
            self._standing_s[camera] = now_s
        self._offered[camera, frame] = (first_s, ad_hoc, len(queries) - ad_hoc, newer_s)

    def queued(self, effect: SendOpen | SendToWorker, now_s: float) -> None:
        """An open message or a chunk begins to wait."""
        if effect.bid is not None:
            self._unserved_s.setdefault(effect.camera, now_s)
        if not isinstance(effect, SendOpen):
            return
        first = self._offered.pop((effect.camera, effect.frame), None)
        if first is not None:
            self._waiting[effect.camera, effect.frame] = _Waiting(effect, now_s, *first)

    def left(self, departure: Departure, message: Message, now_s: float, backlog_s: float, response_s: float) -> None:
        """A message leaves.

        Args:
            departure: how it waited.
            message: as it leaves.
            now_s: virtual time.
            backlog_s: how long the uplink is busy with what has left and what waits.
            response_s: from an open to its first answer, as the session has smoothed it.
        """
        camera = departure.camera or ""
        unserved_s = self._unserved_s.get(camera, now_s)
        if departure.bid is not None:
            self._unserved_s[camera] = now_s
        if not isinstance(message, Open):
            return
        gone = self._waiting.pop((camera, message.frame), None)
        if gone is None or gone.ad_hoc or now_s - min(unserved_s, gone.queued_s) >= MAX_WAIT_S:
            return
        clear_s = now_s + _USUAL_SHARE * backlog_s
        answered_s = clear_s + _PLENTY_S + _PLENTY_TIMES * response_s
        if gone.newer_s < clear_s or gone.first_deadline_s < answered_s:
            return
        value = gone.value() / self._wire_bytes(gone.effect, open_message_bytes(message.queries, len(message.payload)))
        for other in self._waiting.values():
            if other.effect.camera != camera or not other.ad_hoc or other.first_deadline_s < answered_s:
                continue
            offer = other.effect.bid(now_s)
            if offer is not None and other.value() / self._wire_bytes(other.effect, offer.message_bytes) > value:
                problem = f"{message.frame}, without one, leaves before it"
                self._on_problem(STANDING_FIRST, f"{camera}/{other.effect.frame}", problem)

    def _wire_bytes(self, effect: SendOpen, message_bytes: int) -> int:
        return publish_wire_bytes(effect.topic, message_bytes, effect.qos)
