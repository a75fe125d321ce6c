"""Clients' questions about frames of the past: which frame they are asked of, and why of none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.protocol.ad_hoc_questions import AdHocQuestions, PastAsk
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import AskedQuery, HeldFrameAsked
from pipeline.protocol.frame_ring import FrameRing, HeldFrame
from pipeline.protocol.ports import Contained
from pipeline.protocol.reasons import NOT_HELD
from schemas.limits import MAX_QUERIES_PER_FRAME


@dataclass(slots=True)
class PastQuestions:
    """Asks frames of the ring what clients ask of the past.

    Attributes:
        ring: kept frames.
        frames: frames under way.
        ad_hoc: clients' questions.
        known: whether a query has an end already, of which its client is told again.
        counters: what became of them.
    """

    ring: FrameRing
    frames: EdgeFrames
    ad_hoc: AdHocQuestions
    known: Callable[[str, AskedQuery], bool]
    counters: Counter[str]

    def ask(self, now_s: float) -> list[HeldFrameAsked | Contained]:
        """Ask what waits; each question meets its frame at once, or ends.

        Args:
            now_s: the edge's monotonic time.

        Returns:
            Which frames are asked more.
        """
        made: list[HeldFrameAsked | Contained] = []
        for past in self.ad_hoc.take_past():
            try:
                if not self.known(past.camera, past.query):
                    made += self._ask(past, now_s)
            except Exception as error:  # noqa: BLE001 - a bug of ours ends this question, not the site
                self.ad_hoc.fail_past(past, f"internal: {type(error).__name__}", None)
                made.append(Contained("past question", error))
        return made

    def _ask(self, past: PastAsk, now_s: float) -> list[HeldFrameAsked]:
        held = self._chosen(past)
        if held is None:
            oldest_s = self.ring.oldest_s(past.camera)
            oldest_age_s = None if oldest_s is None else max(0.0, now_s - oldest_s)
            self.counters["past_not_held"] += 1
            self.ad_hoc.fail_past(past, _why_none(past, oldest_age_s), oldest_age_s)
        elif self.frames.asked(held.camera, held.frame) >= MAX_QUERIES_PER_FRAME:
            self.counters["past_frame_full"] += 1
            reason = f"frame {held.frame} has {MAX_QUERIES_PER_FRAME} questions without an outcome: ask again later"
            self.ad_hoc.fail_past(past, reason, None)
        else:
            age_s = max(0.0, past.arrived_s - held.captured_s)
            self.frames.ask_again(held, [past.query], now_s, age_s=age_s)
            return [HeldFrameAsked(held.camera, held.frame, (past.query,), age_s)]
        return []

    def _chosen(self, past: PastAsk) -> HeldFrame | None:
        if past.ask.frame is not None:
            return self.ring.find(past.camera, past.ask.frame)
        return self.ring.as_of(past.camera, past.arrived_s - (past.ask.ago_ms or 0) / 1000)


def _why_none(past: PastAsk, oldest_age_s: float | None) -> str:
    goes = "none is kept" if oldest_age_s is None else f"the oldest that is kept is {oldest_age_s:.1f} s old"
    if past.ask.frame is not None:
        return f"{NOT_HELD}: frame {past.ask.frame} of camera {past.camera} is not kept; {goes}"
    ago_s = (past.ask.ago_ms or 0) / 1000
    return f"{NOT_HELD}: no frame of camera {past.camera} is kept that is {ago_s:g} s old; {goes}"
