"""Ad-hoc questions from their arrival to their one terminal outcome."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from edge_nodes.clock import Clock
from edge_nodes.journal import Admission, JournalThread, StoredAsk
from pipeline.logs import get_logger
from pipeline.protocol.effects import AskedQuery, ReplyTo
from schemas.identity import owner_of
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.printable import as_reason
from schemas.types import FrameId, Outcome

_log = get_logger(__name__)

NO_FRAME_SEQUENCE = 2**32 - 1
"""Sequence in the frame id of an outcome whose question never met a frame."""

_NO_FRAME = FrameId(0, NO_FRAME_SEQUENCE)

Terminal = Answer | QueryOutcome
Report = Callable[[QueryOutcome, Callable[[], None]], None]
"""Publishes an outcome on the outcome topic; calls back once the broker has it."""
Reply = Callable[[Terminal, ReplyTo], None]
"""Publishes a terminal to the client that asked."""


@dataclass(slots=True)
class _OpenAsk:
    stored: StoredAsk
    deadline_s: float
    taken: bool = False
    # Workers reply to clients. One that had to ask for the text has not seen the question: it does not know the client.
    edge_replies: bool = False


class AskDesk:
    """Takes ad-hoc questions in, hands them to the next frame, and keeps the client informed.

    Args:
        journal: where they are stored.
        clock: the edge's clock.
        boot: this process start, for outcomes without a frame.
        cameras: cameras of the site.
        report: publishes an outcome.
        reply: publishes to a client.
        wake: called with a camera that shall take a frame now.
        spawn: runs work beside, under a name.

    Attributes:
        counters: what happened to asks, by kind.
    """

    def __init__(
        self,
        journal: JournalThread,
        clock: Clock,
        *,
        boot: int,
        cameras: Collection[str],
        report: Report,
        reply: Reply,
        wake: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._journal = journal
        self._clock = clock
        self._boot = boot
        self._cameras = cameras
        self._report = report
        self._reply = reply
        self._wake = wake
        self._open: dict[str, _OpenAsk] = {}
        self._closed_because = ""
        self._spawn = spawn

    # ---- questions come in ------------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Take up what an earlier process left: open questions wait for a frame again, untold outcomes are told."""
        for stored in await self._journal.unfinished():
            self.counters["restored"] += 1
            if isinstance(stored.terminal, QueryOutcome):
                self._tell(stored.terminal, stored.reply_to)
            elif stored.terminal is not None:
                continue
            elif stored.camera not in self._cameras:
                await self._end(stored, Outcome.FAILED, f"camera {stored.camera} is gone")
            elif stored.remaining_s <= 0:
                await self._end(stored, Outcome.EXPIRED, "deadline while the edge was down")
            else:
                self._enter(stored, edge_replies=True)

    async def receive(self, camera: str, client: str, ask: Ask, reply_to: ReplyTo | None) -> None:
        """Take a question in. When this returns it is on disk, or its client knows why not.

        Args:
            camera: whom it is asked of.
            client: who asks, as its topic says.
            ask: the question.
            reply_to: where the client wants the answer.
        """
        asked = StoredAsk(ask, camera, client, ask.deadline_ms / 1000, reply_to, None)
        if reason := self._closed():
            self._refuse(asked, reason)
            return
        try:
            admission, stored = await self._journal.admit(camera, client, ask, reply_to)
        except sqlite3.Error as error:
            _log.error("an ad-hoc question cannot be stored", query=asked.query_id, problem=str(error))
            self._refuse(asked, "the edge cannot store questions")
            return
        self.counters[admission.value] += 1
        match admission:
            case Admission.NEW:
                if reason := self._closed():  # while it was stored
                    await self._end(stored, Outcome.FAILED, reason)
                else:
                    self._enter(stored)
            case Admission.RUNNING:
                known = self._open.get(stored.query_id)
                if known is not None:
                    # The workers know the reply topic of the first time; only the edge knows this one for sure.
                    known.edge_replies = known.edge_replies or known.stored.reply_to != stored.reply_to
            case Admission.DECIDED:
                if reply_to is not None and stored.terminal is not None:
                    self._reply(stored.terminal, reply_to)
            case Admission.CONFLICT:
                self._refuse(asked, "the query id stands for another question", public=False)
            case Admission.FULL:
                self._refuse(asked, "too many open questions")

    # ---- questions meet a frame -------------------------------------------------------------------------------------

    def waiting(self, camera: str) -> bool:
        """Whether a question waits for a frame of this camera."""
        return any(ask.stored.camera == camera and not ask.taken for ask in self._open.values())

    def take(self, camera: str, limit: int) -> list[AskedQuery]:
        """Questions to ask of a frame, the most urgent first."""
        waiting = [ask for ask in self._open.values() if ask.stored.camera == camera and not ask.taken]
        chosen = sorted(waiting, key=lambda ask: ask.deadline_s)[:limit]
        for ask in chosen:
            ask.taken = True
        return [AskedQuery(ask.stored.ask.content(ask.stored.client), ask.deadline_s) for ask in chosen]

    def give_back(self, camera: str, queries: Collection[AskedQuery]) -> None:
        """A frame of this camera came to nothing; its ad-hoc questions wait for the next one."""
        for query in queries:
            ask = self._open.get(query.query_id(camera, _NO_FRAME)) if query.ad_hoc else None
            if ask is not None:
                ask.taken = False

    def texts_requested(self, digests: Collection[bytes]) -> None:
        """A worker had to ask for the texts of questions."""
        for ask in self._open.values():
            ask.edge_replies = ask.edge_replies or ask.stored.ask.content(ask.stored.client).digest in digests

    # ---- questions end ----------------------------------------------------------------------------------------------

    async def decided(self, terminal: Terminal, *, published: bool) -> None:
        """A question has its terminal outcome.

        Args:
            terminal: the message that says so.
            published: everybody has been told already, by the worker.
        """
        ask = self._open.pop(terminal.query_id, None)
        reply_to = None if ask is None else ask.stored.reply_to
        try:
            stored = await self._journal.decide(terminal.query_id, terminal, told=published)
            reply_to = stored.reply_to if stored is not None else reply_to
        except sqlite3.Error as error:
            _log.error("the end of an ad-hoc question cannot be stored", query=terminal.query_id, problem=str(error))
        if not published and isinstance(terminal, QueryOutcome):
            self._tell(terminal, reply_to)
        elif reply_to is not None and ask is not None and ask.edge_replies:
            self._reply(terminal, reply_to)

    def next_wake_s(self) -> float | None:
        """When :meth:`expire` is due next."""
        return min((ask.deadline_s for ask in self._open.values() if not ask.taken), default=None)

    def expire(self, now_s: float) -> list[QueryOutcome]:
        """Outcomes of questions whose deadline came before a frame did; those in a frame are the session's."""
        due = [ask for ask in self._open.values() if not ask.taken and ask.deadline_s <= now_s]
        for ask in due:
            ask.taken = True
        return [self._outcome(ask.stored, Outcome.EXPIRED, "deadline before a frame") for ask in due]

    async def close(self, reason: str) -> None:
        """Refuse new questions from now on, and end those that wait for a frame."""
        self._closed_because = reason
        waiting = [ask for ask in self._open.values() if not ask.taken]
        for ask in waiting:
            ask.taken = True
        for ask in waiting:
            await self._end(ask.stored, Outcome.FAILED, reason)

    # ---- internals --------------------------------------------------------------------------------------------------

    def _closed(self) -> str:
        """Why nothing new is taken in; empty while it is."""
        return self._closed_because

    def _enter(self, stored: StoredAsk, *, edge_replies: bool = False) -> None:
        deadline_s = self._clock.now_s() + stored.remaining_s
        self._open[stored.query_id] = _OpenAsk(stored, deadline_s, edge_replies=edge_replies)
        self._wake(stored.camera)

    async def _end(self, stored: StoredAsk, outcome: Outcome, reason: str) -> None:
        await self.decided(self._outcome(stored, outcome, reason), published=False)

    def _refuse(self, asked: StoredAsk, reason: str, *, public: bool = True) -> None:
        self.counters["refused"] += 1
        outcome = self._outcome(asked, Outcome.FAILED, reason)
        if public:
            self._report(outcome, lambda: None)
        if asked.reply_to is not None:
            self._reply(outcome, asked.reply_to)

    def _outcome(self, stored: StoredAsk, outcome: Outcome, reason: str) -> QueryOutcome:
        return QueryOutcome.model_validate(
            {
                "query_id": stored.query_id,
                "owner": owner_of("client", stored.client),
                "camera": stored.camera,
                "frame": FrameId(self._boot, NO_FRAME_SEQUENCE),
                "question_id": stored.ask.query_id,
                "outcome": outcome,
                "reason": as_reason(reason),
            }
        )

    def _tell(self, outcome: QueryOutcome, reply_to: ReplyTo | None) -> None:
        self._report(outcome, lambda: self._mark_told(outcome.query_id))
        if reply_to is not None:
            self._reply(outcome, reply_to)

    def _mark_told(self, query_id: str) -> None:
        self._spawn(self._store_told(query_id), f"told {query_id}")

    async def _store_told(self, query_id: str) -> None:
        try:
            await self._journal.told(query_id)
        except sqlite3.Error as error:
            _log.error("the end of an ad-hoc question cannot be stored", query=query_id, problem=str(error))
