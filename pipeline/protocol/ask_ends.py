"""How ad-hoc questions end: each end is stored once and told, whatever disk, queue and broker refuse at first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from pipeline.protocol.client_budgets import ClientBudgets
from pipeline.protocol.edge_reports import EdgeReports, outcome_wire_bytes, reply_wire_bytes
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.journal_link import JournalLink
from pipeline.protocol.journal_requests import Decide, Decided, JournalResult, MarkTold
from pipeline.protocol.ports import Delivery
from schemas.messages import Answer, QueryOutcome

MAX_ENDED_REMEMBERED: Final = 1_024
"""Questions that have ended, whose repeats beyond a client's budget are not refused; older ones are."""
MAX_UNTOLD: Final = 1_024
"""Outcomes that are said again later because queue or broker refused them, and marks *told* that the disk has not
taken."""
MAX_TELLS: Final = 6
"""Times that an outcome is said before it is left to the next process."""
_NOT_STORED: Final = "the end of an ad-hoc question cannot be stored"

TerminalMessage = Answer | QueryOutcome


@dataclass(slots=True)
class _Unstored:
    """An end that the disk has not taken. Memory answers who asks again; a further restart would not know it.

    There is at most one for each question that is undecided on disk, of which the journal has a bounded number.
    """

    terminal: TerminalMessage
    told: bool


@dataclass(slots=True)
class _Untold:
    """An outcome that the uplink's queue or the broker has refused."""

    outcome: QueryOutcome
    reply_to: ReplyTo | None
    tries: int


class AskEnds:
    """Ends of ad-hoc questions.

    Args:
        journal: the disk.
        budgets: what each client may cost.
        reports: what the edge says beside its frames.
        counters: what happened to asks, by kind.
    """

    def __init__(
        self, journal: JournalLink, budgets: ClientBudgets, reports: EdgeReports, counters: Counter[str]
    ) -> None:
        self._journal = journal
        self._budgets = budgets
        self._reports = reports
        self._counters = counters
        self._unstored: dict[str, _Unstored] = {}
        self._untold: dict[str, _Untold] = {}
        self._unmarked: dict[str, TerminalMessage] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._storing_again = 0

    def sizes(self) -> dict[str, int]:
        """Entries of every table that it keeps."""
        return {
            "asks_ended": len(self._ended),
            "asks_unstored": len(self._unstored),
            "asks_untold": len(self._untold),
            "asks_unmarked": len(self._unmarked),
        }

    def known(self, query_id: str) -> bool:
        """Whether a question has ended in this process, as far as that is remembered."""
        return query_id in self._unstored or query_id in self._ended

    def unstored(self, query_id: str) -> TerminalMessage | None:
        """The end of a question that the disk has not taken."""
        found = self._unstored.get(query_id)
        return None if found is None else found.terminal

    # ---- a question ends --------------------------------------------------------------------------------------------

    def decide(
        self, terminal: TerminalMessage, reply_to: ReplyTo | None, *, published: bool, edge_replies: bool
    ) -> None:
        """A question has its terminal outcome.

        Args:
            terminal: the message that says so.
            reply_to: where its client wants it, as far as memory knows.
            published: everybody has been told already, by the worker.
            edge_replies: the worker may not know the client.
        """
        self._ended[terminal.query_id] = None
        if len(self._ended) > MAX_ENDED_REMEMBERED:
            self._ended.popitem(last=False)
        # Known in memory until the disk has it: who asks again meanwhile is told.
        unstored = self._unstored.setdefault(terminal.query_id, _Unstored(terminal, published))
        self._journal.request(
            partial(Decide, query_id=terminal.query_id, terminal=terminal, told=published),
            partial(self._stored, terminal, reply_to, published, edge_replies, unstored),
        )

    def _stored(
        self,
        terminal: TerminalMessage,
        reply_to: ReplyTo | None,
        published: bool,
        edge_replies: bool,
        unstored: _Unstored,
        result: JournalResult,
        now_s: float,
    ) -> None:
        if not isinstance(result, Decided):
            self._journal.failed(_NOT_STORED, terminal.query_id, result)
        elif unstored.told == published:
            self._unstored.pop(terminal.query_id, None)
        if terminal.query_id in self._unstored:
            self._journal.retry_later(now_s)
        if isinstance(result, Decided) and reply_to is None and result.stored is not None:
            reply_to = result.stored.reply_to
        if not published and isinstance(terminal, QueryOutcome):
            self.tell(terminal, reply_to, now_s)
        elif edge_replies and reply_to is not None:
            self.reply(terminal, reply_to, now_s)

    # ---- who is told ------------------------------------------------------------------------------------------------

    def tell(self, outcome: QueryOutcome, reply_to: ReplyTo | None, now_s: float, *, tries: int = 0) -> None:
        """Tell everyone, and the client, how a question ended; until the broker has it, or it was tried often."""
        self._budgets.charge(_client_of(outcome), outcome_wire_bytes(outcome), now_s)
        self._reports.outcome(outcome, done=partial(self._told, outcome, reply_to, tries + 1))
        if reply_to is not None:
            self.reply(outcome, reply_to, now_s)

    def reply(self, terminal: TerminalMessage, reply_to: ReplyTo, now_s: float) -> None:
        """Tell a client what it must be told."""
        self._budgets.charge(_client_of(terminal), reply_wire_bytes(terminal, reply_to), now_s)
        self._reports.reply(terminal, reply_to)

    def reply_again(self, terminal: TerminalMessage, reply_to: ReplyTo, now_s: float) -> None:
        """Tell a client once more, if its budget allows that."""
        if self._budgets.say(_client_of(terminal), reply_wire_bytes(terminal, reply_to), now_s):
            self._reports.reply(terminal, reply_to)
        else:
            self._counters["refused_silently"] += 1

    def _told(
        self, outcome: QueryOutcome, reply_to: ReplyTo | None, tries: int, delivery: Delivery, now_s: float
    ) -> None:
        if not delivery.arrived:
            # A full queue of the uplink has room again some time; a broker that refuses it does so for ever.
            if tries < MAX_TELLS and len(self._untold) < MAX_UNTOLD:
                self._untold[outcome.query_id] = _Untold(outcome, reply_to, tries)
                self._journal.retry_later(now_s)
            else:
                self._counters["never_told"] += 1
        elif (unstored := self._unstored.get(outcome.query_id)) is not None:
            unstored.told = True
        else:
            self._mark_told(outcome)

    def _mark_told(self, terminal: TerminalMessage) -> None:
        make: Callable[[int], MarkTold] = partial(MarkTold, query_id=terminal.query_id)
        self._journal.request(make, partial(self._marked, terminal))

    def _marked(self, terminal: TerminalMessage, result: JournalResult, now_s: float) -> None:
        if isinstance(result, Decided):
            return
        self._journal.failed(_NOT_STORED, terminal.query_id, result)
        # Beyond the bound the row stays as it is: the next process tells it again.
        if len(self._unmarked) < MAX_UNTOLD:
            self._unmarked[terminal.query_id] = terminal
        self._journal.retry_later(now_s)

    # ---- what failed is tried again ---------------------------------------------------------------------------------

    def tell_again(self, now_s: float) -> None:
        """Say what queue or broker refused, and mark what the disk did not."""
        untold, self._untold = self._untold, {}
        for entry in untold.values():
            self.tell(entry.outcome, entry.reply_to, now_s, tries=entry.tries)
        unmarked, self._unmarked = self._unmarked, {}
        for terminal in unmarked.values():
            self._mark_told(terminal)

    def store_again(self) -> None:
        """Store what the disk did not take, unless the last attempts are still under way."""
        if self._storing_again:
            return
        for query_id, unstored in self._unstored.items():
            self._storing_again += 1
            self._journal.request(
                partial(Decide, query_id=query_id, terminal=unstored.terminal, told=unstored.told),
                partial(self._stored_again, unstored),
            )

    def _stored_again(self, unstored: _Unstored, result: JournalResult, now_s: float) -> None:
        self._storing_again -= 1
        query_id = unstored.terminal.query_id
        # One that was only on its way to the disk has arrived meanwhile.
        if isinstance(result, Decided) and self._unstored.get(query_id) is unstored:
            del self._unstored[query_id]
            self._counters["stored_late"] += 1
        if isinstance(result, Decided) and unstored.told:
            self._mark_told(unstored.terminal)
        if not self._storing_again and self._unstored:
            self._journal.retry_later(now_s)


def _client_of(terminal: TerminalMessage) -> str:
    return terminal.owner.removeprefix("client/")
