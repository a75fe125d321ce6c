"""Ad-hoc questions from their arrival to their one terminal outcome."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edge_nodes.client_budgets import ClientBudgets
from edge_nodes.journal import Admission, JournalThread, StoredAsk
from edge_nodes.outbox import outcome_wire_bytes, reply_wire_bytes
from pipeline.config.logs import get_logger
from pipeline.node.clock import Clock
from pipeline.protocol.effects import AskedQuery, ReplyTo
from schemas.errors import ArtifactError
from schemas.identity import owner_of
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.printable import as_reason
from schemas.types import FrameId, Outcome

_log = get_logger(__name__)

NO_FRAME_SEQUENCE = 2**32 - 1
"""Sequence in the frame id of an outcome whose question never met a frame."""

_NO_FRAME = FrameId(0, NO_FRAME_SEQUENCE)

RETRY_S: Final = 10.0
"""Between two attempts to store what a disk did not take."""

TerminalMessage = Answer | QueryOutcome
Report = Callable[[QueryOutcome, Callable[[], None]], None]
"""Publishes an outcome on the outcome topic; calls back once the broker has it."""
Reply = Callable[[TerminalMessage, ReplyTo], None]
"""Publishes a terminal to the client that asked."""


@dataclass(slots=True)
class _OpenAsk:
    stored: StoredAsk
    deadline_s: float
    taken: bool = False
    # Workers reply to clients. One that had to ask for the text has not seen the question: it does not know the client.
    edge_replies: bool = False


@dataclass(slots=True)
class _Unstored:
    """An end that the disk has not taken. Memory answers who asks again; a further restart would not know it.

    There is at most one for each question that is undecided on disk, of which the journal has a bounded number.
    """

    terminal: TerminalMessage
    told: bool


class AskDesk:
    """Takes ad-hoc questions in, hands them to the next frame, and keeps the client informed.

    Args:
        journal: where they are stored.
        clock: the edge's clock.
        boot: this process start, for outcomes without a frame.
        cameras: cameras of the site.
        budgets: what each client may cost.
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
        budgets: ClientBudgets,
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
        self._budgets = budgets
        self._report = report
        self._reply = reply
        self._wake = wake
        self._open: dict[str, _OpenAsk] = {}
        self._unstored: dict[str, _Unstored] = {}
        self._closed_because = ""
        self._spawn = spawn

    # ---- questions come in ------------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Take up what an earlier process left: open questions wait for a frame again, untold outcomes are told."""
        await self._take_up(await self._journal.unfinished())

    async def keep_journal(self, path: Path | None = None) -> None:
        """Store what the disk did not take at first, until cancelled.

        Args:
            path: the file, where the journal is in memory because it could not be opened.
        """
        while True:
            await self._clock.sleep(RETRY_S)
            if path is not None and await self._move_to(path):
                path = None
            await self.store_again()

    async def store_again(self) -> None:
        """Try once more to store what the disk did not take."""
        try:
            for query_id, unstored in list(self._unstored.items()):
                await self._journal.decide(query_id, unstored.terminal, told=unstored.told)
                if unstored.told:
                    await self._journal.told(query_id)
                # One that was only on its way to the disk has arrived meanwhile.
                if self._unstored.get(query_id) is unstored:
                    del self._unstored[query_id]
                    self.counters["stored_late"] += 1
        except sqlite3.Error:
            return  # said when it began

    async def _move_to(self, path: Path) -> bool:
        try:
            found = await self._journal.move_to(path)
        except ArtifactError:
            return False  # said when it began
        _log.info("ad-hoc questions are kept on disk again", path=str(path))
        await self._take_up(found)
        return True

    async def _take_up(self, unfinished: Collection[StoredAsk]) -> None:
        for stored in unfinished:
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
        max_of_client = self._budgets.of(client).open_asks
        try:
            admission, stored = await self._journal.admit(camera, client, ask, reply_to, max_of_client=max_of_client)
        except sqlite3.Error as error:
            self._not_stored("an ad-hoc question cannot be stored", asked.query_id, error)
            if asked.query_id in self._open or asked.query_id in self._unstored:
                self._running(asked)  # a refusal would be a second end of it
            else:
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
                self._running(stored)
            case Admission.DECIDED:
                if reply_to is not None and stored.terminal is not None:
                    self._reply_charged(stored.terminal, reply_to)
            case Admission.CONFLICT:
                self._refuse(asked, "the query id stands for another question", public=False)
            case Admission.FULL:
                self._refuse(asked, "too many open questions")
            case Admission.CLIENT_FULL:
                self._refuse(asked, f"{max_of_client} questions of this client have no outcome yet: wait for some")

    def refuse(self, camera: str, client: str, ask: Ask, reply_to: ReplyTo | None, reason: str) -> None:
        """Tell a client that its question is not taken in, if its budget still allows that."""
        self._refuse(StoredAsk(ask, camera, client, 0.0, reply_to, None), reason)

    def refuse_unreadable(self, camera: str, client: str, query_id: str, reason: str) -> None:
        """Say on the outcome topic that a message was no question, under the id that it seems to have."""
        asked = StoredAsk(Ask(query_id=query_id, text="?"), camera, client, 0.0, None, None)
        if asked.query_id in self._open or asked.query_id in self._unstored:
            self.counters["unreadable_repeated"] += 1  # the question of this id has its own end to come
        else:
            self._refuse(asked, reason)

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

    async def decided(self, terminal: TerminalMessage, *, published: bool) -> None:
        """A question has its terminal outcome.

        Args:
            terminal: the message that says so.
            published: everybody has been told already, by the worker.
        """
        ask = self._open.pop(terminal.query_id, None)
        reply_to = None if ask is None else ask.stored.reply_to
        # Known in memory until the disk has it: who asks again meanwhile is told.
        unstored = self._unstored.setdefault(terminal.query_id, _Unstored(terminal, published))
        try:
            stored = await self._journal.decide(terminal.query_id, terminal, told=published)
        except sqlite3.Error as error:
            self._not_stored("the end of an ad-hoc question cannot be stored", terminal.query_id, error)
        else:
            reply_to = stored.reply_to if reply_to is None and stored is not None else reply_to
            if unstored.told == published:
                self._unstored.pop(terminal.query_id, None)
        if not published and isinstance(terminal, QueryOutcome):
            self._tell(terminal, reply_to)
        elif reply_to is not None and ask is not None and ask.edge_replies:
            self._reply_charged(terminal, reply_to)

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

    def _running(self, stored: StoredAsk) -> None:
        """A question is asked again that has no end on disk."""
        known, unstored = self._open.get(stored.query_id), self._unstored.get(stored.query_id)
        if known is not None:
            # The workers know the reply topic of the first time; only the edge knows this one for sure.
            known.edge_replies = known.edge_replies or known.stored.reply_to != stored.reply_to
            known.stored = replace(known.stored, reply_to=stored.reply_to or known.stored.reply_to)
        elif unstored is not None:
            if stored.reply_to is not None:
                self._reply_charged(unstored.terminal, stored.reply_to)
        else:
            self._enter(stored, edge_replies=True)

    def _not_stored(self, what: str, query_id: str, error: sqlite3.Error) -> None:
        self.counters["not_stored"] += 1
        count = self.counters["not_stored"]
        if count == 10 ** (len(str(count)) - 1):
            _log.error(what, query=query_id, problem=str(error), count=count, fix="free space on the disk of state_dir")

    def _enter(self, stored: StoredAsk, *, edge_replies: bool = False) -> None:
        deadline_s = self._clock.now_s() + stored.remaining_s
        self._open[stored.query_id] = _OpenAsk(stored, deadline_s, edge_replies=edge_replies)
        self._wake(stored.camera)

    async def _end(self, stored: StoredAsk, outcome: Outcome, reason: str) -> None:
        await self.decided(self._outcome(stored, outcome, reason), published=False)

    def _refuse(self, asked: StoredAsk, reason: str, *, public: bool = True) -> None:
        self.counters["refused"] += 1
        outcome = self._outcome(asked, Outcome.FAILED, reason)
        wire_bytes = outcome_wire_bytes(outcome) if public else 0
        wire_bytes += 0 if asked.reply_to is None else reply_wire_bytes(outcome, asked.reply_to)
        if not self._budgets.say(asked.client, wire_bytes):
            self.counters["refused_silently"] += 1
            return
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
        self._budgets.charge(_client_of(outcome), outcome_wire_bytes(outcome))
        self._report(outcome, lambda: self._mark_told(outcome))
        if reply_to is not None:
            self._reply_charged(outcome, reply_to)

    def _reply_charged(self, terminal: TerminalMessage, reply_to: ReplyTo) -> None:
        self._budgets.charge(_client_of(terminal), reply_wire_bytes(terminal, reply_to))
        self._reply(terminal, reply_to)

    def _mark_told(self, outcome: QueryOutcome) -> None:
        if (unstored := self._unstored.get(outcome.query_id)) is not None:
            unstored.told = True
        else:
            self._spawn(self._store_told(outcome), f"told {outcome.query_id}")

    async def _store_told(self, outcome: QueryOutcome) -> None:
        try:
            await self._journal.told(outcome.query_id)
        except sqlite3.Error as error:
            self._not_stored("the end of an ad-hoc question cannot be stored", outcome.query_id, error)
            self._unstored[outcome.query_id] = _Unstored(outcome, told=True)


def _client_of(terminal: TerminalMessage) -> str:
    return terminal.owner.removeprefix("client/")
