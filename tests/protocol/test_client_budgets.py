"""One client that floods a site costs its own questions, not those of the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from edge_nodes.node import ASK_WINDOW
from pipeline.protocol import client_budgets as budgets_module
from pipeline.protocol.client_budgets import ASK_TOKENS, ClientBudget, ClientBudgets
from pipeline.protocol.worker_work import question_tokens
from schemas import topics, wire
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.types import AnswerType, FrameId, Outcome
from schemas.wire_cost import transport_wire_bytes
from tests.protocol.edge_driver import EdgeDriver

UPLINK_KBPS = 64
UNLIMITED = ClientBudget(asks_per_s=10_000, burst_asks=100_000, kbps=1_000_000, open_asks=256)


class Site(EdgeDriver):
    """An edge without frames, on a thin uplink."""

    def __init__(self, budget: ClientBudget, **budgets: ClientBudget) -> None:
        super().__init__(uplink_kbps=UPLINK_KBPS, budget=budget, budgets=budgets)
        self.connect()
        self.turn_to(self.now_s + 1.0)
        self.published.clear()
        self.sent.clear()

    def ask(self, client: str, query_id: str) -> None:
        """An ask arrives, and is stored or turned away."""
        ask = Ask(query_id=query_id, text="Is the gate open?", deadline_ms=30_000)
        topic = topics.ask_topic("gate", client)
        self.receive(topic, ask, response_topic=topics.reply_topic(client, "gate", query_id))

    def decide(self, client: str, query_id: str) -> None:
        """The question ends in a frame, with a worker that had to ask for its text: the edge replies."""
        ad_hoc = self.session.ad_hoc
        ad_hoc.take("gate", 1_000)
        ask = Ask(query_id=query_id, text="Is the gate open?", deadline_ms=30_000)
        ad_hoc.texts_requested([ask.content(client).digest])
        ad_hoc.decided(answer(client, query_id), published=True)
        self.pump()

    def replies(self, client: str) -> list[Answer | QueryOutcome]:
        topic = topics.reply_topic(client, "gate", "x").removesuffix("x")
        messages = [wire.decode_publish(name, data)[1] for name, data, _ in self.published if topic in name]
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
    """From the bystander's answer at the edge to its departure; None when it did not leave within the flood."""


def flood(budget: ClientBudget) -> Flood:
    site = Site(budget)
    asked_s = decided_s = 0.0
    replied_s = None
    for number in range(9_000):
        site.ask("mallory", f"q{number}")
        if number == 4_500:
            asked_s = site.now_s
            site.ask("alice", "mine")
        if asked_s and not decided_s and site.now_s > asked_s + 1.0:
            decided_s = site.now_s
            site.decide("alice", "mine")
        site.turn_to(site.now_s + 1 / 300)
        if replied_s is None and site.replies("alice"):
            replied_s = site.now_s
    return Flood(site, None if replied_s is None else replied_s - decided_s)


def test_a_client_that_floods_keeps_no_bystander_waiting() -> None:
    run = flood(ClientBudget())
    assert run.bystander_s is not None
    assert run.bystander_s < 1.0
    (reply,) = run.site.replies("alice")
    assert reply.outcome is Outcome.ANSWERED
    # What the flood was charged, and what it cost: acknowledgements alone would have been 9,000 times 78 bytes.
    assert run.site.session.budgets.counts("asks_refused")["mallory"] == 9_000 - 60 - 60
    assert run.site.session.ad_hoc.counters["new"] <= 64 + 1
    assert run.site.session.ad_hoc.counters["refused_silently"] > 8_800
    assert len(run.site.replies("mallory")) < 40
    acknowledged = sum(sent.wire_bytes for sent in run.site.sent if sent.label == "puback")
    assert acknowledged < 9_000 * 7
    assert run.site.sent_bytes() < 0.35 * 30 * UPLINK_KBPS * 125
    assert len(run.site.acknowledged) > 8_900, "the broker is not made to wait"


def test_without_budgets_it_would() -> None:
    run = flood(UNLIMITED)
    assert run.bystander_s is None or run.bystander_s > 5.0


def test_acknowledgements_never_take_more_than_half_of_the_uplink() -> None:
    site = Site(ClientBudget())
    arrived, began_s = 0, site.now_s
    for number in range(20_000):
        if arrived - len(site.acknowledged) < ASK_WINDOW:  # else the broker waits
            site.session.uplink.acknowledge(number)
            arrived += 1
        if number % 20 == 0:
            site.turn_to(began_s + number / 2_000)
    largest = max(sent.wire_bytes for sent in site.sent)
    assert largest <= transport_wire_bytes(4 * ASK_WINDOW)
    assert site.sent_bytes() <= 0.5 * 10 * UPLINK_KBPS * 125 + largest
    assert arrived > 5_000


def test_a_client_has_its_own_budget_and_gateways_a_larger_one() -> None:
    gateway = ClientBudget(asks_per_s=10, burst_asks=30)
    budgets = ClientBudgets(ClientBudget(asks_per_s=1, burst_asks=3, open_asks=2), {"gateway": gateway})

    def asks(client: str, count: int, now_s: float) -> int:
        return sum(budgets.ask(client, now_s) for _ in range(count))

    assert (asks("alice", 10, 0.0), asks("bob", 2, 0.0), asks("gateway", 40, 0.0)) == (3, 2, 30)
    assert (asks("alice", 10, 2.0), asks("gateway", 40, 2.0)) == (2, 20)
    assert budgets.counts("asks_refused") == {"alice": 7 + 8, "bob": 0, "gateway": 10 + 20}
    assert (budgets.of("alice").open_asks, budgets.of("gateway").open_asks) == (2, 64)


def test_a_question_of_many_tokens_counts_as_several() -> None:
    budgets = ClientBudgets(ClientBudget(asks_per_s=1, burst_asks=60))
    longest = Ask(
        query_id="q1",
        text="\U0001f697" * 500,
        answer_type=AnswerType.CHOICE,
        options=tuple(f"{number:02}{chr(0x1F698) * 62}" for number in range(16)),
    )
    tokens = question_tokens(longest.content("mallory").prompt, longest.answer_type)
    asks = math.ceil(tokens / ASK_TOKENS)
    # Granted while there is something left, whatever it costs.
    assert sum(budgets.ask("mallory", 0.0, tokens) for _ in range(60)) == math.ceil(60 / asks) == 2
    plain = question_tokens("Is there anybody at the gate who carries something? " * 9, AnswerType.TEXT)
    assert sum(budgets.ask("alice", 0.0, plain) for _ in range(61)) == 60, "the longest one in plain English is one"
    small = ClientBudgets(ClientBudget(asks_per_s=1, burst_asks=2))
    assert small.ask("bob", 0.0, tokens), "no budget makes a question impossible"
    assert not small.ask("bob", 0.0)


def test_bytes_beyond_the_budget_are_not_said_and_are_forgiven_after_a_while() -> None:
    budgets = ClientBudgets(ClientBudget(kbps=8.0))  # 1,000 bytes a second, 8,000 at once
    assert [budgets.say("alice", 3_000, 0.0) for _ in range(5)] == [True, True, True, False, False]
    for _ in range(1_000):
        budgets.charge("alice", 1_000, 0.0)
    assert budgets.say("alice", 100, 8.1)
    assert budgets.counts("silent") == {"alice": 2}
    assert budgets.counts("wire_bytes") == {"alice": 9_000 + 1_000_000 + 100}


def test_the_number_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets_module, "MAX_CLIENTS", 3)
    budgets = ClientBudgets(ClientBudget())
    for number in range(10):
        budgets.ask(f"c{number}", 0.0)
    assert list(budgets.counts("wire_bytes")) == ["c7", "c8", "c9"]


def test_one_client_cannot_take_the_places_of_all_open_questions() -> None:
    site = Site(ClientBudget(burst_asks=1_000, open_asks=4))
    for number in range(300):
        site.ask("mallory", f"q{number}")
    site.ask("alice", "mine")
    assert len(site.session.ad_hoc.take("gate", 1_000)) == 5
    site.turn_to(site.now_s + 1.0)
    assert site.replies("mallory")[0].reason == "4 questions of this client have no outcome yet: wait for some"
    # Asking again is no further question.
    site.ask("mallory", "q0")
    assert site.session.ad_hoc.counters["running"] == 1


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
    token = site.receive(topics.ask_topic("gate", client), payload, response_topic=response_topic)
    site.turn_to(site.now_s)
    assert token is not None


@pytest.mark.parametrize("payload", BAD)
def test_each_bad_ask_has_one_reply_on_the_topic_that_its_client_named(payload: bytes) -> None:
    site = Site(ClientBudget())
    bad(site, payload, response_topic="lb/v2/reply/alice/gate/q1")
    ((topic, data, _),) = site.published
    assert topic == "lb/v2/reply/alice/gate/q1"
    receipt = wire.decode_publish(topic, data)[1]
    assert receipt is not None
    assert (receipt.site, receipt.accepted) == ("depot", False)  # type: ignore[attr-defined]
    assert receipt.about == ("q1" if payload != b"{" and len(payload) < 1_000 else "")  # type: ignore[attr-defined]
    assert site.problems == {f"ask/{BAD[payload]}": 1}


@pytest.mark.parametrize("response_topic", [None, "lb/v2/reply/bob/gate/q1", "lb/v2/open/main/gate", "elsewhere"])
def test_without_a_reply_topic_of_its_own_the_client_is_told_on_the_outcome_topic(
    response_topic: str | None,
) -> None:
    site = Site(ClientBudget())
    bad(site, b'{"query_id":"q1","text":7}', response_topic=response_topic)
    bad(site, b"no JSON", response_topic=response_topic)
    site.turn_to(site.now_s + 1.0)
    outcomes = [wire.decode_publish(topic, data)[1] for topic, data, _ in site.published]
    assert [topic for topic, _, _ in site.published] == ["lb/v2/outcome/gate"] * 2
    assert [(o.query_id, o.owner, o.outcome) for o in outcomes if isinstance(o, QueryOutcome)] == [
        ("gate/@alice/q1", "client/alice", Outcome.FAILED),
        ("gate/@alice/unreadable", "client/alice", Outcome.FAILED),
    ]


def test_a_question_that_runs_gets_no_second_end_from_a_bad_message_of_its_id() -> None:
    site = Site(ClientBudget())
    site.ask("alice", "q1")
    bad(site, b'{"query_id":"q1","text":7}')
    site.turn_to(site.now_s + 1.0)
    assert site.published == []


def test_beyond_the_budget_there_is_silence_and_a_counter_and_the_log_names_each_mistake_once() -> None:
    site = Site(ClientBudget(asks_per_s=1, burst_asks=20))
    for number in range(1_000):
        bad(site, b'{"query_id":"q1","text":"a?","%s":1}' % [b"red", b"blue"][number % 2])
        bad(site, b"no JSON", client="bob", response_topic="lb/v2/reply/bob/gate/q1")
    site.turn_to(site.now_s + 10.0)
    assert site.problems["ask/malformed"] == 2_000
    assert len(site.published) < 45
    lines = [notice.context for notice in site.notices if notice.event == "message dropped"]
    assert len(lines) <= 6
    assert [line["client"] for line in lines if line["count"] == 1] == ["alice", "bob", "alice"]
    assert any("red" in str(line["problem"]) for line in lines)
    assert any("blue" in str(line["problem"]) for line in lines)


def test_invented_mistakes_and_names_fill_no_disk() -> None:
    site = Site(ClientBudget())
    for number in range(3_000):
        bad(site, b'{"query_id":"q1","text":"a?","x%d":1}' % number, client=f"c{number % 1_500}")
    assert len([notice for notice in site.notices if notice.event == "message dropped"]) == 60
