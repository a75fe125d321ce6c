"""Ledger of a chaos run: every query that was asked, how it ended, and what explains it where it did not.

What was asked is known from the open messages, from the questions that the run asked itself, and at the end from the
frame logs of the edges. How it ended is known to an ordinary reader of answers and outcomes. Both sides must agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from latentbus.fleet.frame_log import FrameLogReader
from latentbus.fleet.ledger import READ_LAG_S, Entry, OutcomeLedger
from schemas.identity import standing_query_id
from schemas.messages import Accept, Answer, NeedText, Open, QueryOutcome, Refine
from schemas.types import FrameId

REPORT_PATIENCE_S: Final = 20.0
"""An outcome that an edge decided while its link or the broker was down reaches the broker within this time."""

FrameKey = tuple[str, FrameId]


@dataclass(slots=True)
class Balance:
    """What became of the queries that have no terminal outcome at the reader.

    Attributes:
        lost: neither ended nor explained.
        died_with_edge: standing queries of an edge that was killed before their deadline; nobody else knew of them.
        unheard: ended at their edge; the message about it was in the broker when that was killed.
    """

    lost: list[str] = field(default_factory=list)
    died_with_edge: list[str] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)


class ChaosLedger(OutcomeLedger):
    """Everything that was seen.

    Attributes:
        reopened: opens of a frame after its first.
        orphans: standing queries of an edge that was killed: nobody can send more of their frame, and a worker says at
            their deadline at the latest what it has.
        killed_boots: when each edge process that was killed was, by its boot id.
        broker_kills_s: when the broker was killed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reopened = 0
        self.orphans: set[str] = set()
        self.killed_boots: dict[int, float] = {}
        self.broker_kills_s: list[float] = []
        self._edge_ended_s: dict[str, float] = {}
        self._attempts: dict[FrameKey, int] = {}
        self._owners: dict[FrameKey, tuple[int, str]] = {}

    @property
    def unfinished(self) -> list[Entry]:
        """Queries without outcome that somebody is to answer for."""
        return [entry for entry in self.undecided.values() if entry.query_id not in self.orphans]

    def opened(self, camera: str, message: Open, now_s: float) -> None:
        """An edge opened a frame."""
        key = (camera, message.frame)
        before = self._attempts.get(key, 0)
        if message.attempt > before:
            self._attempts[key] = message.attempt
            self.reopened += message.attempt > 1
        for query_id, ref in zip(message.query_ids(camera), message.queries, strict=True):
            self._seen(query_id, camera, message.frame, ref.ad_hoc, now_s, now_s + ref.remaining_ms / 1000)

    def observe(self, message: Answer | QueryOutcome, now_s: float, *, reply: bool = False) -> Entry | None:
        """See :meth:`OutcomeLedger.observe`; a provisional answer alone does not say what was asked."""
        if message.outcome is None and message.query_id not in self.entries:
            return None
        decided = super().observe(message, now_s, reply=reply)
        if decided is not None:
            self._seen(decided.query_id, decided.camera, decided.frame, decided.ad_hoc, now_s, now_s)
        return decided

    # ---- who works on it --------------------------------------------------------------------------------------------

    def claimed(self, camera: str, message: Accept | Refine | NeedText | Answer) -> None:
        """A worker spoke for a frame; the first one to do so for an attempt owns it."""
        key = (camera, message.frame)
        if message.attempt > self._owners.get(key, (0, ""))[0]:
            self._owners[key] = (message.attempt, message.worker)

    def owned_by_worker(self, worker: str) -> list[Entry]:
        """Unfinished queries of the frames that a worker owns."""
        return [entry for entry in self.unfinished if self._owner(entry) == worker]

    def owned_by_cameras(self, cameras: frozenset[str]) -> list[Entry]:
        """Unfinished queries that the edge of these cameras owns."""
        return [entry for entry in self.unfinished if entry.camera in cameras]

    def _owner(self, entry: Entry) -> str | None:
        if entry.frame is None:
            return None
        attempt, worker = self._owners.get((entry.camera, entry.frame), (0, ""))
        # An owner of an attempt that was given up owns nothing.
        return worker if attempt and attempt >= self._attempts.get((entry.camera, entry.frame), 0) else None

    # ---- what went wrong --------------------------------------------------------------------------------------------

    def edge_killed(self, boot: int, now_s: float) -> None:
        """An edge was killed; frames of this boot have nobody who knows of them."""
        self.killed_boots[boot] = now_s
        for entry in self.undecided.values():
            self._note_orphan(entry)

    def broker_killed(self, now_s: float) -> None:
        """The broker was killed with whatever it had not delivered."""
        self.broker_kills_s.append(now_s)

    # ---- at the end -------------------------------------------------------------------------------------------------

    def read_frame_logs(self, paths: Iterable[Path], deadline_s: float) -> None:
        """Add what the edges say that they asked, and how it ended for them.

        Queries that never got as far as an open message are there only.

        Args:
            paths: frame logs of every edge process of the run; one that was never begun says nothing.
            deadline_s: of every query.
        """
        for record in (record for path in paths for record in FrameLogReader(path).new_records()):
            if record["kind"] == "ended":
                self._edge_ended_s[record["query_id"]] = record["at_s"]
            elif record["kind"] == "frame":
                camera, frame, asked_s = record["camera"], record["frame"], record["captured_s"]
                for query_id in record["query_ids"]:
                    ad_hoc = query_id != standing_query_id(camera, frame, query_id.rsplit("/", 1)[-1])
                    self._seen(query_id, camera, frame, ad_hoc, asked_s, asked_s + deadline_s)

    def balance(self) -> Balance:
        """Explain every query without outcome."""
        result = Balance()
        for entry in self.undecided.values():
            if entry.query_id in self.orphans and not self._overdue_when_killed(entry):
                result.died_with_edge.append(entry.query_id)
            elif self._died_with_broker(entry):
                result.unheard.append(entry.query_id)
            else:
                result.lost.append(entry.query_id)
        return result

    def _seen(
        self, query_id: str, camera: str, frame: FrameId | None, ad_hoc: bool, asked_s: float, due_s: float
    ) -> None:
        """Somebody speaks of a query; who asked it first has said when."""
        entry = self.entries.get(query_id)
        if entry is None or entry.asked_s is None:
            question_id = query_id.rsplit("/", 1)[-1]
            entry = self.asked(query_id, camera, question_id, ad_hoc=ad_hoc, asked_s=asked_s, due_s=due_s)
        entry.frame = frame or entry.frame
        self._note_orphan(entry)

    def _note_orphan(self, entry: Entry) -> None:
        """Ad-hoc queries outlive their edge on its disk; the standing ones of its frames do not."""
        standing = entry.frame is not None and not entry.ad_hoc and entry.frame.boot in self.killed_boots
        if standing and entry.outcome is None:
            self.orphans.add(entry.query_id)

    def _overdue_when_killed(self, entry: Entry) -> bool:
        """Whether its outcome should have been there long before."""
        return entry.frame is not None and self.killed_boots[entry.frame.boot] >= entry.due_s + REPORT_PATIENCE_S

    def _died_with_broker(self, entry: Entry) -> bool:
        """Whether the edge knows an outcome that was on its way to the reader when the broker was killed."""
        ended_s = self._edge_ended_s.get(entry.query_id)
        # An ad-hoc question is asked again after each reconnect, and then its outcome comes again.
        if entry.ad_hoc or ended_s is None:
            return False
        return any(ended_s - READ_LAG_S <= killed_s <= ended_s + REPORT_PATIENCE_S for killed_s in self.broker_kills_s)
