"""How old a live frame is when it arrives, by its time stamps."""

from __future__ import annotations

from typing import Final

SETTLE_S: Final = 5.0
"""A backlog gets smaller while it is read. What lags as much after this time is no backlog: the camera had paused."""
_NOTICED_S: Final = 0.25
_SHRINKS: Final = 0.9
_SOONER: Final = 0.5
_DRIFT: Final = 1e-3
"""Clocks of cameras may be wrong by this share."""


class Lag:
    """Compares time stamps with arrivals.

    The frame that took the shortest way sets the scale; one that arrives later than its stamp says has waited in a
    buffer on the way, for example while the link stood still. The delay of the shortest way itself is not known.

    Attributes:
        catching_up: the last frame came sooner than its stamp says: the stream begins with old frames.
    """

    def __init__(self) -> None:
        self.catching_up = True
        self._stamp_s = 0.0
        self._offset_s: float | None = None
        self._arrival_s = 0.0
        self._since: tuple[float, float] | None = None

    def place(self, stamp_s: float, arrival_s: float) -> float:
        """How long a frame has waited on its way, in seconds.

        Args:
            stamp_s: its time stamp.
            arrival_s: when it arrived, on any clock that runs at the same pace.
        """
        offset_s = arrival_s - stamp_s
        if self._offset_s is None:
            self._offset_s = offset_s
        else:
            self.catching_up = self._offset_s - offset_s > _SOONER * (stamp_s - self._stamp_s) > 0
        self._stamp_s = stamp_s
        drift_s = _DRIFT * max(0.0, arrival_s - self._arrival_s) if self._since is None else 0.0
        self._arrival_s = arrival_s
        self._offset_s = min(self._offset_s + drift_s, offset_s)
        lag_s = offset_s - self._offset_s
        if lag_s < _NOTICED_S:
            self._since = None
            return lag_s
        if self._since is None:
            self._since = arrival_s, lag_s
        began_s, lag_then_s = self._since
        if arrival_s - began_s < SETTLE_S:
            return lag_s
        if lag_s < _SHRINKS * lag_then_s:
            self._since = arrival_s, lag_s
            return lag_s
        self._offset_s, self._since = offset_s, None
        return 0.0
