"""When to connect again: soon after a broken line or a restart of the broker, late where another process wants our id.

A broker lets a client id in once. Two processes that share one throw each other out at each connection; the one that
was thrown out waits long here, and longer each time, so that the other one can work and somebody reads the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipeline.bus.backoff import Backoff

TAKEOVER_BACKOFF = Backoff(initial_s=20.0, maximum_s=900.0, growth=2.0, stable_s=1800.0)
"""Waits of a process whose client id another one has taken. ``stable_s`` is longer than the longest wait: the series
ends when the other process has had its turn and did not come."""
SILENT_ENDS = 3
"""Connections in a row, each soon after the one before, that the peer closed without a word, before another process is
suspected. Mosquitto 2.0.11 gives no reason where later ones say 142, and a restart of a broker looks the same once."""


class Ending(StrEnum):
    """How a connection that was ready ended."""

    TAKEN_OVER = "taken over"
    """Another connection came with the same client id, says the broker."""
    SILENT = "silent"
    """The peer closed the connection and gave no reason."""
    OTHER = "other"


@dataclass(slots=True)
class Reconnecting:
    """Counts failures in a row and says how long to wait; pure.

    Attributes:
        backoff: waits after ordinary failures.
        takeover_backoff: waits after another process has taken the client id.
        failures: ordinary failures in a row.
        takeovers: times that the client id was taken, until a connection lived for ``takeover_backoff.stable_s``.
        silent_ends: connections in a row that ended silently.
    """

    backoff: Backoff
    takeover_backoff: Backoff = TAKEOVER_BACKOFF
    failures: int = 0
    takeovers: int = 0
    silent_ends: int = 0

    def attempt_failed(self, draw: float) -> float:
        """An attempt to connect came to nothing; returns the wait before the next one, in seconds.

        Args:
            draw: a random number in [0, 1).
        """
        self.silent_ends = 0  # the broker is away, which explains the end before
        self.failures += 1
        return self.backoff.delay_s(self.failures, draw)

    def lost(self, ending: Ending, lived_s: float) -> bool:
        """A connection that was ready is gone.

        Args:
            ending: how it ended.
            lived_s: how long it was ready.

        Returns:
            Whether another process has, or seems to have, taken the client id.
        """
        short = lived_s < self.backoff.stable_s
        self.failures = self.failures + 1 if short else 1
        if lived_s >= self.takeover_backoff.stable_s:
            self.takeovers = 0
        if ending is not Ending.SILENT:
            self.silent_ends = 0
        else:
            self.silent_ends = self.silent_ends + 1 if short else 1
        taken = ending is Ending.TAKEN_OVER or self.silent_ends >= SILENT_ENDS
        self.takeovers += taken
        return taken

    def delay_s(self, taken: bool, draw: float) -> float:
        """Wait after :meth:`lost`, in seconds.

        Args:
            taken: what :meth:`lost` returned.
            draw: a random number in [0, 1).
        """
        return (
            self.takeover_backoff.delay_s(self.takeovers, draw) if taken else self.backoff.delay_s(self.failures, draw)
        )
