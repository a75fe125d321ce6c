"""Further questions on a frame that a worker has: the edge tells them to its inbox, and sends no latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from pipeline.protocol.edge_frame import EdgeFrame, EdgeStage
from pipeline.protocol.edge_messages import EdgeMessages
from pipeline.protocol.ports import Delivery
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.timers import Timers
from schemas.types import FrameId


@dataclass(slots=True)
class EdgeFollowUps:
    """Tells owners of frames what is asked more.

    A follow-up that gets lost, or that its worker can do nothing with, costs one full open: the lease runs out, or the
    worker says that it does not hold the frame.

    Attributes:
        settings: times and bounds.
        timers: of the frames.
        messages: what the edge says.
        counters: what happened, by reason.
    """

    settings: EdgeProtocolSettings
    timers: Timers[tuple[str, FrameId]]
    messages: EdgeMessages
    counters: Counter[str]

    def tell(self, frame: EdgeFrame, query_ids: Collection[str]) -> None:
        """The owner of a frame shall know these queries."""
        left = partial(self._left, frame)
        self.messages.follow_up(frame, query_ids, left, partial(self._delivered, frame, frame.owner, frame.attempt))

    def claimed(self, frame: EdgeFrame) -> None:
        """A worker owns a frame: tell it what its open message did not say."""
        untold = [query_id for query_id in frame.untold if query_id in frame.queries]
        frame.untold.clear()
        if untold:
            self.tell(frame, sorted(untold))

    def _left(self, frame: EdgeFrame, now_s: float) -> None:
        self.counters["follow_ups"] += 1
        self.timers.touch((frame.camera, frame.frame))
        frame.timer_s = max(frame.timer_s or 0.0, now_s + frame.lease_s)

    def _delivered(self, frame: EdgeFrame, owner: str | None, attempt: int, delivery: Delivery, now_s: float) -> None:
        """One that found no way out: nobody would speak for its frame, unless the owner has others of its queries."""
        waits = frame.stage is EdgeStage.OWNED and (frame.owner, frame.attempt) == (owner, attempt)
        if not delivery.arrived and waits and frame.timer_s is None:
            self.timers.touch((frame.camera, frame.frame))
            frame.timer_s = now_s
