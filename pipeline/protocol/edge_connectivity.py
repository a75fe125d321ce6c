"""What connection, broker and the statuses of workers tell an edge about frames that wait for a word.

Leases alone would do: everything here only shortens a wait. It matters when much breaks at once, as in a restart of the
broker, where each silent loss would cost a lease.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from pipeline.protocol.edge_caches import WorkerBoots
from pipeline.protocol.edge_frame import EdgeEvent, EdgeFrame, EdgeStage
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.timers import Timers
from schemas.messages import Status
from schemas.types import FrameId

Key = tuple[str, FrameId]


class LoseAttempt(Protocol):
    """Gives up the present attempt of a frame."""

    def __call__(self, frame: EdgeFrame, event: EdgeEvent, now_s: float, *, wait_s: float) -> None:
        """The next attempt waits so long; there is none after the last."""


class EdgeConnectivity:
    """Whether an edge reaches the broker, and a worker through it.

    Args:
        settings: times and bounds.
        pool: worker pool that is asked.
        frames: undecided frames, of the session.
        timers: when they are due.
        counters: what happened, by reason.
        lose_attempt: of the session.
        worker_lost: told of a worker that has lost what it held.

    Attributes:
        connected: whether the connection is up.
    """

    def __init__(
        self,
        settings: EdgeProtocolSettings,
        pool: str,
        frames: Mapping[Key, EdgeFrame],
        timers: Timers[Key],
        counters: Counter[str],
        lose_attempt: LoseAttempt,
        worker_lost: Callable[[str], None],
    ) -> None:
        self.connected = True
        self._settings = settings
        self._pool = pool
        self._frames = frames
        self._timers = timers
        self._counters = counters
        self._lose_attempt = lose_attempt
        self._worker_lost = worker_lost
        self._boots = WorkerBoots()
        self._heard = True

    def known_workers(self) -> int:
        """Workers whose boot id is remembered."""
        return len(self._boots)

    def connection(self, connected: bool, now_s: float) -> None:
        """The connection came or went.

        When it is back, the edge's birth makes every worker that holds a frame of it speak at once, so no lease that is
        longer than the grace period is worth waiting for.
        """
        if connected and not self.connected:
            self._heard = False
            for frame in self._frames.values():
                frame.lease_ends_by(now_s + self._settings.grace_s)
        self.connected = connected
        for key in self._frames:
            self._timers.touch(key)

    def heard(self) -> bool:
        """A worker has spoken; whether it is the first one since the connection came back."""
        first, self._heard = not self._heard, True
        return first

    def worker_status(self, status: Status, now_s: float, *, retained: bool) -> None:
        """A worker's birth or last will, see :meth:`EdgeSession.receive_worker_status`."""
        if status.online and not retained and status.pool in (None, self._pool) and self.heard():
            # The broker was restarted, and what was opened before its workers were back has met an empty pool.
            for frame in list(self._frames.values()):
                self._open_again(frame, "opened_before_pool", now_s)
        if not self._boots.lost_by(status):
            if not status.online:
                self._counters["stale_will"] += 1
            return
        self._worker_lost(status.id)
        for frame in list(self._frames.values()):
            if frame.owner == status.id and frame.stage is EdgeStage.OWNED:
                self._counters["owner_lost"] += 1
                self._lose_attempt(frame, EdgeEvent.OWNER_LOST, now_s, wait_s=0.0)
            elif not retained:
                frame.doubt()
            self._timers.touch((frame.camera, frame.frame))

    def nobody_subscribed(self) -> None:
        """The broker had no subscriber for an open message: counted, and nothing else.

        A recorder hides it from a fleet, and a recorder must not change what a fleet does.
        """
        self._counters["no_subscribers"] += 1

    def open_lost(self, key: Key, now_s: float) -> None:
        """The connection broke before the broker's word on an open message."""
        frame = self._frames.get(key)
        if frame is not None:
            self._open_again(frame, "open_lost", now_s)

    def _open_again(self, frame: EdgeFrame, reason: str, now_s: float) -> None:
        """An open has met nobody, as far as is known; the last attempt waits for its lease all the same."""
        if frame.stage is EdgeStage.OPENED and frame.tries < self._settings.attempts:
            self._counters[reason] += 1
            self._lose_attempt(frame, EdgeEvent.NO_WORKER, now_s, wait_s=0.0)
            self._timers.touch((frame.camera, frame.frame))
