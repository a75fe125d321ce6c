"""The disk of a simulated site: the edge's real journal in memory, and frames that were stored without a link.

Both outlive the process and can go wrong.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial

import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import EventDict

from pipeline.node.ask_journal import AskJournal
from pipeline.protocol.journal_requests import Decide, JournalRequest, JournalResult, NotStored
from pipeline.protocol.store_requests import DropFrames, PutFrame, ReadFrame, ReadStored, StoreRequest, StoreResult
from simulation.clock import VirtualClock
from simulation.frame_disk import FrameRows

WRITE_S = 0.004
"""One request, with its flush to the medium."""


class Disk:
    """Does the requests of one process at a time, one after the other.

    Args:
        clock: virtual clock; the wall clock of the site as well.
        done: told each request to the journal that was done, and its result, while its process lives.
        frames_done: the same of requests to the store of frames.

    Attributes:
        full: nothing can be written.
        journal: what is on the disk of clients' questions.
        frames: what is on it of stored frames.
    """

    def __init__(
        self,
        clock: VirtualClock,
        done: Callable[[JournalRequest, JournalResult], None],
        frames_done: Callable[[StoreRequest, StoreResult], None],
    ) -> None:
        self.full = False
        quiet = structlog.wrap_logger(logging.getLogger(__name__), processors=[_drop], wrapper_class=BoundLogger)
        self.journal = AskJournal(None, wall_s=lambda: clock.now_s, log=quiet)
        self._clock = clock
        self.frames = FrameRows(lambda: clock.now_s)
        self._done = done
        self._frames_done = frames_done
        self._waiting: deque[JournalRequest | StoreRequest] = deque()
        self._generation = 0
        self._frozen = False

    def restart(self) -> list[str]:
        """The process is gone, or another one begins: what was not done yet never is.

        Returns:
            Query ids of decisions that were on their way to the disk.
        """
        self._generation += 1
        self._frozen = False
        lost = [request.query_id for request in self._waiting if isinstance(request, Decide)]
        self._waiting.clear()
        return lost

    def put(self, request: JournalRequest | StoreRequest) -> None:
        """The process wants something done."""
        self._waiting.append(request)
        if len(self._waiting) == 1:
            self._begin()

    def waits(self, request: JournalRequest) -> bool:
        """Whether a request has not been done."""
        return request in self._waiting

    def freeze(self, frozen: bool) -> None:
        """The process is stopped, or goes on."""
        self._frozen = frozen
        if not frozen and self._waiting:
            self._begin()

    def damage(self, strength: float) -> str | None:
        """A row is overwritten with what means nothing; it costs its own question alone. Returns which one."""
        ids = [stored.query_id for stored in self.journal.unfinished()]
        if not ids:
            return None
        query_id = ids[int(strength * len(ids)) % len(ids)]
        with self.journal._database as database:  # noqa: SLF001 - a medium knows no methods
            database.execute("UPDATE ask SET answer_type = 'x' WHERE query_id = ?", (query_id,))
        return query_id

    def _begin(self) -> None:
        self._clock.after(WRITE_S, partial(self._do, self._generation))

    def _do(self, generation: int) -> None:
        if generation != self._generation or self._frozen or not self._waiting:
            return
        request = self._waiting.popleft()
        self.frames.full = self.full
        if isinstance(request, ReadStored | PutFrame | ReadFrame | DropFrames):
            then = partial(self._frames_done, request, self.frames.perform(request))
        else:
            then = partial(self._done, request, self._perform(request))
        if self._waiting:
            self._begin()
        self._clock.handled += 1
        then()

    def _perform(self, request: JournalRequest) -> JournalResult:
        if not self.full:
            return self.journal.perform(request)
        # Reads still work.
        self.journal._database.execute("PRAGMA query_only = 1")  # noqa: SLF001
        try:
            result = self.journal.perform(request)
        finally:
            self.journal._database.execute("PRAGMA query_only = 0")  # noqa: SLF001
        return result if not isinstance(result, NotStored) else NotStored("database or disk is full")


def _drop(_logger: object, _method: str, _event: EventDict) -> EventDict:
    """Damage is meant here: nobody need hear of it."""
    raise structlog.DropEvent
