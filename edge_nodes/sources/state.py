"""What a source is doing: one machine for every kind of source. No clock and no I/O."""

from __future__ import annotations

from enum import StrEnum

from schemas.types import SourceReason


class SourceState(StrEnum):
    """What a source is doing."""

    CONNECTING = "connecting"
    """It is being opened."""
    RUNNING = "running"
    """It is open and shows frames."""
    STALLED = "stalled"
    """Nothing comes any more; it is waited for, or about to be opened again."""
    ENDED = "ended"
    """It has shown its last frame and is not opened again."""
    FAILED = "failed"
    """It cannot be read; it is opened again after a pause."""


class SourceMachine:
    """The state of one source.

    Attributes:
        state: what it is doing.
        reason: why, when it is stalled or failed; kept while it is opened again.
        changes: how often the state changed.
    """

    def __init__(self) -> None:
        self.state = SourceState.CONNECTING
        self.reason: SourceReason | None = None
        self.changes = 0

    @property
    def up(self) -> bool:
        """Whether frames can be had."""
        return self.state is SourceState.RUNNING

    def opening(self) -> bool:
        """It is being opened. Like the others, whether that is news."""
        return self._go(SourceState.CONNECTING, self.reason)

    def shows(self) -> bool:
        """It is open, or shows frames again."""
        return self._go(SourceState.RUNNING, None)

    def silent(self) -> bool:
        """A call has not returned for long."""
        return self._go(SourceState.STALLED, SourceReason.TIMEOUT)

    def lost(self, reason: SourceReason) -> bool:
        """It cannot be read any more, or could not be opened."""
        # What was open and fell silent has stalled; what never answered has failed.
        silent = reason is SourceReason.TIMEOUT and self.state in (SourceState.RUNNING, SourceState.STALLED)
        return self._go(SourceState.STALLED if silent else SourceState.FAILED, reason)

    def ended(self) -> bool:
        """It has shown its last frame."""
        return self._go(SourceState.ENDED, SourceReason.ENDED)

    def _go(self, state: SourceState, reason: SourceReason | None) -> bool:
        changed = state is not self.state
        self.state, self.reason = state, reason
        self.changes += changed
        return changed
