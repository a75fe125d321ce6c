"""Which frames a simulated edge process has taken, to judge what questions about the past are asked of."""

from __future__ import annotations

import math

from pipeline.protocol.frame_ring import RingSettings
from schemas.messages import Ask
from schemas.types import FrameId
from simulation.query_ledger import Problem

ANOTHER_MOMENT = "asked of another moment"
NOT_REFUSED_RIGHTLY = "refused though the frame is kept"
_EXACT_S = 1e-6
_PLENTY_BYTES = 1_000_000
"""Room for every frame of an episode."""


class PastLedger:
    """Frames of one process at a time.

    Args:
        ring: bounds of its ring; where memory is short, refusals are not judged.
        on_problem: told what is broken.
    """

    def __init__(self, ring: RingSettings, on_problem: Problem) -> None:
        self._history_s = ring.history_s if ring.max_bytes >= _PLENTY_BYTES else -math.inf
        self._on_problem = on_problem
        self._taken: dict[str, dict[FrameId, float]] = {}

    def started(self) -> None:
        """Another process starts: its ring is empty."""
        self._taken.clear()

    def taken(self, camera: str, frame: FrameId, now_s: float) -> None:
        """A frame was taken."""
        self._taken.setdefault(camera, {})[frame] = now_s

    def asked(self, camera: str, frame: FrameId, query_id: str, ask: Ask, arrived_s: float) -> None:
        """A question about the past is asked of a frame."""
        expected = self._expected(camera, ask, arrived_s)
        if frame != expected:
            self._on_problem(ANOTHER_MOMENT, query_id, f"of {frame}, not of {expected}")

    def refused(self, camera: str, query_id: str, ask: Ask, arrived_s: float, now_s: float) -> None:
        """A question about the past is refused because no frame is kept for it."""
        expected = self._expected(camera, ask, arrived_s)
        age_s = math.inf if expected is None else now_s - self._taken[camera][expected]
        if age_s <= self._history_s:
            self._on_problem(NOT_REFUSED_RIGHTLY, query_id, f"{expected} is {age_s} s old")

    def _expected(self, camera: str, ask: Ask, arrived_s: float) -> FrameId | None:
        taken = self._taken.get(camera, {})
        if ask.frame is not None:
            return ask.frame if ask.frame in taken else None
        as_of_s = arrived_s - (ask.ago_ms or 0) / 1000 + _EXACT_S
        return max(
            (frame for frame, time_s in taken.items() if time_s <= as_of_s),
            key=lambda frame: taken.get(frame, -math.inf),
            default=None,
        )
