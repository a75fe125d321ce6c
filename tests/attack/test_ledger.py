"""Bystanders' ledger: right, wrong, foreign and late are told apart, and each bad one lets an attack through."""

from __future__ import annotations

from typing import Any

import pytest

from latentbus.attack.ledger import BystanderLedger, Verdict
from latentbus.attack.report import MEMORY_BOUND_BYTES, MIB, AttackReport, AttackResult, problems_of
from latentbus.fleet.ledger import READ_LAG_S
from schemas.messages import Answer, QueryOutcome
from schemas.types import FrameId, Outcome

DEADLINE_S = 10.0
QUESTION = "Is there a car?"


def answer(query_id: str, text: str, outcome: Outcome | None = Outcome.ANSWERED, **changes: Any) -> Answer:
    camera, asker, question_id = query_id.split("/")
    owner = f"client/{asker[1:]}" if asker.startswith("@") else "site/north"
    return Answer.model_validate(
        {
            "query_id": query_id, "owner": owner, "camera": camera, "frame": FrameId(1, 1), "attempt": 1,
            "question_id": question_id, "worker": "w1", "outcome": outcome, "text": text, "score": 1.0, "latents": 8,
            "payload_bytes": 1, "looks": 1, **changes,
        }
    )  # fmt: skip


def outcome(query_id: str, ended: Outcome) -> QueryOutcome:
    camera, asker, question_id = query_id.split("/")
    return QueryOutcome.model_validate(
        {
            "query_id": query_id, "owner": f"client/{asker[1:]}", "camera": camera, "frame": FrameId(1, 1),
            "question_id": question_id, "outcome": ended,
        }
    )  # fmt: skip


@pytest.fixture
def ledger() -> BystanderLedger:
    """A ledger in which the calm is over: the right answer at the gate is yes."""
    made = BystanderLedger()
    for number in (1, 2):
        made.bystander_asks(f"gate/@alice/c{number}", "gate", QUESTION, 0.0, DEADLINE_S)
        made.observe(answer(f"gate/@alice/c{number}", "yes"), 1.0)
        made.observe(answer(f"gate/00000001-{number}/car", "no"), 1.0)
    made.learning = False
    made.begin()
    return made


def test_an_answer_like_the_one_in_the_calm_is_right_and_another_one_wrong(ledger: BystanderLedger) -> None:
    assert ledger.steady() == [("gate", QUESTION), ("gate", "site/north/car")]
    for query_id, text in (("gate/@alice/q1", "yes"), ("gate/@alice/q2", "no")):
        ledger.bystander_asks(query_id, "gate", QUESTION, 10.0, DEADLINE_S)
        ledger.observe(answer(query_id, "maybe", None), 11.0)
        ledger.observe(answer(query_id, text), 12.0)
        # The same comes again on the reply topic, and counts once.
        ledger.observe(answer(query_id, text), 12.0)
    assert ledger.counts == {Verdict.RIGHT: 1, Verdict.WRONG: 1}
    assert ledger.open_queries() == set()


def test_a_standing_question_that_is_answered_otherwise_is_wrong(ledger: BystanderLedger) -> None:
    ledger.observe(answer("gate/00000001-3/car", "no"), 10.0)
    ledger.observe(answer("gate/00000001-4/car", "3"), 10.0)
    assert ledger.counts == {Verdict.RIGHT: 1, Verdict.WRONG: 1}


def test_answers_that_wavered_in_the_calm_judge_nothing() -> None:
    ledger = BystanderLedger()
    for number, text in ((1, "yes"), (2, "no")):
        ledger.observe(answer(f"gate/00000001-{number}/car", text), 1.0)
    ledger.learning = False
    ledger.begin()
    ledger.observe(answer("gate/00000001-3/car", "blue"), 1.0)
    assert ledger.steady() == []
    assert ledger.counts == {Verdict.RIGHT: 1}


@pytest.mark.parametrize("ended", [Outcome.EXPIRED, Outcome.FAILED, None])
def test_what_is_not_answered_in_time_is_late(ledger: BystanderLedger, ended: Outcome | None) -> None:
    ledger.bystander_asks("gate/@alice/q1", "gate", QUESTION, 10.0, DEADLINE_S)
    if ended is not None:
        ledger.observe(outcome("gate/@alice/q1", ended), 11.0)
    ledger.check(10.0 + DEADLINE_S + READ_LAG_S)
    assert ledger.counts == ({} if ended is None else {Verdict.LATE: 1})
    assert ledger.waits_since_s(12.0) == (2.0 if ended is None else 0.0)
    ledger.check(10.0 + DEADLINE_S + READ_LAG_S + 0.1)
    assert ledger.counts == {Verdict.LATE: 1}
    # Too late is too late.
    ledger.observe(answer("gate/@alice/q1", "yes"), 40.0)
    assert ledger.counts == {Verdict.LATE: 1}


def test_an_answer_after_the_deadline_is_late_though_it_is_right(ledger: BystanderLedger) -> None:
    ledger.bystander_asks("gate/@alice/q1", "gate", QUESTION, 10.0, DEADLINE_S)
    ledger.observe(answer("gate/@alice/q1", "yes"), 10.0 + DEADLINE_S + READ_LAG_S + 0.1)
    ledger.bystander_asks("gate/@alice/q2", "gate", QUESTION, 10.0, DEADLINE_S)
    ledger.observe(answer("gate/@alice/q2", "yes", Outcome.DEGRADED), 11.0)
    assert ledger.counts == {Verdict.LATE: 2}


def test_a_reply_that_belongs_to_somebody_else_is_foreign(ledger: BystanderLedger) -> None:
    ledger.replied("alice", answer("gate/@alice/q1", "yes"))
    assert ledger.foreign == []
    ledger.replied("mallory", answer("gate/@alice/q1", "yes"))
    ledger.replied("mallory", answer("gate/00000001-1/car", "yes"))
    assert ledger.counts == {Verdict.FOREIGN: 2}
    assert ledger.foreign[0] == "mallory got gate/@alice/q1 of client/alice"
    ledger.begin()
    assert (ledger.counts, ledger.foreign) == ({}, [])


BEFORE = dict.fromkeys(MEMORY_BOUND_BYTES, 100 * MIB)


@pytest.mark.parametrize(
    ("verdicts", "foreign", "grown_mib", "problem"),
    [
        ({"right": 4}, [], {}, None),
        ({"right": 4, "wrong": 1}, [], {}, "wrong: 1 answer of bystanders"),
        ({"right": 4, "late": 2}, [], {}, "not answered in time: 2 questions of bystanders"),
        ({"right": 4, "foreign": 1}, ["mallory got it"], {}, "1 message reached somebody else: mallory got it"),
        ({}, [], {}, "no bystander was answered"),
        ({"right": 4}, [], {"worker": 300}, "the worker kept 300 MiB more than before"),
        ({"right": 4}, [], {"broker": 50, "edge": 50, "worker": 50}, None),
    ],
)
def test_each_thing_that_must_not_happen_lets_an_attack_through(
    verdicts: dict[str, int], foreign: list[str], grown_mib: dict[str, int], problem: str | None
) -> None:
    after = {kind: size + grown_mib.get(kind, 0) * MIB for kind, size in BEFORE.items()}
    problems = problems_of(verdicts, foreign, BEFORE, after)
    assert problems == ([] if problem is None else [problem])
    result = AttackResult("a", "identity", 1, 0, 0, verdicts, BEFORE, after, 1.0, tuple(problems))
    held = AttackResult("b", "identity", 1, 0, 0, {"right": 1}, BEFORE, BEFORE, 1.0, ())
    assert AttackReport(steady=1, seed=0, results=[held, result, held]).exit_status == (problem is not None)
