"""What clients asked a simulated site: what is stored, asked, acknowledged and ended is judged."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pipeline.protocol.ad_hoc_questions import NO_FRAME_SEQUENCE
from pipeline.protocol.effects import AskedQuery, Decision
from pipeline.protocol.journal_requests import Admit, Decide, JournalRequest, JournalResult, ReadUnfinished
from schemas.identity import ad_hoc_query_id, owner_of
from schemas.messages import Ask, QueryOutcome
from schemas.types import FrameId, Outcome
from simulation.clock import VirtualClock
from simulation.disk import Disk
from simulation.edge_asks import EdgeAsks
from simulation.invariant_checker import EdgeState, InvariantChecker

ASK = Ask(query_id="q", text="Who?", deadline_ms=10_000)
QUERY = ad_hoc_query_id("gate", "me", "q")
JOIN_S = 1.0


class Site:
    """A disk and what is judged by it."""

    def __init__(self, join_s: float = JOIN_S) -> None:
        self.clock = VirtualClock()
        self.disk = Disk(self.clock, self._done, lambda *_: None)
        self.problems: list[str] = []
        self.ends: list[Decision] = []
        self.asks = EdgeAsks(
            "north",
            self.disk,
            join_s,
            self.clock,
            on_query=lambda _query_id, _deadline_s: None,
            on_terminal=self.ends.append,
            on_problem=lambda rule, _subject, _problem: self.problems.append(rule),
        )
        self.start()

    def start(self) -> None:
        self.asks.restart()
        self.asks.store(ReadUnfinished(1))
        self.settle()

    def ask(self, token: int = 7) -> None:
        self.asks.arrives(token)
        self.asks.store(Admit(2, "gate", "me", ASK, None, 8))

    def expire(self) -> None:
        outcome = QueryOutcome(
            query_id=QUERY,
            owner=owner_of("client", "me"),
            camera="gate",
            frame=FrameId(1, NO_FRAME_SEQUENCE),
            question_id="q",
            outcome=Outcome.EXPIRED,
            reason="deadline before a frame",
        )
        self.asks.store(Decide(3, QUERY, outcome, told=False))
        self.settle()

    def settle(self) -> None:
        while self.clock.step():
            pass

    def _done(self, request: JournalRequest, result: JournalResult) -> None:
        self.asks.done(request, result, self.clock.now_s)


@pytest.mark.parametrize("early", [False, True])
def test_an_acknowledgement_before_the_disk_has_it_is_found(early: bool) -> None:
    site = Site()
    site.ask(7)
    if not early:
        site.settle()
    site.asks.acknowledges(7)
    assert site.problems == (["acknowledged before it was stored"] if early else [])


def test_what_comes_from_the_disk_is_what_went_there() -> None:
    site = Site()
    site.ask()
    site.settle()
    query = AskedQuery(ASK.content("me"), site.clock.now_s + 10.0)
    site.asks.framed("gate", [query], site.clock.now_s)
    assert site.problems == []
    site.asks.framed("gate", [replace(query, question=ASK.model_copy(update={"text": "When?"}).content("me"))], 1.0)
    site.asks.framed("gate", [replace(query, deadline_s=query.deadline_s + 1.0)], 1.0)
    assert site.problems == ["another text was asked", "a deadline moved"]


def test_an_end_that_nobody_was_told_is_told_by_the_next_process() -> None:
    site = Site()
    site.ask()
    site.settle()
    site.expire()
    assert [(end.query_id, end.outcome) for end in site.ends] == [(QUERY, Outcome.EXPIRED)]
    site.asks.says(QUERY)
    assert site.asks.counters["told_again"] == 0, "told by the process that decided it"
    site.start()
    site.asks.says(QUERY)
    site.asks.says(QUERY)
    assert site.asks.counters["told_again"] == 1


@pytest.mark.parametrize(
    ("join_s", "frame_s", "none"),
    [(math.inf, None, True), (math.inf, 5.0, False), (JOIN_S, None, False), (JOIN_S, 5.0, False)],
)
def test_a_camera_had_no_frame_for_a_question_if_it_took_none_and_was_to_take_none(
    join_s: float, frame_s: float | None, none: bool
) -> None:
    site = Site(join_s)
    site.ask()
    site.settle()
    if frame_s is not None:
        site.asks.framed("gate", [], frame_s)
    assert site.asks.had_no_frame("gate", QUERY) is none


@pytest.mark.parametrize("none", [False, True])
def test_a_question_that_expires_in_a_calm_fleet_is_lost_unless_it_could_meet_no_frame(none: bool) -> None:
    site = Site()
    site.ask()
    site.settle()
    checker = InvariantChecker(2, 1.0, lambda _site: EdgeState(0.0, 0.0, 0.0))
    checker.asked("north", QUERY, 0.0, 40.0, ad_hoc=True)
    site.expire()
    (end,) = site.ends
    checker.edge_decided("north", end, 40.0)
    if none:
        checker.had_no_frame(QUERY)
    assert end.publish is not None
    checker.published(end.publish, 40.1, 0.0)
    assert [violation.rule for violation in checker.violations] == ([] if none else ["no recovery"])
