"""An edge session whose uplink has a budget: what is asked, what is refused, what is said, and what waits."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.node.ask_journal import AskJournal
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import Decision
from pipeline.protocol.journal_requests import Admit, Decide, MarkTold, MoveToFile, ReadUnfinished
from pipeline.protocol.ports import Acknowledge, Contained, Delivery, Notice, Publish, Received, Sent
from pipeline.protocol.reasons import UPLINK_BUDGET
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from pipeline.protocol.uplink_budget import BudgetSettings, StoreSpending
from schemas import topics, wire
from schemas.messages import Ask, Condition, QueryOutcome, Status
from schemas.messages.status import MAX_CONDITIONS
from schemas.trace_context import TRACEPARENT, TRACEPARENT_WIRE_BYTES
from schemas.types import Outcome, UplinkStage
from tests.protocol.fake_latents import FakeLatent
from tests.protocol.questions import SITE, published

CAMERA = "gate"
DAY_BYTES = 40_000
DAY_S = 86_400.0
BUDGET = BudgetSettings(day_bytes=DAY_BYTES, largest_message_bytes=1_000)
QUESTION = "open"


class BudgetedSite:
    """A session, a broker that takes everything, and a clock."""

    def __init__(self, budget: BudgetSettings | None = BUDGET, *, traced: bool = False) -> None:
        self.now_s = 0.0
        self.utc_s = 20_000 * DAY_S
        self.published: list[Publish] = []
        self.spent_bytes = 0
        self.decisions: list[Decision] = []
        self.notices: list[Notice] = []
        self.stored: list[StoreSpending] = []
        self.acknowledged = 0
        self._journal = AskJournal.open_or_in_memory(None)
        self.session = EdgeSession(
            EdgeProtocolSettings(),
            SiteSettings(
                SITE, "main", {CAMERA: (QUESTION,)}, {QUESTION: published(QUESTION)}, budget=budget, traced=traced
            ),
            boot=7,
            fingerprint=b"\1\2\3\4",
        )
        self.session.wall_clock(self.utc_s, 0.0)
        self.pump()
        self.session.connection(True, self.now_s)
        self.pump()

    def pump(self) -> None:
        while outputs := self.session.poll(self.now_s):
            for output in outputs:
                match output:
                    case Publish():
                        self.published.append(output)
                        self.session.published(output.token, Delivery.DELIVERED, self.now_s)
                        if output.label == "status":
                            self.session.receive(Received(output.topic, output.payload), self.now_s)
                    case Sent():
                        self.spent_bytes += output.wire_bytes
                    case Acknowledge():
                        self.acknowledged += len(output.tokens)
                        self.session.acknowledged(len(output.tokens), self.now_s)
                    case Decision():
                        self.decisions.append(output)
                    case Notice():
                        self.notices.append(output)
                    case StoreSpending():
                        self.stored.append(output)
                    case Contained():
                        raise output.error
                    case Admit() | Decide() | MarkTold() | MoveToFile() | ReadUnfinished():
                        self.session.stored(output.token, self._journal.perform(output), self.now_s)
                    case _:
                        pass

    def pass_s(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while (due_s := self.session.next_wake_s()) is not None and due_s <= end_s:
            self.now_s = max(self.now_s, due_s)
            self.pump()
        self.utc_s += seconds
        self.now_s = end_s
        self.session.wall_clock(self.utc_s, self.now_s)
        self.pump()

    def slot(self) -> bool:
        """A slot of the camera comes; whether a frame was taken."""
        if not (self.session.takes_standing(CAMERA, self.now_s) and self.session.has_room(CAMERA)):
            return False
        queries = self.session.take_queries(CAMERA, self.now_s, standing=True)
        self.session.offer(CAMERA, FakeLatent(1), 2, queries, self.now_s)
        self.pump()
        return True

    def ask(self, query_id: str) -> None:
        message = Ask(query_id=query_id, text="Is the gate open?", deadline_ms=20_000)
        topic = topics.ask_topic(CAMERA, "ops")
        self.session.receive(Received(topic, wire.encode(message), token=int(query_id[1:])), self.now_s)
        self.pump()

    def spend_until(self, stage: UplinkStage) -> None:
        """Standing questions, then chunks and the like, until so much is spent."""
        while self.session.budget.stage is not stage:
            if not self.slot():
                self.session.budget.charge(100)
                self.spent_bytes += 100
                self.pump()
            self.pass_s(12.0)

    def said(self, label: str) -> list[Publish]:
        return [publish for publish in self.published if publish.label == label]

    @property
    def statuses(self) -> list[UplinkStage]:
        return [publish.message.uplink for publish in self.said("status") if isinstance(publish.message, Status)]


def test_each_step_is_in_the_status_and_in_the_log_once() -> None:
    site = BudgetedSite()
    site.spend_until(UplinkStage.SPENT)
    assert site.statuses == list(UplinkStage)
    assert [notice.level for notice in site.notices] == ["warning"] * 3
    site.pass_s(DAY_S)
    site.pass_s(1.0)
    assert site.statuses[-1] is UplinkStage.NORMAL
    assert site.slot()


def test_a_trace_is_on_the_uplink_only_where_it_is_switched_on_and_is_charged() -> None:
    sites = [BudgetedSite(None), BudgetedSite(None, traced=True)]
    for site in sites:
        assert site.slot()
    plain, traced = (site.said("open")[0] for site in sites)
    assert plain.user_properties == ()
    assert plain.traced().user_properties == traced.user_properties
    assert traced.user_properties[0][0] == TRACEPARENT
    longer = 1  # the length of the packet has two digits from 128 bytes on
    assert 0 <= sites[1].spent_bytes - sites[0].spent_bytes - TRACEPARENT_WIRE_BYTES <= longer
    assert all(not publish.user_properties for publish in sites[1].said("status"))


def test_what_is_wrong_with_the_process_is_in_its_status_once_for_each_change() -> None:
    site = BudgetedSite(None)
    stalled = Condition(kind="camera-stalled", about=CAMERA)
    for conditions in ([], [stalled], [stalled], [], []):
        site.session.health(conditions)
        site.pass_s(10.0)
    found = [publish.message.conditions for publish in site.said("status") if isinstance(publish.message, Status)]
    assert found == [(), (stalled,), ()]
    assert all(b"conditions" not in site.said("status")[index].payload for index in (0, 2))
    site.session.health([Condition(kind=f"k{number}") for number in range(100)])
    site.pass_s(10.0)
    last = wire.decode(topics.Family.STATUS, site.said("status")[-1].payload)
    assert isinstance(last, Status)
    assert len(last.conditions) == MAX_CONDITIONS


def test_standing_questions_stop_and_an_ad_hoc_one_is_still_answered() -> None:
    site = BudgetedSite()
    site.spend_until(UplinkStage.AD_HOC_ONLY)
    assert not any(site.slot() for _ in range(50))
    site.ask("q1")
    assert site.session.ad_hoc.waiting(CAMERA)
    assert site.session.has_room(CAMERA)
    queries = site.session.take_queries(CAMERA, site.now_s, standing=False)
    site.session.offer(CAMERA, FakeLatent(1), 2, queries, site.now_s)
    before = len(site.said("open"))
    site.pump()
    assert len(site.said("open")) == before + 1


def test_a_spent_budget_refuses_ad_hoc_questions_with_a_public_reason() -> None:
    site = BudgetedSite()
    site.spend_until(UplinkStage.SPENT)
    site.ask("q1")
    assert not site.session.ad_hoc.waiting(CAMERA)
    [refusal] = [publish.message for publish in site.said("outcome") if isinstance(publish.message, QueryOutcome)][-1:]
    assert refusal.outcome is Outcome.FAILED
    assert refusal.reason.startswith(f"{UPLINK_BUDGET}: ")
    assert refusal.reason.endswith("UTC")
    assert site.acknowledged == 1


def test_in_the_end_nothing_leaves_but_the_last_word_and_goes_on_the_next_day() -> None:
    site = BudgetedSite()
    site.spend_until(UplinkStage.SPENT)
    number = 0
    while not site.session.budget.is_closed:
        number += 1
        site.ask(f"q{number}")
        site.pass_s(10.0)
    before, acknowledged = len(site.published), site.acknowledged
    for further in range(20):
        site.ask(f"q{number + 1 + further}")
        assert not site.slot()
        assert not site.session.has_room(CAMERA)
        site.pass_s(10.0)
    assert len(site.published) == before
    assert site.acknowledged == acknowledged  # the broker waits with what is not acknowledged
    assert site.session.next_wake_s() is None or site.session.next_wake_s() > site.now_s  # type: ignore[operator]
    assert site.session.uplink.next_wake_s() is None
    # A process that goes, and one that connects again, says so all the same.
    site.session.connection(False, site.now_s)
    site.session.connection(True, site.now_s, generation=2)
    site.pump()
    assert [publish.label for publish in site.published[before:]] == ["status"]
    assert site.spent_bytes <= DAY_BYTES
    site.pass_s(60.0)
    site.pass_s(DAY_S)
    assert site.slot()
    site.ask("q9999")
    assert site.acknowledged == acknowledged + 1


def test_however_the_day_goes_its_budget_holds() -> None:
    """Standing and ad-hoc questions all day, and a link that flaps: the bytes that left are never more."""
    site = BudgetedSite()
    for number in range(1, 400):
        site.slot()
        if number % 3 == 0:
            site.ask(f"q{number}")
            queries = site.session.take_queries(CAMERA, site.now_s, standing=False)
            if queries and site.session.has_room(CAMERA):
                site.session.offer(CAMERA, FakeLatent(1), 2, queries, site.now_s)
                site.pump()
        if number % 7 == 0:
            site.session.connection(False, site.now_s)
            site.session.connection(True, site.now_s, generation=number)
            site.pump()
        site.pass_s(30.0)
    assert DAY_BYTES - 2 * BUDGET.largest_message_bytes <= site.spent_bytes <= DAY_BYTES
    decided = Counter(decision.outcome for decision in site.decisions)
    assert site.session.unfinished() == 0
    assert set(decided) <= {Outcome.FAILED, Outcome.EXPIRED, Outcome.SUPERSEDED}


def test_the_end_of_a_process_stores_what_was_spent_to_the_byte() -> None:
    site = BudgetedSite()
    for _ in range(5):
        site.slot()
        site.pass_s(12.0)
    site.session.drain("stopped")
    site.session.abandon("stopped")
    site.pump()
    site.session.leave(site.now_s)
    site.pump()
    assert site.stored[-1].periods["day"].spent_bytes == site.spent_bytes
    assert site.session.idle()


@pytest.mark.parametrize("hours", [1, 30])
def test_a_site_without_questions_says_nothing(hours: int) -> None:
    """Idle costs keepalives only: a session has no timer of its own that speaks."""
    site = BudgetedSite(None)
    site.pass_s(60.0)  # questions and status are out
    before, spent = len(site.published), site.spent_bytes
    site.pass_s(hours * 3600.0)
    assert (len(site.published), site.spent_bytes) == (before, spent)
    assert site.session.next_wake_s() is None
