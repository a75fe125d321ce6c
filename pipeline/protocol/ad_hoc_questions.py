"""Ad-hoc questions from their arrival to their one terminal outcome.

A question is on disk before it is acknowledged, and ends once, whatever happens to process, disk and connection. Pure:
what goes to disk are :mod:`~pipeline.protocol.journal_requests`, and what the disk says comes back as an input.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from pipeline.protocol.client_budgets import ClientBudgets
from pipeline.protocol.edge_reports import EdgeReports, outcome_wire_bytes, reply_wire_bytes
from pipeline.protocol.effects import AskedQuery, ReplyTo, TakeFrame
from pipeline.protocol.journal_requests import (
    Admission,
    Admit,
    Admitted,
    Decide,
    Decided,
    JournalRequest,
    JournalResult,
    MarkTold,
    MoveToFile,
    NotStored,
    ReadUnfinished,
    StoredAsk,
    Unfinished,
)
from pipeline.protocol.ports import Delivery, Notice
from schemas.errors import StateError
from schemas.identity import owner_of
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.printable import as_reason
from schemas.types import FrameId, Outcome

NO_FRAME_SEQUENCE: Final = 2**32 - 1
"""Sequence in the frame id of an outcome whose question never met a frame."""

_NO_FRAME = FrameId(0, NO_FRAME_SEQUENCE)

ANOTHER_QUESTION: Final = "the query id stands for another question"
"""Why a client is refused that asks something else under an id of its own."""
MAX_ENDED_REMEMBERED: Final = 1_024
"""Questions that have ended, whose repeats beyond a client's budget are not refused; older ones are."""
MAX_REPEATS_WAITING: Final = 256
"""Repeats of a question on its way to the disk that wait for it: what a broker may deliver unacknowledged. A further
one is settled at once."""
MAX_UNTOLD: Final = 1_024
"""Outcomes that are said again later because queue or broker refused them, and marks *told* that the disk has not
taken."""
MAX_TELLS: Final = 6
"""Times that an outcome is said before it is left to the next process."""
RETRY_S: Final = 10.0
"""Between two attempts to store what a disk did not take."""

TerminalMessage = Answer | QueryOutcome
Then = Callable[[JournalResult, float], None]


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


@dataclass(slots=True)
class _Arriving:
    """A question on its way to the disk: how often, and who else waits for the last of these."""

    admits: int = 0
    done: list[Callable[[], None]] = field(default_factory=list)


@dataclass(slots=True)
class _Untold:
    """An outcome that the uplink's queue or the broker has refused."""

    outcome: QueryOutcome
    reply_to: ReplyTo | None
    tries: int


class AdHocQuestions:
    """Takes ad-hoc questions in, hands them to the next frame, and keeps the client informed.

    Args:
        boot: this process start, for outcomes without a frame.
        cameras: cameras of the site.
        budgets: what each client may cost.
        reports: what the edge says beside its frames.

    Attributes:
        counters: what happened to asks, by kind.
    """

    def __init__(self, *, boot: int, cameras: Collection[str], budgets: ClientBudgets, reports: EdgeReports) -> None:
        self.counters: Counter[str] = Counter()
        self._boot = boot
        self._cameras = cameras
        self._budgets = budgets
        self._reports = reports
        self._open: dict[str, _OpenAsk] = {}
        self._unstored: dict[str, _Unstored] = {}
        self._arriving: dict[str, _Arriving] = {}
        self._untold: dict[str, _Untold] = {}
        self._unmarked: dict[str, TerminalMessage] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._closed_because = ""
        self._outputs: list[JournalRequest | TakeFrame | Notice] = []
        self._pending: dict[int, Then] = {}
        self._next_token = 1
        self._in_memory = False
        self._unread = False
        self._retry_s: float | None = None
        self._retrying = 0
        self._request(ReadUnfinished(self._token()), self._restored)

    def take_outputs(self) -> list[JournalRequest | TakeFrame | Notice]:
        """What the shell must do, since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def sizes(self) -> dict[str, int]:
        """Entries of every table that it keeps."""
        return {
            "asks": len(self._open),
            "asks_repeated": sum(len(arriving.done) for arriving in self._arriving.values()),
            "asks_ended": len(self._ended),
            "asks_unstored": len(self._unstored),
            "asks_untold": len(self._untold),
            "asks_unmarked": len(self._unmarked),
            "journal_requests": len(self._pending),
        }

    # ---- the disk's word --------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Requests that the disk has not answered."""
        return len(self._pending)

    def stored(self, token: int, result: JournalResult, now_s: float) -> None:
        """What became of a request.

        Raises:
            StateError: the token is not under way: the shell has answered twice.
        """
        then = self._pending.pop(token, None)
        if then is None:
            raise StateError(f"journal request {token} has no answer to come")
        then(result, now_s)

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    def _request(self, request: JournalRequest, then: Then) -> None:
        self._pending[request.token] = then
        self._outputs.append(request)

    # ---- questions come in ------------------------------------------------------------------------------------------

    def receive(
        self, camera: str, client: str, ask: Ask, reply_to: ReplyTo | None, *, done: Callable[[], None]
    ) -> None:
        """Take a question in.

        Args:
            camera: whom it is asked of.
            client: who asks, as its topic says.
            ask: the question.
            reply_to: where the client wants the answer.
            done: called when it is on disk, or its client knows why not.
        """
        asked = StoredAsk(ask, camera, client, ask.deadline_ms / 1000, reply_to, None)
        self._arriving.setdefault(asked.query_id, _Arriving()).admits += 1
        request = Admit(self._token(), camera, client, ask, reply_to, self._budgets.of(client).open_asks)
        self._request(request, partial(self._admitted, asked, request.max_of_client, done))

    def _admitted(
        self, asked: StoredAsk, max_of_client: int, done: Callable[[], None], result: JournalResult, now_s: float
    ) -> None:
        arriving = self._arriving[asked.query_id]
        arriving.admits -= 1
        try:
            if isinstance(result, Admitted):
                self._admit(asked, max_of_client, result, now_s)
            else:
                self._not_admitted(asked, result, now_s)
        finally:
            done()
            if not arriving.admits:
                del self._arriving[asked.query_id]
                for further in arriving.done:
                    further()

    def _not_admitted(self, asked: StoredAsk, result: JournalResult, now_s: float) -> None:
        self._not_stored("an ad-hoc question cannot be stored", asked.query_id, result)
        if asked.query_id in self._open or asked.query_id in self._unstored:
            self._running(asked, now_s)  # a refusal would be a second end of it
        else:
            self._not_taken(asked, "the edge cannot store questions", now_s)

    def _not_taken(self, asked: StoredAsk, reason: str, now_s: float) -> None:
        """Refuse a question, unless it is on its way to the disk once more: then that decides."""
        if not self._arriving[asked.query_id].admits:
            self._refuse(asked, reason, now_s)

    def _admit(self, asked: StoredAsk, max_of_client: int, result: Admitted, now_s: float) -> None:
        self.counters[result.admission.value] += 1
        stored = result.stored
        match result.admission:
            case Admission.NEW:
                self._enter(stored, now_s)
            case Admission.RUNNING:
                self._running(stored, now_s)
            case Admission.DECIDED:
                if asked.reply_to is not None and stored.terminal is not None:
                    self._reply(stored.terminal, asked.reply_to, now_s)
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
        if known is not None and known.stored.ask.content(client) != ask.content(client):
            self._refuse(asked, ANOTHER_QUESTION, now_s, public=False)
        elif known is not None or asked.query_id in self._unstored:
            self.counters["refused_repeats"] += 1
            self._running(asked, now_s, within_budget=True)
        elif asked.query_id in self._arriving:
            self.counters["refused_repeats"] += 1
            waiting = self._arriving[asked.query_id].done
            if len(waiting) < MAX_REPEATS_WAITING:
                waiting.append(done)
                return
        elif asked.query_id in self._ended:
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
            self._not_stored("what an earlier process left cannot be read", "", result)
            self._unread = True
            self._retry_s = self._retry_s or now_s + RETRY_S
            return
        self._unread = False
        if result.in_memory:
            self._in_memory = True
            self._retry_s = now_s + RETRY_S
        for stored in result.asks:
            if self._known(stored.query_id):
                continue  # asked again meanwhile
            self.counters["restored"] += 1
            if isinstance(stored.terminal, QueryOutcome):
                self._tell(stored.terminal, stored.reply_to, now_s)
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

    # ---- questions end ----------------------------------------------------------------------------------------------

    def decided(self, terminal: TerminalMessage, *, published: bool) -> None:
        """A question has its terminal outcome.

        Args:
            terminal: the message that says so.
            published: everybody has been told already, by the worker.
        """
        ask = self._open.pop(terminal.query_id, None)
        self._ended[terminal.query_id] = None
        if len(self._ended) > MAX_ENDED_REMEMBERED:
            self._ended.popitem(last=False)
        # Known in memory until the disk has it: who asks again meanwhile is told.
        unstored = self._unstored.setdefault(terminal.query_id, _Unstored(terminal, published))
        request = Decide(self._token(), terminal.query_id, terminal, published)
        self._request(request, partial(self._end_stored, request, ask, unstored))

    def _end_stored(
        self, request: Decide, ask: _OpenAsk | None, unstored: _Unstored, result: JournalResult, now_s: float
    ) -> None:
        terminal = request.terminal
        reply_to = None if ask is None else ask.stored.reply_to
        if isinstance(result, Decided):
            reply_to = result.stored.reply_to if reply_to is None and result.stored is not None else reply_to
            if unstored.told == request.told:
                self._unstored.pop(terminal.query_id, None)
        else:
            self._not_stored("the end of an ad-hoc question cannot be stored", terminal.query_id, result)
        if terminal.query_id in self._unstored and self._retry_s is None:
            self._retry_s = now_s + RETRY_S
        if not request.told and isinstance(terminal, QueryOutcome):
            self._tell(terminal, reply_to, now_s)
        elif reply_to is not None and ask is not None and ask.edge_replies:
            self._reply(terminal, reply_to, now_s)

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
        if self._retry_s is not None:
            due_s.append(self._retry_s)
        return min(due_s, default=None)

    def tick(self, now_s: float) -> None:
        """End questions whose deadline came before a frame did; those in a frame are decided there."""
        due = [ask for ask in self._open.values() if not ask.taken and ask.deadline_s <= now_s]
        for ask in due:
            ask.taken = True
            self._end(ask.stored, Outcome.EXPIRED, "deadline before a frame")
        if self._retry_s is not None and self._retry_s <= now_s:
            self._retry_s = None
            self._store_again(now_s)

    def _store_again(self, now_s: float) -> None:
        """Try once more what disk, queue or broker did not take; one failure is enough to wait for the next time."""
        untold, self._untold = self._untold, {}
        for entry in untold.values():
            self._tell(entry.outcome, entry.reply_to, now_s, tries=entry.tries)
        unmarked, self._unmarked = self._unmarked, {}
        for terminal in unmarked.values():
            self._mark_told(terminal)
        if self._unread:
            self._request(ReadUnfinished(self._token()), self._restored)
        if self._in_memory:
            self._request(MoveToFile(self._token()), self._moved)
        if self._retrying:
            return
        for query_id, unstored in self._unstored.items():
            self._retrying += 1
            request = Decide(self._token(), query_id, unstored.terminal, unstored.told)
            self._request(request, partial(self._stored_late, request, unstored))

    def _moved(self, result: JournalResult, now_s: float) -> None:
        if isinstance(result, Unfinished):
            self._in_memory = False
            self._restored(result, now_s)
        else:
            self._retry_s = now_s + RETRY_S

    def _stored_late(self, request: Decide, unstored: _Unstored, result: JournalResult, now_s: float) -> None:
        self._retrying -= 1
        # One that was only on its way to the disk has arrived meanwhile.
        if isinstance(result, Decided) and self._unstored.get(request.query_id) is unstored:
            del self._unstored[request.query_id]
            self.counters["stored_late"] += 1
        if isinstance(result, Decided) and unstored.told:
            self._mark_told(request.terminal)
        if not self._retrying and self._unstored:
            self._retry_s = self._retry_s or now_s + RETRY_S

    # ---- internals --------------------------------------------------------------------------------------------------

    def _running(self, stored: StoredAsk, now_s: float, *, within_budget: bool = False) -> None:
        """A question is asked again that has no end on disk.

        Args:
            stored: the question.
            now_s: the edge's monotonic time.
            within_budget: what the client has had already is said again only if its budget allows that.
        """
        known, unstored = self._open.get(stored.query_id), self._unstored.get(stored.query_id)
        if known is not None:
            # The workers know the reply topic of the first time; only the edge knows this one for sure.
            known.edge_replies = known.edge_replies or known.stored.reply_to != stored.reply_to
            known.stored = replace(known.stored, reply_to=stored.reply_to or known.stored.reply_to)
        elif unstored is not None:
            if stored.reply_to is None:
                return
            if not within_budget:
                self._reply(unstored.terminal, stored.reply_to, now_s)
            elif self._budgets.say(stored.client, reply_wire_bytes(unstored.terminal, stored.reply_to), now_s):
                self._reports.reply(unstored.terminal, stored.reply_to)
            else:
                self.counters["refused_silently"] += 1
        else:
            self._enter(stored, now_s, edge_replies=True)

    def _not_stored(self, what: str, query_id: str, result: JournalResult) -> None:
        self.counters["not_stored"] += 1
        count = self.counters["not_stored"]
        if count == 10 ** (len(str(count)) - 1):
            problem = result.problem if isinstance(result, NotStored) else type(result).__name__
            context = {"query": query_id, "problem": problem, "count": count}
            self._outputs.append(Notice("error", what, {**context, "fix": "free space on the disk of state_dir"}))

    def _enter(self, stored: StoredAsk, now_s: float, *, edge_replies: bool = False) -> None:
        if self._closed_because:
            self._end(stored, Outcome.FAILED, self._closed_because)
            return
        self._open[stored.query_id] = _OpenAsk(stored, now_s + stored.remaining_s, edge_replies=edge_replies)
        self._outputs.append(TakeFrame(stored.camera))

    def _end(self, stored: StoredAsk, outcome: Outcome, reason: str) -> None:
        self.decided(self._outcome(stored, outcome, reason), published=False)

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
        return query_id in self._open or query_id in self._unstored or query_id in self._ended

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

    def _tell(self, outcome: QueryOutcome, reply_to: ReplyTo | None, now_s: float, *, tries: int = 0) -> None:
        self._budgets.charge(_client_of(outcome), outcome_wire_bytes(outcome), now_s)
        self._reports.outcome(outcome, done=partial(self._told, outcome, reply_to, tries + 1))
        if reply_to is not None:
            self._reply(outcome, reply_to, now_s)

    def _reply(self, terminal: TerminalMessage, reply_to: ReplyTo, now_s: float) -> None:
        self._budgets.charge(_client_of(terminal), reply_wire_bytes(terminal, reply_to), now_s)
        self._reports.reply(terminal, reply_to)

    def _told(
        self, outcome: QueryOutcome, reply_to: ReplyTo | None, tries: int, delivery: Delivery, now_s: float
    ) -> None:
        if not delivery.arrived:
            # A full queue of the uplink has room again some time; a broker that refuses it does so for ever.
            if tries < MAX_TELLS and len(self._untold) < MAX_UNTOLD:
                self._untold[outcome.query_id] = _Untold(outcome, reply_to, tries)
                self._retry_s = self._retry_s or now_s + RETRY_S
            else:
                self.counters["never_told"] += 1
        elif (unstored := self._unstored.get(outcome.query_id)) is not None:
            unstored.told = True
        else:
            self._mark_told(outcome)

    def _mark_told(self, terminal: TerminalMessage) -> None:
        self._request(MarkTold(self._token(), terminal.query_id), partial(self._told_stored, terminal))

    def _told_stored(self, terminal: TerminalMessage, result: JournalResult, now_s: float) -> None:
        if isinstance(result, Decided):
            return
        self._not_stored("the end of an ad-hoc question cannot be stored", terminal.query_id, result)
        # Beyond the bound the row stays as it is: the next process tells it again.
        if len(self._unmarked) < MAX_UNTOLD:
            self._unmarked[terminal.query_id] = terminal
        self._retry_s = self._retry_s or now_s + RETRY_S


def _client_of(terminal: TerminalMessage) -> str:
    return terminal.owner.removeprefix("client/")
