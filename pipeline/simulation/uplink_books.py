"""Which open messages wait for an uplink, to judge which of them goes first.

The order of departure weighs much, so only cases are judged that leave no doubt: two first opens of one camera, nothing
late, little waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.protocol.departure_queue import MAX_WAIT_S
from pipeline.protocol.departures import Departure
from pipeline.protocol.effects import AskedQuery, SendOpen
from pipeline.protocol.expected_gain import open_message_bytes
from pipeline.simulation.asked_books import Problem
from pipeline.simulation.worker_books import STANDING_FIRST
from schemas.messages import Message, Open
from schemas.types import FrameId

AD_HOC_COUNTS = 4.0
"""A client's question counts as much as so many standing ones."""
_PLENTY_S = 25.0
"""Time to a deadline that no worker's response uses up."""
_SHORT_S = 5.0
"""Less than this waits for the uplink, so that every bid fits in time."""


@dataclass(slots=True)
class _Waiting:
    effect: SendOpen
    queued_s: float
    first_deadline_s: float
    ad_hoc: int
    standing: int

    def value(self) -> float:
        return AD_HOC_COUNTS * self.ad_hoc + self.standing


class UplinkBooks:
    """First opens of one edge process that wait.

    Args:
        on_problem: told what is broken.
    """

    def __init__(self, on_problem: Problem) -> None:
        self._on_problem = on_problem
        self._offered: dict[tuple[str, FrameId], tuple[float, int, int]] = {}
        self._waiting: dict[tuple[str, FrameId], _Waiting] = {}

    def offered(self, camera: str, frame: FrameId, queries: Sequence[AskedQuery]) -> None:
        """A frame was taken and this is asked of it."""
        ad_hoc = sum(query.ad_hoc for query in queries)
        first_s = min(query.deadline_s for query in queries)
        self._offered[camera, frame] = (first_s, ad_hoc, len(queries) - ad_hoc)

    def queued(self, effect: SendOpen, now_s: float) -> None:
        """An open message begins to wait."""
        first = self._offered.pop((effect.camera, effect.frame), None)
        if first is not None:
            self._waiting[effect.camera, effect.frame] = _Waiting(effect, now_s, *first)

    def left(self, departure: Departure, message: Message, now_s: float, backlog_s: float) -> None:
        """A message leaves.

        Args:
            departure: how it waited.
            message: as it leaves.
            now_s: virtual time.
            backlog_s: how long the uplink is busy with what has left and what waits.
        """
        if not isinstance(message, Open):
            return
        gone = self._waiting.pop((departure.camera or "", message.frame), None)
        if gone is None or gone.ad_hoc or now_s - gone.queued_s >= MAX_WAIT_S or backlog_s > _SHORT_S:
            return
        size_bytes = open_message_bytes(message.queries, len(message.payload))
        for other in self._waiting.values():
            if other.effect.camera != departure.camera or not other.ad_hoc or other.queued_s > gone.queued_s:
                continue
            if not now_s + _PLENTY_S <= other.first_deadline_s <= gone.first_deadline_s:
                continue
            offer = other.effect.bid(now_s)
            if offer is None or offer.message_bytes > size_bytes:
                continue
            if other.value() > gone.standing:
                camera, frame = other.effect.camera, other.effect.frame
                self._on_problem(STANDING_FIRST, f"{camera}/{frame}", f"{camera}/{message.frame} leaves before it")
