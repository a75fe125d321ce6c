"""The ledger must find what was lost, and must not excuse it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentbus.chaos.faults import Strike, link_outage_s, recovered, recovery_s
from latentbus.chaos.ledger import REPORT_PATIENCE_S, ChaosLedger
from latentbus.chaos.plan import FaultKind, PlannedFault, Role
from schemas.identity import ad_hoc_query_id, standing_query_id
from schemas.messages import Accept, Answer, Open, QueryOutcome, QueryRef, Refine
from schemas.types import FrameId, Outcome

FRAME = FrameId(0xB007, 4)
CAMERA = "gate"
STANDING = standing_query_id(CAMERA, FRAME, "q1")
VISITOR = ad_hoc_query_id(CAMERA, "alice", "visitor-1")
OTHER_VISITOR = ad_hoc_query_id(CAMERA, "bob", "visitor-1")
DETECTION_S = 7.5
DEADLINE_S = 10.0


def open_message(attempt: int = 1, frame: FrameId = FRAME) -> Open:
    queries = (QueryRef("q1", 10_000, b"digest-1"), QueryRef("visitor-1", 10_000, b"digest-2", "alice"))
    return Open(
        frame=frame, attempt=attempt, site="north", fingerprint=b"abcd", queries=queries, stop=3, payload=b"latents"
    )


def owner(query_id: str) -> str:
    return "client/alice" if "/@" in query_id else "site/north"


def answer(query_id: str = STANDING, outcome: str | None = "answered", text: str = "yes", worker: str = "w1") -> Answer:
    return Answer.model_validate(
        {"query_id": query_id, "owner": owner(query_id), "camera": CAMERA, "frame": FRAME, "attempt": 1,
         "question_id": query_id.rsplit("/", 1)[-1], "worker": worker, "text": text, "score": 0.9, "latents": 8,
         "payload_bytes": 20, "looks": 2, "outcome": None if outcome is None else Outcome(outcome)}
    )  # fmt: skip


def expired(query_id: str = STANDING) -> QueryOutcome:
    return QueryOutcome(
        query_id=query_id, owner=owner(query_id), camera=CAMERA, frame=FRAME, question_id="q1", outcome=Outcome.EXPIRED,
        reason="deadline",
    )  # fmt: skip


@pytest.fixture
def ledger() -> ChaosLedger:
    """A standing and an ad-hoc query of one frame, opened at 100 s."""
    ledger = ChaosLedger()
    ledger.asked(VISITOR, CAMERA, "visitor-1", ad_hoc=True, asked_s=99.0, due_s=99.0 + DEADLINE_S)
    ledger.opened(CAMERA, open_message(), 100.0)
    return ledger


def read_log(ledger: ChaosLedger, path: Path, *lines: dict[str, Any]) -> None:
    """The frame log of a process that was killed within a line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "fra')
    ledger.read_frame_logs([path, path.with_name("never-begun.jsonl")], DEADLINE_S)


def test_a_query_without_outcome_is_lost(ledger: ChaosLedger) -> None:
    ledger.observe(answer(outcome=None), 100.5)
    assert set(ledger.balance().lost) == {STANDING, VISITOR}
    ledger.observe(answer(), 101.0)
    ledger.observe(answer(VISITOR), 101.0)
    assert ledger.balance().lost == []
    assert ledger.by_outcome()["answered"] == 2
    assert len(ledger.entries) == 2


def test_only_standing_queries_die_with_their_edge(ledger: ChaosLedger) -> None:
    ledger.edge_killed(FRAME.boot, 105.0)
    balance = ledger.balance()
    assert balance.died_with_edge == [STANDING]
    assert balance.lost == [VISITOR]


def test_a_query_that_was_overdue_when_its_edge_was_killed_is_lost(ledger: ChaosLedger) -> None:
    ledger.edge_killed(FRAME.boot, 110.0 + REPORT_PATIENCE_S)
    assert STANDING in ledger.balance().lost


def test_the_death_of_another_edge_excuses_nothing(ledger: ChaosLedger) -> None:
    ledger.edge_killed(FRAME.boot + 1, 105.0)
    assert STANDING in ledger.balance().lost


def test_only_a_killed_broker_excuses_an_end_that_the_edge_alone_knows(ledger: ChaosLedger, tmp_path: Path) -> None:
    ends = ({"kind": "ended", "query_id": query_id, "at_s": 101.0} for query_id in (STANDING, VISITOR))
    read_log(ledger, tmp_path / "frames.jsonl", *ends)
    assert STANDING in ledger.balance().lost
    ledger.broker_killed(98.0)
    ledger.broker_killed(101.5 + REPORT_PATIENCE_S)
    assert STANDING in ledger.balance().lost
    ledger.broker_killed(101.5)
    balance = ledger.balance()
    assert balance.unheard == [STANDING]
    assert balance.lost == [VISITOR]


def test_a_provisional_answer_alone_asks_nothing(ledger: ChaosLedger) -> None:
    unknown = standing_query_id(CAMERA, FrameId(0xB007, 9), "q1")
    assert ledger.observe(answer(unknown, outcome=None), 101.0) is None
    assert unknown not in ledger.entries


def test_queries_are_known_from_their_end_and_from_frame_logs_too(ledger: ChaosLedger, tmp_path: Path) -> None:
    other = standing_query_id(CAMERA, FrameId(0xB007, 5), "q1")
    never_opened = standing_query_id(CAMERA, FrameId(0xB007, 6), "q1")
    ledger.observe(answer(other), 101.0)
    assert ledger.entries[other].outcome is Outcome.ANSWERED
    read_log(
        ledger,
        tmp_path / "frames.jsonl",
        {"kind": "frame", "camera": CAMERA, "frame": "0000b007-6", "query_ids": [never_opened, OTHER_VISITOR],
         "captured_s": 103.0},
        {"kind": "sent", "camera": CAMERA, "frame": "0000b007-6", "message": "open"},
        {"kind": "ended", "query_id": OTHER_VISITOR, "at_s": 104.0},
    )  # fmt: skip
    assert ledger.entries[never_opened].due_s == 113.0
    assert [ledger.entries[key].ad_hoc for key in (never_opened, OTHER_VISITOR)] == [False, True]
    assert never_opened in ledger.balance().lost


def test_the_first_to_speak_for_an_attempt_owns_the_frame(ledger: ChaosLedger) -> None:
    accept = Accept(worker="w1", frame=FRAME, attempt=1, lease_ms=5000)
    refine = Refine(worker="w2", frame=FRAME, attempt=1, start=3, stop=8, lease_ms=5000)
    assert ledger.owned_by_worker("w1") == []
    ledger.claimed(CAMERA, accept)
    ledger.claimed(CAMERA, refine)
    assert {row.query_id for row in ledger.owned_by_worker("w1")} == {STANDING, VISITOR}
    assert ledger.owned_by_worker("w2") == []
    ledger.observe(answer(), 101.0)
    assert [row.query_id for row in ledger.owned_by_worker("w1")] == [VISITOR]
    assert [row.query_id for row in ledger.owned_by_cameras(frozenset({CAMERA}))] == [VISITOR]
    ledger.opened(CAMERA, open_message(attempt=2), 104.0)
    ledger.opened(CAMERA, open_message(attempt=2), 104.1)
    assert ledger.reopened == 1
    assert ledger.owned_by_worker("w1") == []


def strike(at_s: float, outage_s: float, ledger: ChaosLedger, *hit: str) -> Strike:
    plan = PlannedFault(0, FaultKind.STALL_LINK, Role.WORKER, 0, outage_s)
    return Strike(plan, "w1", at_s, [ledger.entries[query_id] for query_id in hit], outage_s)


def test_recovery_counts_from_when_something_could_be_done(ledger: ChaosLedger) -> None:
    ledger.observe(answer(), 110.0)
    first = strike(101.0, 2.0, ledger, STANDING, VISITOR)
    overlapping = strike(102.0, 4.0, ledger)
    later = strike(109.0, 5.0, ledger)
    before = strike(90.0, 5.0, ledger)
    assert recovery_s(first, [first], ledger.orphans) == pytest.approx([7.0])
    assert recovery_s(first, [later, overlapping, first, before], ledger.orphans) == pytest.approx([3.0])
    assert recovery_s(later, [later], ledger.orphans) == []


def test_a_standing_question_of_a_killed_edge_ends_but_does_not_recover(ledger: ChaosLedger) -> None:
    hit = strike(101.0, 0.0, ledger, STANDING, VISITOR)
    ledger.edge_killed(FRAME.boot, 101.0)
    for query_id in (STANDING, VISITOR):
        ledger.observe(answer(query_id), 109.0)
    assert [entry.query_id for entry, _ in recovered(hit, ledger.orphans)] == [VISITOR], (
        "that one comes back from the edge's disk"
    )
    assert recovery_s(hit, [hit], ledger.orphans) == pytest.approx([8.0])


@pytest.mark.parametrize(
    ("kind", "role", "outage_s"),
    [
        (FaultKind.CUT_LINK, Role.WORKER, 0.0),
        (FaultKind.CUT_LINK, Role.EDGE, 12.0),
        (FaultKind.STALL_LINK, Role.WORKER, DETECTION_S),
        (FaultKind.STALL_LINK, Role.EDGE, 12.0),
        (FaultKind.SLOW_LINK, Role.WORKER, DETECTION_S),
        (FaultKind.SLOW_LINK, Role.EDGE, 12.0),
    ],
)
def test_a_broken_link_leaves_nobody_who_could_act_on_the_edge_s_side_only(
    kind: FaultKind, role: Role, outage_s: float
) -> None:
    assert link_outage_s(PlannedFault(0, kind, role, 0, 12.0), DETECTION_S) == outage_s
