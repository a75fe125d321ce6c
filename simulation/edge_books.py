"""What one site is asked, says and hears, to judge its sessions by; one book over all of its processes."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.protocol.departures import Departure
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, SendOpen, SendToWorker, Terminal
from schemas.messages import Message, Open, Status
from schemas.types import FrameId
from simulation.asked_books import AskedBooks, Problem
from simulation.content import seen
from simulation.uplink_books import UplinkBooks
from simulation.wills import STALE_WILL, WillsRead, seen_outside


class EdgeBooks:
    """Book of a site.

    Args:
        site: its name.
        asked: what was asked of every frame.
        on_problem: told what is broken.
    """

    def __init__(self, site: str, asked: AskedBooks, on_problem: Problem) -> None:
        self._site = site
        self._asked = asked
        self._on_problem = on_problem
        self._uplink = UplinkBooks(on_problem)
        self._workers = WillsRead()

    def started(self) -> None:
        """Another process of the site starts."""
        self._uplink = UplinkBooks(self._on_problem)
        self._workers = WillsRead()

    def offered(self, camera: str, frame: FrameId, mark: bytes, queries: Sequence[AskedQuery], now_s: float) -> None:
        """The session was given a frame."""
        self._asked.offered(camera, frame, seen(mark), queries)
        self._uplink.offered(camera, frame, queries, now_s)

    def hears(self, session: EdgeSession, status: Status, now_s: float) -> None:
        """The session reads a worker's status; the last will of an earlier start must change nothing."""
        stale = self._workers.is_stale(status)
        self._workers.learn(status, now_s)
        before = seen_outside(session) if stale else ()
        session.receive_worker_status(status, now_s)
        if stale and seen_outside(session) != before:
            self._on_problem(STALE_WILL, self._site, f"the will of boot {status.boot} of {status.id}")

    def queued(self, effect: SendOpen | SendToWorker, now_s: float) -> None:
        """The session wants something to leave when the uplink has room."""
        self._uplink.queued(effect, now_s)

    def left(self, departure: Departure, message: Message, now_s: float, backlog_s: float, response_s: float) -> None:
        """A message leaves."""
        if isinstance(message, Open):
            self._asked.opened(self._site, departure.topic.rsplit("/", 1)[1], message)
        self._uplink.left(departure, message, now_s, backlog_s, response_s)

    def decided(self, terminal: Terminal) -> None:
        """The session has decided a query."""
        self._asked.decided(self._site, terminal)
