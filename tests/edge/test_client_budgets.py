"""One client that floods a site costs its own questions, not those of the others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_nodes import client_budgets as budgets_module
from edge_nodes.ask_intake import AskIntake
from edge_nodes.asks import AskDesk
from edge_nodes.client_budgets import ASK_TOKENS, ClientBudgets
from edge_nodes.journal import AskJournal, JournalThread
from edge_nodes.node import ASK_WINDOW
from edge_nodes.outbox import Outbox
from edge_nodes.uplink import Sent, Uplink
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.config.settings import CameraSettings, ClientBudgetSettings, EdgeSettings
from pipeline.protocol.worker_work import question_tokens
from schemas import topics, wire
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.types import AnswerType, FrameId, Outcome
from schemas.wire_cost import transport_wire_bytes
from tests.edge.support import RecordingBus, SkippingClock, TurnedClock, inbound, settle

UPLINK_KBPS = 64
UNLIMITED = ClientBudgetSettings(asks_per_s=10_000, burst_asks=100_000, kbps=1_000_000, open_asks=256)


class Site:
    """The way of an ad-hoc question at an edge, without cameras and session, on a thin uplink."""

    def __init__(self, budget: ClientBudgetSettings, **budgets: ClientBudgetSettings) -> None:
        settings = EdgeSettings(
            site="depot",
            cameras={"gate": CameraSettings(source="test:1")},
            client_budget=budget,
            client_budgets=budgets,
        )
        self.clock = TurnedClock()
        self.bus = RecordingBus()
        self.sent: list[Sent] = []
        self.uplink = Uplink(self.bus, UPLINK_KBPS, self.clock, on_sent=self.sent.append)
        self.budgets = ClientBudgets(settings, self.clock)
        self.journal = JournalThread(AskJournal(None))
        self.tasks: set[asyncio.Task[None]] = set()
        outbox = Outbox(self.uplink)
        self.desk = AskDesk(
            self.journal,
            self.clock,
            boot=1,
            cameras={"gate"},
            budgets=self.budgets,
            report=outbox.report,
            reply=outbox.reply,
            wake=lambda _camera: None,
            spawn=self._spawn,
        )
        self.problems = OncePerKind(get_logger("test"))
        self.intake = AskIntake(
            settings,
            self.desk,
            self.budgets,
            outbox,
            problems=self.problems,
            acknowledge=self.uplink.acknowledge,
            spawn=self._spawn,
            clock=self.clock,
        )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.uplink.connection(True)
        task = asyncio.create_task(self.uplink.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.journal.close()

    async def ask(self, client: str, query_id: str) -> None:
        """An ask arrives, and is stored or turned away."""
        ask = Ask(query_id=query_id, text="Is the gate open?", deadline_ms=30_000)
        message = inbound(
            topics.ask_topic("gate", client),
            wire.encode(ask),
            qos=1,
            response_topic=topics.reply_topic(client, "gate", query_id),
        )
        self.intake.receive(message, "gate", client, ask)
        while self.tasks:
            await asyncio.wait(self.tasks)
        await settle()

    async def decide(self, client: str, query_id: str) -> None:
        """The question ends in a frame, with a worker that had to ask for its text: the edge replies."""
        self.desk.take("gate", 1_000)
        ask = Ask(query_id=query_id, text="Is the gate open?", deadline_ms=30_000)
        self.desk.texts_requested([ask.content(client).digest])
        await self.desk.decided(answer(client, query_id), published=True)
        await settle()

    def replies(self, client: str) -> list[Answer | QueryOutcome]:
        topic = topics.reply_topic(client, "gate", "x").removesuffix("x")
        messages = [wire.decode_publish(name, data)[1] for name, data, _ in self.bus.published if topic in name]
        return [message for message in messages if isinstance(message, Answer | QueryOutcome)]

    def sent_bytes(self) -> int:
        return sum(sent.wire_bytes for sent in self.sent)


def answer(client: str, query_id: str) -> Answer:
    return Answer(
        query_id=f"gate/@{client}/{query_id}",
        owner=f"client/{client}",
        camera="gate",
        frame=FrameId(1, 0),
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


@dataclass
class Flood:
    """What became of a bystander under 300 asks a second of one client for 30 s."""

    site: Site
    bystander_s: float | None
    """From the bystander's answer at the desk to its departure; None when it did not leave within the flood."""


async def flood(budget: ClientBudgetSettings) -> Flood:
    site = Site(budget)
    asked_s = decided_s = 0.0
    replied_s = None
    async with site.running():
        for number in range(9_000):
            await site.ask("mallory", f"q{number}")
            if number == 4_500:
                asked_s = site.clock.now_s()
                await site.ask("alice", "mine")
            if asked_s and not decided_s and site.clock.now_s() > asked_s + 1.0:
                decided_s = site.clock.now_s()
                await site.decide("alice", "mine")
            await site.clock.turn_to(site.clock.now_s() + 1 / 300)
            if replied_s is None and site.replies("alice"):
                replied_s = site.clock.now_s()
    return Flood(site, None if replied_s is None else replied_s - decided_s)


async def test_a_client_that_floods_keeps_no_bystander_waiting() -> None:
    run = await flood(ClientBudgetSettings())
    assert run.bystander_s is not None
    assert run.bystander_s < 1.0
    (reply,) = run.site.replies("alice")
    assert reply.outcome is Outcome.ANSWERED
    # What the flood was charged, and what it cost: acknowledgements alone would have been 9,000 times 78 bytes.
    assert run.site.budgets.counts("asks_refused")["mallory"] == 9_000 - 60 - 60
    assert run.site.desk.counters["new"] <= 64 + 1
    assert run.site.desk.counters["refused_silently"] > 8_800
    assert len(run.site.replies("mallory")) < 40
    acknowledged = sum(sent.wire_bytes for sent in run.site.sent if sent.label == "puback")
    assert acknowledged < 9_000 * 7
    assert run.site.sent_bytes() < 0.35 * 30 * UPLINK_KBPS * 125
    assert len(run.site.bus.acknowledged) > 8_900, "the broker is not made to wait"


async def test_without_budgets_it_would() -> None:
    run = await flood(UNLIMITED)
    assert run.bystander_s is None or run.bystander_s > 5.0


async def test_acknowledgements_never_take_more_than_half_of_the_uplink() -> None:
    site = Site(ClientBudgetSettings())
    async with site.running():
        arrived = 0
        for number in range(20_000):
            if arrived - len(site.bus.acknowledged) < ASK_WINDOW:  # else the broker waits
                site.uplink.acknowledge(inbound(topics.ask_topic("gate", "mallory"), b"", qos=1))
                arrived += 1
            if number % 20 == 0:
                await site.clock.turn_to(1000.0 + number / 2_000)
    largest = max(sent.wire_bytes for sent in site.sent)
    assert largest <= transport_wire_bytes(4 * ASK_WINDOW)
    assert site.sent_bytes() <= 0.5 * 10 * UPLINK_KBPS * 125 + largest
    assert arrived > 5_000


def test_a_client_has_its_own_budget_and_gateways_a_larger_one() -> None:
    clock = SkippingClock()
    settings = EdgeSettings(
        site="depot",
        cameras={"gate": CameraSettings(source="test:1")},
        client_budget=ClientBudgetSettings(asks_per_s=1, burst_asks=3, open_asks=2),
        client_budgets={"gateway": ClientBudgetSettings(asks_per_s=10, burst_asks=30)},
    )
    budgets = ClientBudgets(settings, clock)

    def asks(client: str, count: int) -> int:
        return sum(budgets.ask(client) for _ in range(count))

    assert (asks("alice", 10), asks("bob", 2), asks("gateway", 40)) == (3, 2, 30)
    clock.time_s += 2.0
    assert (asks("alice", 10), asks("gateway", 40)) == (2, 20)
    assert budgets.counts("asks_refused") == {"alice": 7 + 8, "bob": 0, "gateway": 10 + 20}
    assert (budgets.of("alice").open_asks, budgets.of("gateway").open_asks) == (2, 64)


def test_a_question_of_many_tokens_counts_as_several() -> None:
    budgets = Site(ClientBudgetSettings(asks_per_s=1, burst_asks=60)).budgets
    longest = Ask(
        query_id="q1",
        text="\U0001f697" * 500,
        answer_type=AnswerType.CHOICE,
        options=tuple(f"{number:02}{chr(0x1F698) * 62}" for number in range(16)),
    )
    tokens = question_tokens(longest.content("mallory").prompt, longest.answer_type)
    asks = math.ceil(tokens / ASK_TOKENS)
    # Granted while there is something left, whatever it costs.
    assert sum(budgets.ask("mallory", tokens) for _ in range(60)) == math.ceil(60 / asks) == 2
    plain = question_tokens("Is there anybody at the gate who carries something? " * 9, AnswerType.TEXT)
    assert sum(budgets.ask("alice", plain) for _ in range(61)) == 60, "the longest one in plain English is one"
    small = Site(ClientBudgetSettings(asks_per_s=1, burst_asks=2)).budgets
    assert small.ask("bob", tokens), "no budget makes a question impossible"
    assert not small.ask("bob")


def test_bytes_beyond_the_budget_are_not_said_and_are_forgiven_after_a_while() -> None:
    clock = SkippingClock()
    settings = EdgeSettings(
        site="depot",
        cameras={"gate": CameraSettings(source="test:1")},
        client_budget=ClientBudgetSettings(kbps=8.0),  # 1,000 bytes a second, 8,000 at once
    )
    budgets = ClientBudgets(settings, clock)
    assert [budgets.say("alice", 3_000) for _ in range(5)] == [True, True, True, False, False]
    for _ in range(1_000):
        budgets.charge("alice", 1_000)
    clock.time_s += 8.1
    assert budgets.say("alice", 100)
    assert budgets.counts("silent") == {"alice": 2}
    assert budgets.counts("wire_bytes") == {"alice": 9_000 + 1_000_000 + 100}


def test_the_number_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets_module, "MAX_CLIENTS", 3)
    settings = EdgeSettings(site="depot", cameras={"gate": CameraSettings(source="test:1")})
    budgets = ClientBudgets(settings, SkippingClock())
    for number in range(10):
        budgets.ask(f"c{number}")
    assert list(budgets.counts("wire_bytes")) == ["c7", "c8", "c9"]


async def test_one_client_cannot_take_the_places_of_all_open_questions() -> None:
    site = Site(ClientBudgetSettings(burst_asks=1_000, open_asks=4))
    async with site.running():
        for number in range(300):
            await site.ask("mallory", f"q{number}")
        await site.ask("alice", "mine")
        assert len(site.desk.take("gate", 1_000)) == 5
        await site.clock.turn_to(site.clock.now_s() + 1.0)
        assert site.replies("mallory")[0].reason == "4 questions of this client have no outcome yet: wait for some"
        # Asking again is no further question.
        await site.ask("mallory", "q0")
        assert site.desk.counters["running"] == 1


# ---- what is no question --------------------------------------------------------------------------------------------

BAD = {
    b"{": "malformed",
    b'{"query_id":"q1"}': "malformed",
    b'{"query_id":"q1","text":"a?","colour":"red"}': "malformed",
    b'{"query_id":"q1","text":7}': "malformed",
    b'{"v":9,"query_id":"q1","text":"a?"}': "version",
    b'{"query_id":"q1","text":"' + b"a" * 20_000 + b'"}': "oversize",
}


def bad(site: Site, payload: bytes, client: str = "alice", response_topic: str | None = None) -> None:
    message = inbound(topics.ask_topic("gate", client), payload, qos=1, response_topic=response_topic)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whichever error of the wire it is
        wire.decode_publish(message.topic, message.payload)
    site.intake.unreadable(message, raised.value)  # type: ignore[arg-type]


@pytest.mark.parametrize("payload", BAD)
async def test_each_bad_ask_has_one_reply_on_the_topic_that_its_client_named(payload: bytes) -> None:
    site = Site(ClientBudgetSettings())
    async with site.running():
        bad(site, payload, response_topic="lb/v2/reply/alice/gate/q1")
        await settle()
    ((topic, data, _),) = site.bus.published
    assert topic == "lb/v2/reply/alice/gate/q1"
    receipt = wire.decode_publish(topic, data)[1]
    assert receipt is not None
    assert (receipt.site, receipt.accepted) == ("depot", False)  # type: ignore[attr-defined]
    assert receipt.about == ("q1" if payload != b"{" and len(payload) < 1_000 else "")  # type: ignore[attr-defined]
    assert site.problems.counts == {f"ask/{BAD[payload]}": 1}


@pytest.mark.parametrize("response_topic", [None, "lb/v2/reply/bob/gate/q1", "lb/v2/open/main/gate", "elsewhere"])
async def test_without_a_reply_topic_of_its_own_the_client_is_told_on_the_outcome_topic(
    response_topic: str | None,
) -> None:
    site = Site(ClientBudgetSettings())
    async with site.running():
        bad(site, b'{"query_id":"q1","text":7}', response_topic=response_topic)
        await settle()
        bad(site, b"no JSON", response_topic=response_topic)
        await site.clock.turn_to(site.clock.now_s() + 1.0)
    outcomes = [wire.decode_publish(topic, data)[1] for topic, data, _ in site.bus.published]
    assert [topic for topic, _, _ in site.bus.published] == ["lb/v2/outcome/gate"] * 2
    assert [(o.query_id, o.owner, o.outcome) for o in outcomes if isinstance(o, QueryOutcome)] == [
        ("gate/@alice/q1", "client/alice", Outcome.FAILED),
        ("gate/@alice/unreadable", "client/alice", Outcome.FAILED),
    ]


async def test_a_question_that_runs_gets_no_second_end_from_a_bad_message_of_its_id() -> None:
    site = Site(ClientBudgetSettings())
    async with site.running():
        await site.ask("alice", "q1")
        bad(site, b'{"query_id":"q1","text":7}')
        await site.clock.turn_to(site.clock.now_s() + 1.0)
    assert site.bus.published == []


async def test_beyond_the_budget_there_is_silence_and_a_counter_and_the_log_names_each_mistake_once() -> None:
    site = Site(ClientBudgetSettings(asks_per_s=1, burst_asks=20))
    with capture_logs() as logs:
        async with site.running():
            for number in range(1_000):
                bad(site, b'{"query_id":"q1","text":"a?","%s":1}' % [b"red", b"blue"][number % 2])
                bad(site, b"no JSON", client="bob", response_topic="lb/v2/reply/bob/gate/q1")
            await site.clock.turn_to(site.clock.now_s() + 10.0)
    assert site.problems.counts["ask/malformed"] == 2_000
    assert len(site.bus.published) < 45
    lines = [(line["client"], line["problem"], line["count"]) for line in logs if line["event"] == "message dropped"]
    assert len(lines) <= 6
    assert [client for client, _, count in lines if count == 1] == ["alice", "bob", "alice"]
    assert any("red" in problem for _, problem, _ in lines)
    assert any("blue" in problem for _, problem, _ in lines)


async def test_invented_mistakes_and_names_fill_no_disk() -> None:
    site = Site(ClientBudgetSettings())
    with capture_logs() as logs:
        async with site.running():
            for number in range(3_000):
                bad(site, b'{"query_id":"q1","text":"a?","x%d":1}' % number, client=f"c{number % 1_500}")
    assert len([line for line in logs if line["event"] == "message dropped"]) == 60
