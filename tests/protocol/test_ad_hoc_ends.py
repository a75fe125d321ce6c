"""One end for each ad-hoc question, told once, whatever the disk, the queue and impatient clients do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.node.ask_journal import AskJournal
from pipeline.protocol.ad_hoc_questions import MAX_REPEATS_WAITING
from pipeline.protocol.ask_ends import MAX_TELLS
from pipeline.protocol.client_budgets import ClientBudget
from pipeline.protocol.departures import Departure
from pipeline.protocol.edge_reports import EdgeReports
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.journal_link import RETRY_S
from pipeline.protocol.journal_requests import (
    Admit,
    Decide,
    JournalRequest,
    JournalResult,
    MarkTold,
    NotStored,
    ReadUnfinished,
)
from pipeline.protocol.ports import Delivery
from pipeline.protocol.uplink import Uplink
from schemas.errors import StateError
from schemas.messages import Answer, Ask, Status
from schemas.types import Outcome
from tests.protocol.test_ad_hoc_questions import OTHER, REPLY, AdHocSite, answer, ask, key

LOCKED = NotStored("database is locked")


class SlowSite(AdHocSite):
    """Its disk does what the test says, one request at a time."""

    def __init__(self, journal: AskJournal | None = None, budget: ClientBudget | None = None) -> None:
        self.acknowledged: list[str] = []
        self.waiting: list[Departure] = []
        self.queue_is_full = False
        super().__init__(journal or AskJournal(None), budget)
        self.disk_is_slow = True

    def ask(self, name: str, question: Ask) -> None:
        self.questions.receive("gate", "client", question, REPLY, 0.0, done=lambda: self.acknowledged.append(name))
        self.pump()

    def refuse(self, name: str, question: Ask, reply_to: ReplyTo | None = REPLY) -> None:
        done: Callable[[], None] = lambda: self.acknowledged.append(name)  # noqa: E731
        self.questions.refuse("gate", "client", question, reply_to, "over the budget", self.now_s, done=done)
        self.pump()

    def disk(self, kind: type[Any], result: NotStored | None = None) -> None:
        """The disk answers its oldest request, which is of this kind."""
        self.pump()
        request = self.requests.pop(0)
        assert isinstance(request, kind)
        self.questions.stored(request.token, result or self.journal.perform(request), self.now_s)
        self.pump()

    def ends(self) -> list[tuple[str, Outcome]]:
        return [(outcome.query_id, outcome.outcome) for outcome in self.reported]

    def _leaves(self, departure: Departure) -> None:
        if self.queue_is_full and departure.done is not None:
            departure.done(Delivery.REFUSED, self.now_s)
        else:
            super()._leaves(departure)


def test_a_question_that_is_asked_twice_before_the_disk_answers_ends_once() -> None:
    site = SlowSite()
    site.ask("first", ask(deadline_ms=1_000))
    site.ask("second", ask(deadline_ms=1_000))
    site.disk(Admit, LOCKED)
    assert site.ends() == [], "the second one decides"
    site.refuse("third", ask(deadline_ms=1_000))
    assert site.acknowledged == ["first"], "the others wait for the disk"
    site.disk(Admit)
    assert site.acknowledged == ["first", "second", "third"]
    site.tick(site.now_s + 2.0)
    site.disk(Decide)
    assert site.ends() == [(key("q1"), Outcome.EXPIRED)]


def test_repeats_that_wait_for_a_slow_disk_are_bounded() -> None:
    site = SlowSite()
    site.ask("first", ask())
    for number in range(MAX_REPEATS_WAITING + 10):
        site.refuse(f"repeat {number}", ask())
    assert site.questions.sizes()["asks_repeated"] == MAX_REPEATS_WAITING
    assert len(site.acknowledged) == 10
    site.disk(Admit)
    assert len(site.acknowledged) == len(set(site.acknowledged)) == MAX_REPEATS_WAITING + 11
    assert site.questions.sizes()["asks_repeated"] == 0


def test_a_question_that_is_stored_neither_time_is_refused_once() -> None:
    site = SlowSite()
    site.ask("first", ask())
    site.ask("second", ask())
    site.disk(Admit, LOCKED)
    site.disk(Admit, LOCKED)
    assert site.ends() == [(key("q1"), Outcome.FAILED)]
    assert site.acknowledged == ["first", "second"]


def test_an_end_is_stored_though_one_round_of_attempts_takes_longer_than_the_next_begins() -> None:
    site = SlowSite()
    for query_id in ("q1", "q2", "q3", "q4"):
        site.ask(query_id, ask(query_id))
        site.disk(Admit)
        site.decided(answer(query_id), published=True)
        site.disk(Decide, LOCKED)
    site.tick(site.now_s + RETRY_S)
    for result in (LOCKED, LOCKED):
        site.disk(Decide, result)
    site.tick(site.now_s + RETRY_S)
    for _ in range(2):
        site.disk(Decide)
    site.disk_is_slow = False
    due_s = site.questions.next_wake_s()
    assert due_s is not None
    site.tick(due_s)
    assert site.questions.sizes()["asks_unstored"] == 0
    assert site.journal.unfinished() == []


class LockedAtFirst(AskJournal):
    """A journal that cannot be read when the process begins."""

    def __init__(self) -> None:
        super().__init__(None)
        self.locked = True

    def perform(self, request: JournalRequest) -> JournalResult:
        return LOCKED if self.locked and isinstance(request, ReadUnfinished) else super().perform(request)


def test_questions_of_an_earlier_process_are_read_again_when_the_disk_failed_at_first() -> None:
    journal = LockedAtFirst()
    for query_id in ("q1", "q2"):
        journal.admit("gate", "client", ask(query_id), REPLY)
    site = SlowSite(journal)
    site.disk_is_slow = journal.locked = False
    assert not site.questions.waiting("gate")
    site.ask("again", ask("q2"))
    site.tick(site.now_s + RETRY_S)
    assert {query.question_id for query in site.questions.take("gate", 64)} == {"q1", "q2"}
    assert site.questions.sizes()["asks"] == 2


def test_what_an_earlier_process_left_ends_though_it_is_read_during_the_drain() -> None:
    journal = LockedAtFirst()
    journal.admit("gate", "client", ask(), REPLY)
    site = SlowSite(journal)
    site.disk_is_slow = journal.locked = False
    site.close("the edge stops")
    assert site.ends() == []
    site.tick(site.now_s + RETRY_S)
    assert site.ends() == [(key("q1"), Outcome.FAILED)]
    assert not site.questions.waiting("gate")


def test_an_outcome_that_finds_the_queue_full_is_told_later_and_not_for_ever() -> None:
    site = SlowSite()
    site.disk_is_slow = False
    site.ask("q1", ask(deadline_ms=1_000))
    site.queue_is_full = True
    site.tick(site.now_s + 2.0)
    assert site.ends() == []
    site.queue_is_full = False
    site.tick(site.now_s + RETRY_S)
    assert site.ends() == [(key("q1"), Outcome.EXPIRED)]
    site.broker_has_it.pop()()
    site.pump()
    assert site.journal.unfinished() == [], "it is marked"
    # One that the broker refuses every time.
    site.ask("q2", ask("q2", deadline_ms=1_000))
    site.queue_is_full = True
    site.tick(site.now_s + 2.0)
    for _ in range(MAX_TELLS):
        site.tick(site.now_s + RETRY_S)
    assert site.questions.sizes()["asks_untold"] == 0
    assert site.questions.counters["never_told"] == 1
    assert [stored.ask.query_id for stored in site.journal.unfinished()] == ["q2"], "the next process tells it"


def test_a_mark_that_the_disk_does_not_take_is_made_later() -> None:
    site = SlowSite()
    site.ask("q1", ask(deadline_ms=1_000))
    site.disk(Admit)
    site.tick(site.now_s + 2.0)
    site.disk(Decide)
    site.broker_has_it.pop()()
    site.disk(MarkTold, LOCKED)
    site.tick(site.now_s + RETRY_S)
    site.disk(MarkTold, LOCKED)
    site.disk_is_slow = False
    site.tick(site.now_s + RETRY_S)
    assert site.journal.unfinished() == []


def test_repeats_beyond_the_budget_cost_no_more_than_the_budget() -> None:
    site = SlowSite(budget=ClientBudget(kbps=1.0))
    site.ask("q1", ask())
    site.disk(Admit)
    site.decided(answer(), published=True)
    site.disk(Decide, LOCKED)
    for number in range(1_000):
        site.refuse(f"repeat {number}", ask(), OTHER)
    assert len(site.acknowledged) == 1_001
    assert 0 < len(site.replied) < 20
    assert all(isinstance(message, Answer) for _, message in site.replied)


def test_nothing_stays_open_once_the_site_closes() -> None:
    site = SlowSite()
    site.ask("q1", ask())
    site.disk(Admit)
    taken = site.questions.take("gate", 1)
    site.close("the edge stops")
    site.questions.give_back("gate", taken)
    site.disk(Decide)
    assert site.ends() == [(key("q1"), Outcome.FAILED)]
    assert site.questions.sizes()["asks"] == 0


def test_an_answer_that_comes_twice_is_a_bug_of_the_shell() -> None:
    site = SlowSite()
    with pytest.raises(StateError, match="journal request 9"):
        site.questions.stored(9, LOCKED, site.now_s)
    with pytest.raises(StateError, match="publish 9"):
        Uplink(64.0).published(9, Delivery.DELIVERED, 0.0)


def test_on_a_link_that_flaps_one_status_waits() -> None:
    reports, uplink = EdgeReports(), Uplink(1.0)

    def status(now_s: float) -> Status:
        return Status(id="depot", kind="edge", online=True, boot=1, cameras=("gate",))

    for number in range(20):
        reports.status("depot", status)
        for departure in reports.take_departures():
            uplink.put(departure, float(number))
    assert uplink.waiting == 1
