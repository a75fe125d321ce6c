from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from pipeline.node.ask_journal import AskJournal
from pipeline.protocol.ad_hoc_questions import NO_FRAME_SEQUENCE, AdHocQuestions
from pipeline.protocol.client_budgets import ClientBudget, ClientBudgets
from pipeline.protocol.departures import Departure
from pipeline.protocol.edge_reports import EdgeReports
from pipeline.protocol.effects import ReplyTo, TakeFrame
from pipeline.protocol.journal_requests import JournalRequest
from pipeline.protocol.ports import Delivery, Notice
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, Message, QueryOutcome
from schemas.types import FrameId, Outcome

REPLY = ReplyTo("lb/v2/reply/client/gate/q1", b"7")
OTHER = ReplyTo("lb/v2/reply/client/gate/q1", b"8")
BOOT = 9


def ask(query_id: str = "q1", deadline_ms: int = 30_000) -> Ask:
    return Ask(query_id=query_id, text="Is the gate open?", deadline_ms=deadline_ms)


def key(query_id: str, camera: str = "gate") -> str:
    return ad_hoc_query_id(camera, "client", query_id)


def answer(query_id: str = "q1") -> Answer:
    return Answer(
        query_id=key(query_id),
        owner="client/client",
        camera="gate",
        frame=FrameId(BOOT, 0),
        attempt=1,
        question_id=query_id,
        worker="w-1",
        outcome=Outcome.ANSWERED,
        text="yes",
        score=1.0,
        latents=4,
        payload_bytes=9,
        looks=1,
    )


class AdHocSite:
    """The ad-hoc questions of a site, a journal, and what the site says."""

    def __init__(
        self, journal: AskJournal, budget: ClientBudget | None = None, cameras: tuple[str, ...] = ("gate", "yard")
    ) -> None:
        self.now_s = 1000.0
        self.reports = EdgeReports()
        self.questions = AdHocQuestions(
            boot=BOOT, cameras=cameras, budgets=ClientBudgets(budget or ClientBudget()), reports=self.reports
        )
        self.journal = journal
        self.disk_is_slow = False
        self.requests: list[JournalRequest] = []
        self.reported: list[QueryOutcome] = []
        self.broker_has_it: list[Callable[[], None]] = []
        self.replied: list[tuple[ReplyTo, Message]] = []
        self.woken: list[str] = []
        self.notices: list[Notice] = []
        self.pump()

    def receive(self, camera: str, ask: Ask, reply_to: ReplyTo | None, *, client: str = "client") -> None:
        self.questions.receive(camera, client, ask, reply_to, self.now_s, done=lambda: None)
        self.pump()

    def decided(self, terminal: Answer | QueryOutcome, *, published: bool) -> None:
        self.questions.decided(terminal, published=published)
        self.pump()

    def tick(self, time_s: float) -> None:
        self.now_s = time_s
        self.questions.tick(time_s)
        self.pump()

    def close(self, reason: str) -> None:
        self.questions.close(reason)
        self.pump()

    def pump(self) -> None:
        moved = True
        while moved:
            outputs, departures = self.questions.take_outputs(), self.reports.take_departures()
            for output in outputs:
                if isinstance(output, TakeFrame):
                    self.woken.append(output.camera)
                elif isinstance(output, Notice):
                    self.notices.append(output)
                else:
                    self.requests.append(output)
            for departure in departures:
                self._leaves(departure)
            moved = bool(outputs or departures)
            if not self.disk_is_slow:
                moved |= self.store()

    def store(self) -> bool:
        """The disk does what it was asked for; whether there was anything."""
        requests, self.requests = self.requests, []
        for request in requests:
            self.questions.stored(request.token, self.journal.perform(request), self.now_s)
        return bool(requests)

    def _leaves(self, departure: Departure) -> None:
        message = departure.stamp(self.now_s)
        assert message is not None
        if departure.label == "reply":
            self.replied.append((ReplyTo(departure.topic, departure.correlation_data), message))
            return
        assert isinstance(message, QueryOutcome)
        self.reported.append(message)
        done = departure.done
        self.broker_has_it.append(lambda: None if done is None else done(Delivery.DELIVERED, self.now_s))


class Wall:
    def __init__(self) -> None:
        self.time_s = 1e9

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def site() -> AdHocSite:
    return AdHocSite(AskJournal(None))


def test_a_question_wakes_its_camera_and_is_taken_once(site: AdHocSite) -> None:
    site.receive("gate", ask(), REPLY)
    assert site.woken == ["gate"]
    assert site.questions.waiting("gate")
    assert not site.questions.waiting("yard")
    (query,) = site.questions.take("gate", 64)
    assert (query.question_id, query.client, query.question.text) == ("q1", "client", "Is the gate open?")
    assert query.deadline_s == site.now_s + 30
    assert not site.questions.waiting("gate")
    assert site.questions.take("gate", 64) == []
    site.questions.give_back("gate", [query])
    assert site.questions.waiting("gate")


def test_the_most_urgent_go_first_when_a_frame_has_no_room_for_all(site: AdHocSite) -> None:
    for number, deadline_ms in enumerate((9_000, 3_000, 6_000)):
        site.receive("gate", ask(f"q{number}", deadline_ms), None)
    assert [query.question_id for query in site.questions.take("gate", 2)] == ["q1", "q2"]
    assert [query.question_id for query in site.questions.take("gate", 2)] == ["q0"]


def test_a_worker_that_saw_the_question_replies_itself(site: AdHocSite) -> None:
    site.receive("gate", ask(), REPLY)
    site.questions.take("gate", 1)
    site.decided(answer(), published=True)
    assert (site.reported, site.replied) == ([], [])


def test_the_edge_replies_for_a_worker_that_had_to_ask_for_the_text(site: AdHocSite) -> None:
    site.receive("gate", ask(), REPLY)
    site.questions.take("gate", 1)
    site.questions.texts_requested([ask().content("client").digest])
    site.decided(answer(), published=True)
    assert site.replied == [(REPLY, answer())]


def test_what_only_the_edge_knows_goes_to_everyone_and_to_the_client(site: AdHocSite) -> None:
    site.receive("gate", ask(deadline_ms=1_000), REPLY)
    assert site.questions.next_wake_s() == site.now_s + 1
    asked_s = site.now_s
    site.tick(asked_s)
    assert site.reported == []
    site.tick(asked_s + 1)
    (outcome,) = site.reported
    assert outcome.outcome is Outcome.EXPIRED
    assert outcome.frame == FrameId(BOOT, NO_FRAME_SEQUENCE)
    assert site.replied == [(REPLY, outcome)]
    site.tick(asked_s + 2)
    assert site.reported == [outcome]
    assert site.questions.next_wake_s() is None


def test_asking_again_repeats_the_terminal_and_not_the_question(site: AdHocSite) -> None:
    site.receive("gate", ask(), REPLY)
    site.questions.take("gate", 1)
    site.receive("gate", ask(), OTHER)
    assert not site.questions.waiting("gate")
    site.decided(answer(), published=True)
    assert site.replied == [(OTHER, answer())]  # the workers know the first reply topic at most
    site.receive("gate", ask(), REPLY)
    assert site.replied[1:] == [(REPLY, answer())]
    assert not site.questions.waiting("gate")


def test_a_query_id_for_two_questions_of_a_client_is_refused_on_its_reply_topic_alone(site: AdHocSite) -> None:
    site.receive("gate", ask(), REPLY)
    site.receive("gate", ask().model_copy(update={"text": "Another?"}), OTHER)
    ((address, refusal),) = site.replied
    assert isinstance(refusal, QueryOutcome)
    assert (address, refusal.outcome) == (OTHER, Outcome.FAILED)
    assert site.reported == []  # the first question still has its one outcome to come
    assert site.questions.waiting("gate")


def test_a_repeat_beyond_the_budget_is_no_second_end_of_its_question(site: AdHocSite) -> None:
    def repeat(question: Ask, address: ReplyTo) -> list[tuple[ReplyTo, Message]]:
        """It comes while the client is over its budget; what is said then."""
        replied = len(site.replied)
        site.questions.refuse("gate", "client", question, address, "over the budget", site.now_s, done=lambda: None)
        site.pump()
        return site.replied[replied:]

    site.disk_is_slow = True
    site.receive("gate", ask(), REPLY)
    assert repeat(ask(), REPLY) == [], "it is on its way to the disk"
    site.disk_is_slow = False
    site.pump()
    assert repeat(ask(), OTHER) == [], "its answer is still to come"
    ((address, refusal),) = repeat(ask().model_copy(update={"text": "Another?"}), REPLY)
    assert isinstance(refusal, QueryOutcome)
    assert (address, refusal.outcome) == (REPLY, Outcome.FAILED)
    site.questions.take("gate", 1)
    site.decided(answer(), published=True)
    assert site.replied[-1] == (OTHER, answer()), "where it was asked for last"
    assert repeat(ask(), REPLY) == []
    assert site.reported == [], "nobody reads of a failure"
    assert site.questions.counters["refused_repeats"] == 3
    # Another question is refused, as ever.
    assert [address for address, _ in repeat(ask("q2"), REPLY)] == [REPLY]
    assert len(site.reported) == 1


def test_a_refusal_that_still_waits_is_withdrawn_when_the_question_is_taken_in(site: AdHocSite) -> None:
    site.questions.refuse("gate", "client", ask(), REPLY, "the disk is full", site.now_s, done=lambda: None)
    waiting = site.reports.take_departures()
    assert [departure.label for departure in waiting] == ["outcome", "reply"]
    site.receive("gate", ask(), OTHER)
    assert [departure.stamp(site.now_s) for departure in waiting] == [None, None]
    # One that nobody asks again is told.
    site.questions.refuse("gate", "client", ask("q2"), REPLY, "the disk is full", site.now_s, done=lambda: None)
    assert all(departure.stamp(site.now_s) for departure in site.reports.take_departures())


def test_equal_ids_of_two_clients_and_two_cameras_are_three_questions(site: AdHocSite) -> None:
    """Each is asked with its own text of its own camera, and ends for its own client."""
    theirs = ReplyTo("lb/v2/reply/other/gate/q1")
    site.receive("gate", ask(), REPLY)
    site.receive("gate", ask().model_copy(update={"text": "Another?"}), theirs, client="other")
    site.receive("yard", ask(), OTHER)
    assert site.replied == []
    taken = site.questions.take("gate", 64)
    assert {(query.client, query.question.text) for query in taken} == {
        ("client", "Is the gate open?"),
        ("other", "Another?"),
    }
    site.questions.texts_requested([query.question.digest for query in taken])
    site.decided(answer(), published=True)
    assert site.replied == [(REPLY, answer())]
    assert site.questions.waiting("yard")
    assert {query.client for query in site.questions.take("yard", 64)} == {"client"}


def test_a_disk_that_fails_is_told_to_the_client(site: AdHocSite, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(site.journal, "admit", full)
    site.receive("gate", ask(), REPLY)
    assert not site.questions.waiting("gate")
    assert site.reported[0].reason == "the edge cannot store questions"
    assert site.replied[0][0] == REPLY


def test_closing_ends_what_waits_and_refuses_what_comes(site: AdHocSite) -> None:
    site.receive("gate", ask("taken"), None)
    site.questions.take("gate", 1)
    site.receive("gate", ask("waits"), None)
    site.close("the edge was stopped")
    site.receive("gate", ask("late"), None)
    assert [(outcome.query_id, outcome.reason) for outcome in site.reported] == [
        (key("waits"), "the edge was stopped"),
        (key("late"), "the edge was stopped"),
    ]


def test_a_restart_takes_up_what_was_open() -> None:
    wall = Wall()
    journal = AskJournal(None, wall_s=wall)
    first = AdHocSite(journal)
    first.receive("gate", ask("open", 30_000), REPLY)
    first.receive("gate", ask("over", 5_000), REPLY)
    first.receive("yard", ask("moved", 30_000), None)
    first.receive("gate", ask("answered", 30_000), None)
    first.decided(answer("answered"), published=True)
    first.receive("gate", ask("untold", 30_000), None)
    first.questions.take("gate", 1)
    untold = QueryOutcome(
        query_id=key("untold"),
        owner="client/client",
        camera="gate",
        frame=FrameId(BOOT, 0),
        question_id="untold",
        outcome=Outcome.FAILED,
        reason="no worker",
    )
    first.decided(untold, published=False)

    wall.time_s += 10
    second = AdHocSite(journal, cameras=("gate",))
    assert [query.question_id for query in second.questions.take("gate", 64)] == ["open"]
    assert second.questions._open[key("open")].deadline_s == pytest.approx(second.now_s + 20)
    assert {(outcome.query_id, outcome.outcome) for outcome in second.reported} == {
        (key("over"), Outcome.EXPIRED),
        (key("moved", "yard"), Outcome.FAILED),
        (key("untold"), Outcome.FAILED),
    }
    # Workers may have forgotten who asked.
    second.decided(answer("open"), published=True)
    assert second.replied[-1] == (REPLY, answer("open"))

    for told in second.broker_has_it:
        told()
    second.pump()
    third = AdHocSite(journal)
    assert third.reported == []
    journal.close()


def test_the_frame_that_never_was_is_the_last_of_its_boot() -> None:
    assert NO_FRAME_SEQUENCE == 2**32 - 1
