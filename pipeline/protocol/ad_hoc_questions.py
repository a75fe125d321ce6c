"""Ad-hoc questions from their arrival to their one terminal outcome.

A question is on disk before it is acknowledged, and ends once, whatever happens to process, disk and connection. Pure:
what goes to disk are :mod:`~pipeline.protocol.journal_requests`, and what the disk says comes back as an input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from pipeline.protocol.ask_ends import AskEnds, TerminalMessage
from pipeline.protocol.client_budgets import ClientBudgets
from pipeline.protocol.edge_reports import EdgeReports, outcome_wire_bytes, reply_wire_bytes
from pipeline.protocol.effects import AskedQuery, ReplyTo, TakeFrame
from pipeline.protocol.journal_link import JournalLink
from pipeline.protocol.journal_requests import (
    Admission,
    Admit,
    Admitted,
    JournalRequest,
    JournalResult,
    MoveToFile,
    ReadUnfinished,
    StoredAsk,
    Unfinished,
)
from pipeline.protocol.ports import Notice
from pipeline.protocol.reasons import UPLINK_BUDGET
from schemas.identity import owner_of
from schemas.messages import Ask, QueryOutcome
from schemas.printable import as_reason
from schemas.types import FrameId, Outcome, milliseconds

NO_FRAME_SEQUENCE: Final = 2**32 - 1
"""Sequence in the frame id of an outcome whose question never met a frame."""

_NO_FRAME = FrameId(0, NO_FRAME_SEQUENCE)

ANOTHER_QUESTION: Final = "the query id stands for another question"
"""Why a client is refused that asks something else under an id of its own."""
MAX_REPEATS_WAITING: Final = 256
"""Repeats of a question on its way to the disk that wait for it: what a broker may deliver unacknowledged. A further
one is settled at once."""


@dataclass(frozen=True, slots=True)
class PastAsk:
    """A question about a frame of the past that shall meet it now.

    Attributes:
        camera: whom it is asked of.
        ask: the question; it says which frame is meant.
        query: the same, as it is asked of a frame.
        arrived_s: when it came, on the edge's monotonic clock.
    """

    camera: str
    ask: Ask
    query: AskedQuery
    arrived_s: float


@dataclass(slots=True)
class _OpenAsk:
    stored: StoredAsk
    deadline_s: float
    arrived_s: float
    taken: bool = False
    # Workers reply to clients. One that had to ask for the text has not seen the question: it does not know the client.
    edge_replies: bool = False


@dataclass(slots=True)
class _Arriving:
    """A question on its way to the disk: how often, and who else waits for the last of these."""

    admits: int = 0
    done: list[Callable[[], None]] = field(default_factory=list)


class AdHocQuestions:
    """Takes ad-hoc questions in, hands them to the next frame, and keeps the client informed.

    Args:
        boot: this process start, for outcomes without a frame.
        cameras: cameras of the site.
        budgets: what each client may cost.
        reports: what the edge says beside its frames.
        spent: why the uplink's budget allows no question now; None when it does.

    Attributes:
        counters: what happened to asks, by kind.
    """

    def __init__(
        self,
        *,
        boot: int,
        cameras: Collection[str],
        budgets: ClientBudgets,
        reports: EdgeReports,
        spent: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._boot = boot
        self._cameras = cameras
        self._budgets = budgets
        self._reports = reports
        self._spent = spent
        self._open: dict[str, _OpenAsk] = {}
        self._arriving: dict[str, _Arriving] = {}
        self._past: list[_OpenAsk] = []
        self._closed_because = ""
        self._in_memory = False
        self._unread = False
        self._journal = JournalLink(self.counters)
        self._ends = AskEnds(self._journal, budgets, reports, self.counters)
        self._journal.request(ReadUnfinished, self._restored)

    def take_outputs(self) -> list[JournalRequest | TakeFrame | Notice]:
        """What the shell must do, since the last call, in order."""
        return self._journal.take_outputs()

    def sizes(self) -> dict[str, int]:
        """Entries of every table that it keeps."""
        return {
            "asks": len(self._open),
            "asks_repeated": sum(len(arriving.done) for arriving in self._arriving.values()),
            **self._ends.sizes(),
            "journal_requests": self._journal.pending,
        }

    # ---- the disk's word --------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Requests that the disk has not answered."""
        return self._journal.pending

    def stored(self, token: int, result: JournalResult, now_s: float) -> None:
        """What became of a request.

        Raises:
            StateError: the token is not under way: the shell has answered twice.
        """
        self._journal.stored(token, result, now_s)

    # ---- questions come in ------------------------------------------------------------------------------------------

    def receive(
        self,
        camera: str,
        client: str,
        ask: Ask,
        reply_to: ReplyTo | None,
        now_s: float,
        *,
        done: Callable[[], None],
    ) -> None:
        """Take a question in.

        Args:
            camera: whom it is asked of.
            client: who asks, as its topic says.
            ask: the question.
            reply_to: where the client wants the answer.
            now_s: the edge's monotonic time.
            done: called when it is on disk, or its client knows why not.
        """
        asked = StoredAsk(ask, camera, client, ask.deadline_ms / 1000, reply_to, None)
        self._arriving.setdefault(asked.query_id, _Arriving()).admits += 1
        max_of_client = self._budgets.of(client).open_asks
        self._journal.request(
            partial(Admit, camera=camera, client=client, ask=ask, reply_to=reply_to, max_of_client=max_of_client),
            partial(self._admitted, asked, max_of_client, now_s, done),
        )

    def _admitted(
        self,
        asked: StoredAsk,
        max_of_client: int,
        arrived_s: float,
        done: Callable[[], None],
        result: JournalResult,
        now_s: float,
    ) -> None:
        arriving = self._arriving[asked.query_id]
        arriving.admits -= 1
        try:
            if isinstance(result, Admitted):
                self._admit(asked, max_of_client, arrived_s, result, now_s)
            else:
                self._not_admitted(asked, result, now_s)
        finally:
            done()
            if not arriving.admits:
                del self._arriving[asked.query_id]
                for further in arriving.done:
                    further()

    def _not_admitted(self, asked: StoredAsk, result: JournalResult, now_s: float) -> None:
        self._journal.failed("an ad-hoc question cannot be stored", asked.query_id, result)
        if asked.query_id in self._open or self._ends.unstored(asked.query_id):
            self._running(asked, now_s)  # a refusal would be a second end of it
        else:
            self._not_taken(asked, "the edge cannot store questions", now_s)

    def _not_taken(self, asked: StoredAsk, reason: str, now_s: float) -> None:
        """Refuse a question, unless it is on its way to the disk once more: then that decides."""
        if not self._arriving[asked.query_id].admits:
            self._refuse(asked, reason, now_s)

    def _admit(self, asked: StoredAsk, max_of_client: int, arrived_s: float, result: Admitted, now_s: float) -> None:
        self.counters[result.admission.value] += 1
        stored = result.stored
        match result.admission:
            case Admission.NEW:
                self._enter(stored, now_s, arrived_s=arrived_s)
            case Admission.RUNNING:
                self._running(stored, now_s)
            case Admission.DECIDED:
                if asked.reply_to is not None and stored.terminal is not None:
                    self._ends.reply(stored.terminal, asked.reply_to, now_s)
            case Admission.CONFLICT:
                self._refuse(asked, ANOTHER_QUESTION, now_s, public=False)
            case Admission.FULL:
                self._not_taken(asked, "too many open questions", now_s)
            case Admission.CLIENT_FULL:
                reason = f"{max_of_client} questions of this client have no outcome yet: wait for some"
                self._not_taken(asked, reason, now_s)

    def refuse(
        self,
        camera: str,
        client: str,
        ask: Ask,
        reply_to: ReplyTo | None,
        reason: str,
        now_s: float,
        *,
        done: Callable[[], None],
    ) -> None:
        """Tell a client that its question is not taken in, if its budget still allows that.

        One that runs, or has ended, is the same question asked again: a refusal would be a second end of it. Whatever
        is said then costs the client's budget too.

        Args:
            camera: whom it is asked of.
            client: who asks.
            ask: the question.
            reply_to: where the client wants the answer.
            reason: why it is not taken in.
            now_s: the edge's monotonic time.
            done: called at once, or when the same question is on disk, if it is on its way there.
        """
        asked = StoredAsk(ask, camera, client, 0.0, reply_to, None)
        known = self._open.get(asked.query_id)
        if known is not None and not known.stored.ask.same_question(ask, client):
            self._refuse(asked, ANOTHER_QUESTION, now_s, public=False)
        elif known is not None or self._ends.unstored(asked.query_id):
            self.counters["refused_repeats"] += 1
            self._running(asked, now_s, within_budget=True)
        elif asked.query_id in self._arriving:
            self.counters["refused_repeats"] += 1
            waiting = self._arriving[asked.query_id].done
            if len(waiting) < MAX_REPEATS_WAITING:
                waiting.append(done)
                return
        elif self._ends.known(asked.query_id):
            self.counters["refused_repeats"] += 1
        else:
            self._refuse(asked, reason, now_s)
        done()

    def refuse_unreadable(self, camera: str, client: str, query_id: str, reason: str, now_s: float) -> None:
        """Say on the outcome topic that a message was no question, under the id that it seems to have."""
        asked = StoredAsk(Ask(query_id=query_id, text="?"), camera, client, 0.0, None, None)
        if self._known(asked.query_id):
            self.counters["unreadable_repeated"] += 1  # the question of this id has its own end
        else:
            self._refuse(asked, reason, now_s)

    # ---- questions of an earlier process ----------------------------------------------------------------------------

    def _restored(self, result: JournalResult, now_s: float) -> None:
        """Open questions wait for a frame again, untold outcomes are told."""
        if not isinstance(result, Unfinished):
            self._journal.failed("what an earlier process left cannot be read", "", result)
            self._unread = True
            self._journal.retry_later(now_s)
            return
        self._unread = False
        if result.in_memory:
            self._in_memory = True
            self._journal.retry_later(now_s)
        for stored in result.asks:
            if self._known(stored.query_id):
                continue  # asked again meanwhile
            self.counters["restored"] += 1
            if isinstance(stored.terminal, QueryOutcome):
                self._ends.tell(stored.terminal, stored.reply_to, now_s)
            elif stored.terminal is not None:
                continue
            elif stored.camera not in self._cameras:
                self._end(stored, Outcome.FAILED, f"camera {stored.camera} is gone")
            elif stored.remaining_s <= 0:
                self._end(stored, Outcome.EXPIRED, "deadline while the edge was down")
            else:
                self._enter(stored, now_s, edge_replies=True)

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
            if ask is not None and self._closed_because:
                self._end(ask.stored, Outcome.FAILED, self._closed_because)
            elif ask is not None:
                ask.taken = False

    def texts_requested(self, digests: Collection[bytes]) -> None:
        """A worker had to ask for the texts of questions."""
        for ask in self._open.values():
            ask.edge_replies = ask.edge_replies or ask.stored.ask.content(ask.stored.client).digest in digests

    def take_past(self) -> list[PastAsk]:
        """Questions about frames of the past, since the last call; each is asked now, or :meth:`fail_past` ends it."""
        past, self._past = self._past, []
        return [
            PastAsk(
                waiting.stored.camera,
                waiting.stored.ask,
                AskedQuery(waiting.stored.ask.content(waiting.stored.client), waiting.deadline_s),
                waiting.arrived_s,
            )
            for waiting in past
        ]

    def fail_past(self, past: PastAsk, reason: str, oldest_age_s: float | None) -> None:
        """There is no frame for a question of the past.

        Args:
            past: the question.
            reason: why.
            oldest_age_s: how old the oldest kept frame of its camera is; None where none is kept.
        """
        ask = self._open.get(past.query.query_id(past.camera, _NO_FRAME))
        if ask is not None:
            self._end(ask.stored, Outcome.FAILED, reason, age_s=oldest_age_s)

    # ---- questions end ----------------------------------------------------------------------------------------------

    def decided(self, terminal: TerminalMessage, *, published: bool) -> None:
        """A question has its terminal outcome.

        Args:
            terminal: the message that says so.
            published: everybody has been told already, by the worker.
        """
        ask = self._open.pop(terminal.query_id, None)
        self._ends.decide(
            terminal,
            None if ask is None else ask.stored.reply_to,
            published=published,
            edge_replies=ask is not None and ask.edge_replies,
        )

    def close(self, reason: str) -> None:
        """End those that wait for a frame, and new ones as soon as they are stored: asked again, they have an end."""
        self._closed_because = reason
        waiting = [ask for ask in self._open.values() if not ask.taken]
        for ask in waiting:
            ask.taken = True
            self._end(ask.stored, Outcome.FAILED, reason)

    # ---- time -------------------------------------------------------------------------------------------------------

    def next_wake_s(self) -> float | None:
        """When :meth:`tick` is due next."""
        due_s = [ask.deadline_s for ask in self._open.values() if not ask.taken]
        if self._journal.retry_at_s is not None:
            due_s.append(self._journal.retry_at_s)
        return min(due_s, default=None)

    def tick(self, now_s: float) -> None:
        """End questions whose deadline came before a frame did; those in a frame are decided there."""
        due = [ask for ask in self._open.values() if not ask.taken and ask.deadline_s <= now_s]
        for ask in due:
            ask.taken = True
            self._end(ask.stored, Outcome.EXPIRED, "deadline before a frame")
        if self._journal.retry_at_s is not None and self._journal.retry_at_s <= now_s:
            self.try_again(now_s)

    def try_again(self, now_s: float) -> None:
        """Try once more what disk, queue or broker did not take; one failure is enough to wait for the next time."""
        self._journal.retry_at_s = None
        self._ends.tell_again(now_s)
        if self._unread:
            self._journal.request(ReadUnfinished, self._restored)
        if self._in_memory:
            self._journal.request(MoveToFile, self._moved)
        self._ends.store_again()

    def _moved(self, result: JournalResult, now_s: float) -> None:
        if isinstance(result, Unfinished):
            self._in_memory = False
            self._restored(result, now_s)
        else:
            self._journal.retry_later(now_s)

    # ---- internals --------------------------------------------------------------------------------------------------

    def _running(self, stored: StoredAsk, now_s: float, *, within_budget: bool = False) -> None:
        """A question is asked again that has no end on disk.

        Args:
            stored: the question.
            now_s: the edge's monotonic time.
            within_budget: what the client has had already is said again only if its budget allows that.
        """
        known, ended = self._open.get(stored.query_id), self._ends.unstored(stored.query_id)
        if known is not None:
            # The workers know the reply topic of the first time; only the edge knows this one for sure.
            known.edge_replies = known.edge_replies or known.stored.reply_to != stored.reply_to
            known.stored = replace(known.stored, reply_to=stored.reply_to or known.stored.reply_to)
        elif ended is None:
            self._enter(stored, now_s, edge_replies=True)
        elif stored.reply_to is not None and within_budget:
            self._ends.reply_again(ended, stored.reply_to, now_s)
        elif stored.reply_to is not None:
            self._ends.reply(ended, stored.reply_to, now_s)

    def _enter(
        self, stored: StoredAsk, now_s: float, *, edge_replies: bool = False, arrived_s: float | None = None
    ) -> None:
        if self._closed_because:
            self._end(stored, Outcome.FAILED, self._closed_because)
            return
        if (spent := self._spent()) is not None:
            self.counters["uplink_budget"] += 1
            self._end(stored, Outcome.FAILED, f"{UPLINK_BUDGET}: {spent}")
            return
        if arrived_s is None:  # in an earlier process
            arrived_s = now_s + stored.remaining_s - stored.ask.deadline_ms / 1000
        ask = _OpenAsk(stored, now_s + stored.remaining_s, arrived_s, edge_replies=edge_replies)
        self._open[stored.query_id] = ask
        if stored.ask.of_the_past:
            ask.taken = True
            self._past.append(ask)
        else:
            self._journal.take_frame(stored.camera)

    def _end(self, stored: StoredAsk, outcome: Outcome, reason: str, *, age_s: float | None = None) -> None:
        self.decided(self._outcome(stored, outcome, reason, age_s), published=False)

    def _refuse(self, asked: StoredAsk, reason: str, now_s: float, *, public: bool = True) -> None:
        self.counters["refused"] += 1
        outcome = self._outcome(asked, Outcome.FAILED, reason)
        wire_bytes = outcome_wire_bytes(outcome) if public else 0
        wire_bytes += 0 if asked.reply_to is None else reply_wire_bytes(outcome, asked.reply_to)
        if not self._budgets.say(asked.client, wire_bytes, now_s):
            self.counters["refused_silently"] += 1
            return
        # While it waits for a thin uplink the question may be asked again, and taken in: then it has another end.
        withdrawn = partial(self._known, asked.query_id) if public else None
        if public:
            self._reports.outcome(outcome, withdrawn=withdrawn)
        if asked.reply_to is not None:
            self._reports.reply(outcome, asked.reply_to, withdrawn=withdrawn)

    def _known(self, query_id: str) -> bool:
        """Whether a question runs, is ending or has ended."""
        return query_id in self._open or self._ends.known(query_id)

    def _outcome(self, stored: StoredAsk, outcome: Outcome, reason: str, age_s: float | None = None) -> QueryOutcome:
        return QueryOutcome.model_validate(
            {
                "query_id": stored.query_id,
                "owner": owner_of("client", stored.client),
                "camera": stored.camera,
                "frame": FrameId(self._boot, NO_FRAME_SEQUENCE),
                "question_id": stored.ask.query_id,
                "outcome": outcome,
                "age_ms": None if age_s is None else milliseconds(age_s),
                "reason": as_reason(reason),
            }
        )
