"""Deliberate faults of store and forward: what is kept, what it is asked, how old it is, and when it leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.protocol import reducer
from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import Departure
from pipeline.protocol.edge_frame import EdgeFrame
from pipeline.protocol.edge_messages import EdgeMessages
from pipeline.protocol.effects import Decision
from pipeline.protocol.frame_store import FrameStore
from pipeline.protocol.store_entries import StoreEntries, StoreEntry
from pipeline.protocol.store_requests import FrameRead, StoreResult
from schemas.types import Outcome
from simulation.mutation import Mutation, nothing

# Mutations reach inside on purpose.
_read = FrameStore._read  # noqa: SLF001
_ended = FrameStore.ended
_open = EdgeMessages.open
_pop = DepartureQueue.pop


def _age_at_no_time(self: FrameStore, entry_id: int, result: StoreResult, now_s: float) -> None:
    if isinstance(result, FrameRead) and result.age_s is not None:
        result = replace(result, age_s=0.0)
    _read(self, entry_id, result, now_s)


def _age_since_it_was_found(self: FrameStore, entry_id: int, result: StoreResult, now_s: float) -> None:
    if isinstance(result, FrameRead) and result.age_s is None and entry_id in self.entries:
        result = replace(result, age_s=now_s - self.entries[entry_id].since_s)
    _read(self, entry_id, result, now_s)


def _opened_as_live(self: EdgeMessages, frame: EdgeFrame, *args: Any) -> None:
    history, frame.history = frame.history, False
    _open(self, frame, *args)
    frame.history = history


def _history_first(self: DepartureQueue, now_s: float) -> Departure | None:
    return self._pop_history() if self._history else _pop(self, now_s)


def _oldest_out(self: StoreEntries) -> int | None:
    return min((entry_id for entry_id, entry in self if entry.idle), default=None)


def _unheard(self: FrameStore, decision: Decision, now_s: float) -> None:
    _ended(self, replace(decision, answer=None), now_s)


def _over_at_its_deadline(self: FrameStore, decision: Decision, now_s: float) -> None:
    entry_id = self._of_frame.get((decision.camera, decision.frame))
    if entry_id is not None and decision.outcome is Outcome.EXPIRED:
        self.entries[entry_id].digests.pop(decision.question.question_id, None)
    _ended(self, decision, now_s)


def _any_replaces(*_: Any) -> bool:
    return False


STORE_MUTATIONS: tuple[Mutation, ...] = (
    Mutation("a stored frame is as old as a new one", 1, FrameStore, "_read", _age_at_no_time),
    Mutation("an age that nobody knows is a time all the same", 1, FrameStore, "_read", _age_since_it_was_found),
    Mutation("history is opened among live frames", 1, EdgeMessages, "open", _opened_as_live),
    Mutation("history leaves before live messages", 1, DepartureQueue, "pop", _history_first),
    Mutation("the oldest stored frame leaves first", 2, StoreEntries, "next_out", _oldest_out),
    Mutation("a changed question keeps its stored frames", 1, StoreEntry, "keep_only", nothing),
    Mutation("an answered stored frame is asked again", 1, FrameStore, "ended", _unheard),
    Mutation("a stored frame is over at its deadline", 1, FrameStore, "ended", _over_at_its_deadline),
    Mutation("old history becomes the latest answer", 1, reducer, "is_older", _any_replaces),
)
