"""How many of its standing frames a site takes, from what becomes of those that it took.

A pool with more work than time says so: *busy*, or outcomes that came too late. A site then takes a smaller share of
its standing frames: it leaves out slots of its cameras. The share is cut in proportion to what went wrong and grows
again by a constant step, as DCTCP (RFC 8257) does with its window: many sites settle on equal shares without a word
between them, a few late answers on a good day cost nothing, and after a peak the full rate comes back by itself. What
was taken before the last cut says nothing about the share since (RFC 6582), so one burst cuts once.

Ad-hoc questions are never shed. No camera falls silent: the share has a floor, and of ``1 / floor`` slots in a row
at least one is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from zlib import crc32

from pipeline.protocol.effects import Decision
from pipeline.protocol.reasons import OVERLOAD
from schemas.types import FrameId, Outcome


@dataclass(frozen=True, slots=True)
class LoadSheddingSettings:
    """How a site gives way and comes back.

    Attributes:
        floor: smallest share of the standing slots that is taken.
        window_s: what happened in so much time is weighed together.
        growth_hz: share that comes back in each second without trouble.
        least_results: results that a window needs to be weighed; it lasts longer until then.
    """

    floor: float = 1 / 16
    window_s: float = 1.0
    growth_hz: float = 0.03
    least_results: int = 4


class LoadShedding:
    """Share of the standing frames that a site takes.

    Args:
        settings: how it gives way and comes back.

    Attributes:
        share: of the standing slots, in ``[floor, 1]``.
        skipped: slots left out, by camera.
        trouble_s: when the last result was a bad one; minus infinity before the first.
        counters: results that were weighed, and cuts.
    """

    def __init__(self, settings: LoadSheddingSettings | None = None) -> None:
        self.share = 1.0
        self.skipped: Counter[str] = Counter()
        self.trouble_s = -math.inf
        self.counters: Counter[str] = Counter()
        self._settings = settings or LoadSheddingSettings()
        self._credit: dict[str, float] = {}
        self._since: dict[str, int] = {}
        self._good = 0
        self._bad = 0
        self._window_from_s = -math.inf

    def takes(self, camera: str, now_s: float) -> bool:
        """Whether a standing slot of a camera that has come is taken. Asked once a slot."""
        self._weigh(now_s)
        # Cameras begin at different points of the pattern, or all of them would leave out the same slots.
        credit = self._credit.get(camera, crc32(camera.encode()) / 2**32) + self.share
        taken = credit >= 1.0
        self._credit[camera] = credit - taken
        self.skipped[camera] += not taken
        return taken

    def offered(self, camera: str, frame: FrameId) -> None:
        """Standing questions are asked of this frame."""
        self._since.setdefault(camera, frame.sequence)

    def busy(self, camera: str, frame: FrameId, now_s: float) -> None:
        """A worker had no room for a frame."""
        self._result(camera, frame, now_s, "busy", good=False)

    def ended(self, decision: Decision, now_s: float) -> None:
        """A query has its outcome."""
        if decision.ad_hoc:
            return
        outcome = decision.outcome
        overloaded = outcome is Outcome.DEGRADED and decision.reason.startswith(OVERLOAD)
        if overloaded or outcome in (Outcome.EXPIRED, Outcome.SUPERSEDED):
            self._result(decision.camera, decision.frame, now_s, str(outcome), good=False)
        elif outcome in (Outcome.ANSWERED, Outcome.DEGRADED):
            # A deadline too short for the link's round trips is no overload: fewer frames would not help.
            self._result(decision.camera, decision.frame, now_s, "in time", good=True)

    def _result(self, camera: str, frame: FrameId, now_s: float, kind: str, *, good: bool) -> None:
        since = self._since.get(camera)
        if since is None or frame.sequence < since:
            return
        self.counters[kind] += 1
        self._good += good
        self._bad += not good
        self.trouble_s = self.trouble_s if good else now_s
        self._weigh(now_s)

    def _weigh(self, now_s: float) -> None:
        settings = self._settings
        lasted_s = now_s - self._window_from_s
        results = self._good + self._bad
        if lasted_s < settings.window_s or (self._bad and results < settings.least_results):
            return
        if self._bad:
            self.share = max(settings.floor, self.share * (1 - self._bad / (2 * results)))
            self.counters["cuts"] += 1
            self._since.clear()
        elif math.isfinite(lasted_s):
            self.share = min(1.0, self.share + settings.growth_hz * lasted_s)
        self._good = self._bad = 0
        self._window_from_s = now_s
