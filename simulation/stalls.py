"""Judges whether a worker whose model hangs lets go of its frames."""

from __future__ import annotations

import math
from collections.abc import Callable

from schemas.messages import Accept
from schemas.types import FrameId

_FIRST_BATCH_S = 0.1
"""What a worker may expect of a batch before it has seen one."""
_STALLED_BATCHES = 4.0
"""After the longest lease and so many times the longest batch that it could expect, a model counts as stalled here."""


class StallWatch:
    """The batches of one worker process, and what it claims while one of them lasts too long.

    Args:
        max_lease_s: longest lease that it asks for.
        usual_work: of a frame.
        on_stall: called when it renews a lease although its model is stalled.
    """

    def __init__(self, max_lease_s: float, usual_work: float, on_stall: Callable[[str], None]) -> None:
        self._max_lease_s = max_lease_s
        self._on_stall = on_stall
        self._longest_s = _FIRST_BATCH_S
        self._longest_work_s = _FIRST_BATCH_S / usual_work
        self._stalls_at_s = math.inf
        self._claimed: set[tuple[str, FrameId, int]] = set()

    def expected_s(self, work: float) -> float:
        """The longest that the worker can expect of a batch with so much work."""
        return max(self._longest_s, self._longest_work_s * work)

    def begins(self, work: float, now_s: float) -> None:
        """The model begins with a batch."""
        self._stalls_at_s = now_s + self._max_lease_s + _STALLED_BATCHES * self.expected_s(work)

    def ends(self, work: float, took_s: float) -> None:
        """The batch is done."""
        self._stalls_at_s = math.inf
        self._claimed.clear()
        self._longest_s = max(self._longest_s, took_s)
        self._longest_work_s = max(self._longest_work_s, took_s / work)

    def given(self, camera: str, frame: FrameId, attempt: int) -> None:
        """A frame is given to the worker, perhaps once more, by a duplicate: it may be claimed once more."""
        self._claimed.discard((camera, frame, attempt))

    def says(self, camera: str, accept: Accept, now_s: float) -> None:
        """A stalled model's worker may claim what is opened now, once; its leases must run out."""
        claim = (camera, accept.frame, accept.attempt)
        if now_s > self._stalls_at_s:
            if claim in self._claimed:
                self._on_stall(f"{camera}/{accept.frame}, attempt {accept.attempt}")
            self._claimed.add(claim)
