"""Which packets of a live stream are worth decoding."""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_PACKETS_BEFORE_KEY: Final = 300
"""A stream that has shown no key frame by then refreshes its picture in another way: everything is decoded."""
_DISTANCES: Final = 4
_MIN_DISTANCES: Final = 2


class KeyFrames:
    """Leaves out what nobody needs: all before the first key frame, and all others when key frames come often enough.

    Decoding only key frames takes a fraction of the processor time. It begins and ends at a key frame, so no frame
    lacks one that it refers to.

    Args:
        interval_s: time between the frames that are wanted.

    Attributes:
        only: only key frames are decoded.
        distance_s: longest distance of the last key frames; None before it is known.
    """

    def __init__(self, interval_s: float) -> None:
        self.only = False
        self.distance_s: float | None = None
        self._interval_s = interval_s
        self._distances: deque[float] = deque(maxlen=_DISTANCES)
        self._last_s: float | None = None
        self._begun = False
        self._waited = 0

    def wanted(self, key: bool, stamp_s: float | None) -> bool:
        """Whether a packet shall be decoded.

        Args:
            key: it begins a picture that refers to none before.
            stamp_s: its time stamp; None when it has none.
        """
        if key:
            self._begun = True
            self._measure(stamp_s)
            self.only = self.distance_s is not None and self._interval_s > self.distance_s
            return True
        if not self._begun:
            self._waited += 1
            self._begun = self._waited >= MAX_PACKETS_BEFORE_KEY
        return self._begun and not self.only

    def _measure(self, stamp_s: float | None) -> None:
        before_s, self._last_s = self._last_s, stamp_s
        if stamp_s is None or before_s is None:
            return
        if stamp_s <= before_s:
            # A splice: what was measured may be true no more.
            self._distances.clear()
            self.distance_s = None
            return
        self._distances.append(stamp_s - before_s)
        if len(self._distances) >= _MIN_DISTANCES:
            self.distance_s = max(self._distances)
