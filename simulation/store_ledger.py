"""What a simulated site has stored without a link, to judge what becomes of it; one ledger over all of its processes.

- What is asked as history was stored, of that camera, with those texts, and its questions still stand.
- Its age is that of the frame, and unknown if and only if the power was cut in between.
- It leaves in its own traffic class, after everything that waited before it.
- The newest stored frame of a question goes before older ones.
- What a worker has answered is not asked again by the same process.
- Every frame that is stored or found is there, or has gone for one counted reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.protocol.departures import TrafficClass
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, Decision, HistoryOffered
from pipeline.protocol.ports import Sent
from pipeline.protocol.store_requests import ReadFrame
from schemas.types import UNKNOWN_AGE, FrameId
from simulation.content import SimulatedLatent
from simulation.query_ledger import Problem

WRONG_HISTORY = "history that was not stored so"
WRONG_AGE = "history of another age"
OUT_OF_TURN = "history out of turn"
ASKED_AGAIN = "stored frame asked again"
LOST = "stored frame without a reason"
_READ_S = 1.0
"""From reading a frame on disk to asking about it; a process may be stopped in between, which shows in its wait."""


@dataclass(frozen=True, slots=True)
class _Kept:
    camera: str
    captured_s: float
    power: int
    digests: dict[str, bytes]


class StoreLedger:
    """Stored frames by their mark.

    Args:
        site: its name.
        on_problem: told what is broken.
    """

    def __init__(self, site: str, on_problem: Problem) -> None:
        self._site = site
        self._on_problem = on_problem
        self._kept: dict[bytes, _Kept] = {}
        self._marks: dict[tuple[str, FrameId], bytes] = {}
        self._answered: set[tuple[bytes, str]] = set()
        self._history_left_s = -math.inf

    def started(self) -> None:
        """Another process of the site starts: what the one before was told may not be on disk."""
        self._answered.clear()
        self._marks.clear()
        self._history_left_s = -math.inf

    def kept(self, camera: str, mark: bytes, queries: Sequence[AskedQuery], captured_s: float, power: int) -> None:
        """The session keeps a frame."""
        digests = {query.question_id: query.question.digest for query in queries}
        self._kept[mark] = _Kept(camera, captured_s, power, digests)

    def captured_s(self, mark: bytes) -> float:
        """When a stored frame was taken."""
        return self._kept[mark].captured_s

    def reads(self, session: EdgeSession, request: ReadFrame) -> None:
        """The session begins to send a stored frame."""
        entry = session.store.entries[request.entry_id]
        for entry_id, other in session.store.entries:
            shared = other.camera == entry.camera and other.digests.keys() >= entry.digests.keys()
            if shared and other.idle and entry_id > request.entry_id and other.tries <= entry.tries:
                problem = f"frame {request.entry_id} of {entry.camera} goes before frame {entry_id}"
                self._on_problem(OUT_OF_TURN, self._site, problem)

    def offered(self, session: EdgeSession, history: HistoryOffered, now_s: float, power: int) -> None:
        """The session asks about a stored frame."""
        assert isinstance(history.latent, SimulatedLatent)  # noqa: S101
        mark, subject = history.latent.mark, f"{history.camera}/{history.frame}"
        kept = self._kept.get(mark)
        if kept is None or kept.camera != history.camera:
            self._on_problem(WRONG_HISTORY, subject, f"{self._site} never kept it")
            return
        self._marks[history.camera, history.frame] = mark
        self._check_age(history, kept, now_s, power)
        asked = {query.question.digest for query in session.standing.asked(history.camera, now_s)}
        for query in history.queries:
            digest = query.question.digest
            if kept.digests.get(query.question_id) != digest or digest not in asked:
                problem = f"{self._site} asks {query.question.text!r}, which it was not stored for or does not ask now"
                self._on_problem(WRONG_HISTORY, subject, problem)
            if (mark, query.question_id) in self._answered:
                self._on_problem(ASKED_AGAIN, subject, f"{query.question_id} was answered")

    def _check_age(self, history: HistoryOffered, kept: _Kept, now_s: float, power: int) -> None:
        subject = f"{history.camera}/{history.frame}"
        if kept.power != power or history.age_ms == UNKNOWN_AGE:
            if kept.power == power or history.age_ms != UNKNOWN_AGE:
                self._on_problem(WRONG_AGE, subject, f"{history.age_ms}, power {kept.power} and {power}")
            return
        age_s = now_s - kept.captured_s
        if not age_s - _READ_S <= history.age_ms / 1000 <= age_s + 1e-3:
            self._on_problem(WRONG_AGE, subject, f"{history.age_ms} ms, it is {age_s:.3f} s old")

    def decided(self, decision: Decision) -> None:
        """The session has decided a query."""
        mark = self._marks.get((decision.camera, decision.frame))
        if mark is not None and decision.answer is not None:
            self._answered.add((mark, decision.question.question_id))

    def sent(self, sent: Sent) -> None:
        """A message leaves."""
        history = sent.traffic_class == TrafficClass.HISTORY
        about = sent.camera is not None and sent.frame is not None and (sent.camera, sent.frame) in self._marks
        if about and sent.label in ("open", "chunk") and not history:
            self._on_problem(OUT_OF_TURN, f"{sent.camera}/{sent.frame}", f"it leaves as {sent.traffic_class}")
        if history:
            self._history_left_s = sent.at_s
        elif sent.traffic_class is not None and sent.at_s - sent.waited_s < self._history_left_s < sent.at_s:
            problem = f"{sent.label} waited since {sent.at_s - sent.waited_s:.3f}, history left before it"
            self._on_problem(OUT_OF_TURN, self._site, problem)

    def check(self, session: EdgeSession) -> None:
        """Every frame is there, or counted."""
        counters = session.store.counters
        gone = sum(count for kind, count in counters.items() if kind == "answered" or kind.startswith("dropped_"))
        came, there = counters["stored"] + counters["found"], len(session.store.entries)
        answered = len({mark for mark, _ in self._answered})
        if counters["answered"] > answered:
            self._on_problem(LOST, self._site, f"{counters['answered']} are called answered, {answered} were")
        if came != gone + there:
            self._on_problem(LOST, self._site, f"{came} came, {gone} are counted as gone, {there} are there")
