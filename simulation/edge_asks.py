"""What clients asked a simulated site, as its disk knows it, to judge what its session asks and acknowledges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.protocol.ad_hoc_questions import NO_FRAME_SEQUENCE
from pipeline.protocol.effects import AskedQuery, Decision
from pipeline.protocol.journal_requests import (
    Admission,
    Admit,
    Admitted,
    Decide,
    Decided,
    JournalRequest,
    JournalResult,
    NotStored,
    Unfinished,
)
from schemas.identity import QuestionContent, ad_hoc_query_id
from schemas.messages import Ask, QueryOutcome
from schemas.types import FrameId
from simulation.clock import VirtualClock
from simulation.disk import Disk

_EXACT_S = 1e-3


@dataclass(frozen=True, slots=True)
class _Stored:
    """An ad-hoc question as it was stored for the first time."""

    ask: Ask
    question: QuestionContent
    arrived_s: float
    deadline_s: float
    stored_s: float


class EdgeAsks:
    """Clients' questions to one site, over all of its processes.

    Args:
        site: its name.
        disk: its disk.
        join_s: a question waits so long for a frame of its camera, then one is taken for it.
        clock: virtual clock.
        on_query: called with the query id and deadline of a question that is stored for the first time.
        on_terminal: called with the end of a question that never met a frame.
        on_problem: told what is broken.

    Attributes:
        counters: what became of them.
        known_since_s: since when the running process knows its disk, infinite while it does not.
    """

    def __init__(
        self,
        site: str,
        disk: Disk,
        join_s: float,
        clock: VirtualClock,
        *,
        on_query: Callable[[str, float], None],
        on_terminal: Callable[[Decision], None],
        on_problem: Callable[[str, str, str], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.known_since_s = math.inf
        self._site = site
        self._disk = disk
        self._join_s = join_s
        self._clock = clock
        self._on_query = on_query
        self._on_terminal = on_terminal
        self._on_problem = on_problem
        self._stored: dict[str, _Stored] = {}
        self._frames_s: dict[str, float] = {}
        self._arriving: int | None = None
        self._admits: dict[int, Admit] = {}
        self._arrived_s: dict[int, float] = {}
        self._ended: set[str] = set()
        self._untold: set[str] = set()
        self._unstored: set[str] = set()

    def __contains__(self, query_id: str) -> bool:
        return query_id in self._stored

    def restart(self) -> list[str]:
        """The process is gone, or another one begins.

        Returns:
            Query ids of decisions that the disk never had.
        """
        forgotten = [*self._disk.restart(), *self._unstored]
        self.known_since_s = math.inf
        self._arriving = None
        for table in (self._frames_s, self._admits, self._arrived_s, self._ended, self._untold, self._unstored):
            table.clear()
        return forgotten

    # ---- what the session does --------------------------------------------------------------------------------------

    def arrives(self, token: int | None) -> None:
        """The session is given an ask with this token; None when it is given something else."""
        self._arriving = token

    def store(self, request: JournalRequest) -> None:
        """The session wants something done on disk."""
        if isinstance(request, Decide) and request.query_id not in self._ended:
            # It never met a frame: nobody but the edge knows of it.
            terminal = request.terminal
            assert isinstance(terminal, QueryOutcome)  # noqa: S101
            assert terminal.frame.sequence == NO_FRAME_SEQUENCE  # noqa: S101
            self._ended.add(request.query_id)
            decision = Decision(
                terminal.camera,
                terminal.frame,
                request.query_id,
                self._stored[request.query_id].question,
                terminal.outcome,
                terminal.reason,
                publish=terminal,
            )
            self._on_terminal(decision)
        if isinstance(request, Admit):
            self._arrived_s[request.token] = self._clock.now_s
        if isinstance(request, Admit) and self._arriving is not None:
            self._admits[self._arriving] = request
        self._disk.put(request)

    def done(self, request: JournalRequest, result: JournalResult, now_s: float) -> None:
        """The disk has done something."""
        arrived_s = self._arrived_s.pop(request.token, now_s)
        match request, result:
            case Admit(), Admitted(admission=Admission.NEW):
                query_id = ad_hoc_query_id(request.camera, request.client, request.ask.query_id)
                deadline_s = now_s + request.ask.deadline_ms / 1000
                self._stored[query_id] = _Stored(
                    request.ask, request.ask.content(request.client), arrived_s, deadline_s, now_s
                )
                self._on_query(query_id, deadline_s)
            case Admit(), Admitted():
                self.counters["asked_again"] += 1
            case Decide(), NotStored():
                self._unstored.add(request.query_id)
            case Decide(), Decided():
                self._unstored.discard(request.query_id)
            case _, Unfinished():
                self.known_since_s = min(now_s, self.known_since_s)
                self._untold = {stored.query_id for stored in result.asks if isinstance(stored.terminal, QueryOutcome)}
            case _:
                pass

    def ended(self, query_id: str) -> None:
        """The session has decided a query that met a frame."""
        self._ended.add(query_id)

    def says(self, query_id: str) -> None:
        """The session publishes an outcome."""
        if query_id in self._untold:
            self._untold.remove(query_id)
            self.counters["told_again"] += 1

    def acknowledges(self, token: int) -> None:
        """The session acknowledges a message."""
        request = self._admits.pop(token, None)
        if request is not None and self._disk.waits(request):
            self._on_problem("acknowledged before it was stored", request.ask.query_id, self._site)

    def framed(self, camera: str, queries: list[AskedQuery], now_s: float) -> None:
        """A camera takes a frame; those questions of clients are asked of it: they are what went to the disk."""
        self._frames_s[camera] = now_s
        self.check(camera, queries)

    def check(self, camera: str, queries: Sequence[AskedQuery]) -> None:
        """Questions of clients are asked of a frame: they are what went to the disk."""
        for query in queries:
            query_id = query.query_id(camera, FrameId(0, 0))
            stored = self._stored[query_id]
            if query.question != stored.question:
                problem = f"{query.question!r} instead of {stored.question!r}"
                self._on_problem("another text was asked", query_id, problem)
            if abs(query.deadline_s - stored.deadline_s) > _EXACT_S:
                self._on_problem("a deadline moved", query_id, f"{query.deadline_s} instead of {stored.deadline_s}")

    def of_the_past(self, query_id: str) -> tuple[Ask, float]:
        """A question about the past, and when it came."""
        stored = self._stored[query_id]
        return stored.ask, stored.arrived_s

    # ---- reading ----------------------------------------------------------------------------------------------------

    def had_no_frame(self, camera: str, query_id: str) -> bool:
        """Whether a camera had no frame for a question before its deadline, and was to take none for it alone."""
        stored = self._stored[query_id]
        since_s = max(stored.stored_s, self.known_since_s)
        return self._frames_s.get(camera, -math.inf) < since_s and since_s + self._join_s > stored.deadline_s
