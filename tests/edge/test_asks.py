from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from edge_nodes.asks import NO_FRAME_SEQUENCE, AskDesk
from edge_nodes.client_budgets import ClientBudgets
from edge_nodes.journal import AskJournal, JournalThread
from pipeline.config.settings import CameraSettings, ClientBudgetSettings, EdgeSettings
from pipeline.protocol.effects import ReplyTo
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.types import FrameId, Outcome
from tests.edge.support import SkippingClock

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


class Desk:
    """A desk and what it said."""

    def __init__(self, journal: AskJournal, budget: ClientBudgetSettings | None = None) -> None:
        self.clock = SkippingClock()
        self.budgets = ClientBudgets(
            EdgeSettings(
                site="depot",
                cameras={"gate": CameraSettings(source="test:1")},
                client_budget=budget or ClientBudgetSettings(),
            ),
            self.clock,
        )
        self.reported: list[QueryOutcome] = []
        self.broker_has_it: list[Callable[[], None]] = []
        self.replied: list[tuple[ReplyTo, Answer | QueryOutcome]] = []
        self.woken: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.journal = JournalThread(journal)
        self.desk = AskDesk(
            self.journal,
            self.clock,
            boot=BOOT,
            cameras={"gate", "yard"},
            budgets=self.budgets,
            report=self._report,
            reply=lambda message, to: self.replied.append((to, message)),
            wake=self.woken.append,
            spawn=self._spawn,
        )

    async def receive(self, camera: str, ask: Ask, reply_to: ReplyTo | None, *, client: str = "client") -> None:
        await self.desk.receive(camera, client, ask, reply_to)

    def _report(self, outcome: QueryOutcome, told: Callable[[], None]) -> None:
        self.reported.append(outcome)
        self.broker_has_it.append(told)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self.tasks.append(asyncio.create_task(work, name=name))


class Wall:
    def __init__(self) -> None:
        self.time_s = 1e9

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
async def site() -> AsyncIterator[Desk]:
    desk = Desk(AskJournal(None))
    yield desk
    await asyncio.gather(*desk.tasks)
    await desk.journal.close()


async def test_a_question_wakes_its_camera_and_is_taken_once(site: Desk) -> None:
    await site.receive("gate", ask(), REPLY)
    assert site.woken == ["gate"]
    assert site.desk.waiting("gate")
    assert not site.desk.waiting("yard")
    (query,) = site.desk.take("gate", 64)
    assert (query.question_id, query.client, query.question.text) == ("q1", "client", "Is the gate open?")
    assert query.deadline_s == site.clock.now_s() + 30
    assert not site.desk.waiting("gate")
    assert site.desk.take("gate", 64) == []
    site.desk.give_back("gate", [query])
    assert site.desk.waiting("gate")


async def test_the_most_urgent_go_first_when_a_frame_has_no_room_for_all(site: Desk) -> None:
    for number, deadline_ms in enumerate((9_000, 3_000, 6_000)):
        await site.receive("gate", ask(f"q{number}", deadline_ms), None)
    assert [query.question_id for query in site.desk.take("gate", 2)] == ["q1", "q2"]
    assert [query.question_id for query in site.desk.take("gate", 2)] == ["q0"]


async def test_a_worker_that_saw_the_question_replies_itself(site: Desk) -> None:
    await site.receive("gate", ask(), REPLY)
    site.desk.take("gate", 1)
    await site.desk.decided(answer(), published=True)
    assert (site.reported, site.replied) == ([], [])


async def test_the_edge_replies_for_a_worker_that_had_to_ask_for_the_text(site: Desk) -> None:
    await site.receive("gate", ask(), REPLY)
    site.desk.take("gate", 1)
    site.desk.texts_requested([ask().content("client").digest])
    await site.desk.decided(answer(), published=True)
    assert site.replied == [(REPLY, answer())]


async def test_what_only_the_edge_knows_goes_to_everyone_and_to_the_client(site: Desk) -> None:
    await site.receive("gate", ask(deadline_ms=1_000), REPLY)
    assert site.desk.next_wake_s() == site.clock.now_s() + 1
    assert site.desk.expire(site.clock.now_s()) == []
    (outcome,) = site.desk.expire(site.clock.now_s() + 1)
    await site.desk.decided(outcome, published=False)
    assert site.reported == [outcome]
    assert outcome.outcome is Outcome.EXPIRED
    assert outcome.frame == FrameId(BOOT, NO_FRAME_SEQUENCE)
    assert site.replied == [(REPLY, outcome)]
    assert site.desk.expire(site.clock.now_s() + 2) == []
    assert site.desk.next_wake_s() is None


async def test_asking_again_repeats_the_terminal_and_not_the_question(site: Desk) -> None:
    await site.receive("gate", ask(), REPLY)
    site.desk.take("gate", 1)
    await site.receive("gate", ask(), OTHER)
    assert not site.desk.waiting("gate")
    await site.desk.decided(answer(), published=True)
    assert site.replied == [(OTHER, answer())]  # the workers know the first reply topic at most
    await site.receive("gate", ask(), REPLY)
    assert site.replied[1:] == [(REPLY, answer())]
    assert not site.desk.waiting("gate")


async def test_a_query_id_for_two_questions_of_a_client_is_refused_on_its_reply_topic_alone(site: Desk) -> None:
    await site.receive("gate", ask(), REPLY)
    await site.receive("gate", ask().model_copy(update={"text": "Another?"}), OTHER)
    ((address, refusal),) = site.replied
    assert (address, refusal.outcome) == (OTHER, Outcome.FAILED)
    assert site.reported == []  # the first question still has its one outcome to come
    assert site.desk.waiting("gate")


async def test_equal_ids_of_two_clients_and_two_cameras_are_three_questions(site: Desk) -> None:
    """Each is asked with its own text of its own camera, and ends for its own client."""
    theirs = ReplyTo("lb/v2/reply/other/gate/q1")
    await site.receive("gate", ask(), REPLY)
    await site.receive("gate", ask().model_copy(update={"text": "Another?"}), theirs, client="other")
    await site.receive("yard", ask(), OTHER)
    assert site.replied == []
    taken = site.desk.take("gate", 64)
    assert {(query.client, query.question.text) for query in taken} == {
        ("client", "Is the gate open?"),
        ("other", "Another?"),
    }
    site.desk.texts_requested([query.question.digest for query in taken])
    await site.desk.decided(answer(), published=True)
    assert site.replied == [(REPLY, answer())]
    assert site.desk.waiting("yard")
    assert {query.client for query in site.desk.take("yard", 64)} == {"client"}


async def test_a_disk_that_fails_is_told_to_the_client(site: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(site.journal._journal, "admit", full)
    await site.receive("gate", ask(), REPLY)
    assert not site.desk.waiting("gate")
    assert site.reported[0].reason == "the edge cannot store questions"
    assert site.replied[0][0] == REPLY


async def test_closing_ends_what_waits_and_refuses_what_comes(site: Desk) -> None:
    await site.receive("gate", ask("taken"), None)
    site.desk.take("gate", 1)
    await site.receive("gate", ask("waits"), None)
    await site.desk.close("the edge was stopped")
    await site.receive("gate", ask("late"), None)
    assert [(outcome.query_id, outcome.reason) for outcome in site.reported] == [
        (key("waits"), "the edge was stopped"),
        (key("late"), "the edge was stopped"),
    ]


async def test_a_restart_takes_up_what_was_open() -> None:
    wall = Wall()
    journal = AskJournal(None, wall_s=wall)
    first = Desk(journal)
    await first.receive("gate", ask("open", 30_000), REPLY)
    await first.receive("gate", ask("over", 5_000), REPLY)
    await first.receive("yard", ask("moved", 30_000), None)
    await first.receive("gate", ask("answered", 30_000), None)
    await first.desk.decided(answer("answered"), published=True)
    await first.receive("gate", ask("untold", 30_000), None)
    first.desk.take("gate", 1)
    untold = QueryOutcome(
        query_id=key("untold"),
        owner="client/client",
        camera="gate",
        frame=FrameId(BOOT, 0),
        question_id="untold",
        outcome=Outcome.FAILED,
        reason="no worker",
    )
    await first.desk.decided(untold, published=False)

    wall.time_s += 10
    second = Desk(journal)
    second.desk._cameras = {"gate"}
    await second.desk.restore()
    assert [query.question_id for query in second.desk.take("gate", 64)] == ["open"]
    assert second.desk._open[key("open")].deadline_s == pytest.approx(second.clock.now_s() + 20)
    assert {(outcome.query_id, outcome.outcome) for outcome in second.reported} == {
        (key("over"), Outcome.EXPIRED),
        (key("moved", "yard"), Outcome.FAILED),
        (key("untold"), Outcome.FAILED),
    }
    # Workers may have forgotten who asked.
    await second.desk.decided(answer("open"), published=True)
    assert second.replied[-1] == (REPLY, answer("open"))

    for told in second.broker_has_it:
        told()
    await asyncio.gather(*second.tasks)
    third = Desk(journal)
    await third.desk.restore()
    assert third.reported == []
    await first.journal.close()


def test_the_frame_that_never_was_is_the_last_of_its_boot() -> None:
    assert NO_FRAME_SEQUENCE == 2**32 - 1
