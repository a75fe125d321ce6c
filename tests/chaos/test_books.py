"""The books must find what was lost, and must not excuse it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentbus.chaos.books import REPORT_PATIENCE_S, Books
from latentbus.chaos.edge_log import EdgeLog, read_edge_log
from latentbus.chaos.faults import Strike, link_outage_s, recovered, recovery_s
from latentbus.chaos.plan import FaultKind, PlannedFault, Role
from pipeline.protocol.reducer import OutcomeReducer
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
def books() -> Books:
    """A standing and an ad-hoc query of one frame, opened at 100 s."""
    books = Books()
    books.asked(VISITOR, CAMERA, 99.0, DEADLINE_S)
    books.opened(CAMERA, open_message(), 100.0)
    return books


def edge_log(*ended: str) -> EdgeLog:
    return EdgeLog({}, dict.fromkeys(ended, 101.0))


def test_a_query_without_outcome_is_lost(books: Books) -> None:
    books.received(answer(outcome=None), 100.5)
    assert set(books.balance([]).lost) == {STANDING, VISITOR}
    books.received(answer(), 101.0)
    books.received(answer(VISITOR), 101.0)
    assert books.balance([]).lost == []
    assert books.by_outcome()["answered"] == 2
    assert len(books.rows) == 2


def test_only_standing_queries_die_with_their_edge(books: Books) -> None:
    books.edge_killed(FRAME.boot, 105.0)
    balance = books.balance([])
    assert balance.died_with_edge == [STANDING]
    assert balance.lost == [VISITOR]


def test_a_query_that_was_overdue_when_its_edge_was_killed_is_lost(books: Books) -> None:
    books.edge_killed(FRAME.boot, 110.0 + REPORT_PATIENCE_S)
    assert STANDING in books.balance([]).lost


def test_the_death_of_another_edge_excuses_nothing(books: Books) -> None:
    books.edge_killed(FRAME.boot + 1, 105.0)
    assert STANDING in books.balance([]).lost


def test_only_a_killed_broker_excuses_an_end_that_the_edge_alone_knows(books: Books) -> None:
    log = edge_log(STANDING, VISITOR)
    assert STANDING in books.balance([log]).lost
    books.broker_killed(98.0)
    books.broker_killed(101.5 + REPORT_PATIENCE_S)
    assert STANDING in books.balance([log]).lost
    books.broker_killed(101.5)
    balance = books.balance([log])
    assert balance.unheard == [STANDING]
    assert balance.lost == [VISITOR]


def test_repeats_and_conflicts_decide_nothing(books: Books) -> None:
    for message in (answer(), answer(), expired()):
        books.received(message, 101.0)
    assert (books.reducer.repeats, books.reducer.conflicts) == (1, 1)
    assert books.conflicts == {"answered, then expired": 1}
    assert books.rows[STANDING].outcome is Outcome.ANSWERED
    assert books.decided_twice() == 0


def test_a_reader_that_forgets_what_it_decided_is_found_out(books: Books) -> None:
    books.reducer = OutcomeReducer(capacity=1)
    for message in (answer(), answer(VISITOR), answer()):
        books.received(message, 101.0)
    assert books.decided_twice() == 1


def test_the_reply_to_the_client_is_no_repeat_but_counts_when_it_is_all_there_is(books: Books) -> None:
    books.received(answer(VISITOR), 101.0, reply=True)
    assert books.rows[VISITOR].outcome is Outcome.ANSWERED
    books.received(answer(VISITOR), 101.0, reply=True)
    assert (books.replies, books.reducer.repeats) == (1, 0)


def test_queries_are_known_from_their_end_and_from_frame_logs_too(books: Books, tmp_path: Path) -> None:
    other = standing_query_id(CAMERA, FrameId(0xB007, 5), "q1")
    never_opened = standing_query_id(CAMERA, FrameId(0xB007, 6), "q1")
    books.received(answer(other), 101.0)
    assert books.rows[other].outcome is Outcome.ANSWERED
    path = tmp_path / "frames.jsonl"
    lines = [
        {"kind": "frame", "camera": CAMERA, "frame": "0000b007-6", "query_ids": [never_opened, OTHER_VISITOR],
         "captured_s": 103.0},
        {"kind": "sent", "camera": CAMERA, "frame": "0000b007-6", "message": "open"},
        {"kind": "ended", "query_id": OTHER_VISITOR, "at_s": 104.0},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "fra')
    log = read_edge_log(path)
    books.read_edge_log(log, DEADLINE_S)
    assert log.ended_s == {OTHER_VISITOR: 104.0}
    assert books.rows[never_opened].due_s == 113.0
    assert [row.ad_hoc for row in (books.rows[never_opened], books.rows[OTHER_VISITOR])] == [False, True]
    assert never_opened in books.balance([log]).lost


def test_a_process_that_never_wrote_a_frame_log_asked_nothing(tmp_path: Path) -> None:
    assert read_edge_log(tmp_path / "none.jsonl") == EdgeLog()


def test_the_first_to_speak_for_an_attempt_owns_the_frame(books: Books) -> None:
    accept = Accept(worker="w1", frame=FRAME, attempt=1, lease_ms=5000)
    refine = Refine(worker="w2", frame=FRAME, attempt=1, start=3, stop=8, lease_ms=5000)
    assert books.owned_by_worker("w1") == []
    books.claimed(CAMERA, accept)
    books.claimed(CAMERA, refine)
    assert {row.query_id for row in books.owned_by_worker("w1")} == {STANDING, VISITOR}
    assert books.owned_by_worker("w2") == []
    books.received(answer(), 101.0)
    assert [row.query_id for row in books.owned_by_worker("w1")] == [VISITOR]
    assert [row.query_id for row in books.owned_by_cameras(frozenset({CAMERA}))] == [VISITOR]
    books.opened(CAMERA, open_message(attempt=2), 104.0)
    books.opened(CAMERA, open_message(attempt=2), 104.1)
    assert books.reopened == 1
    assert books.owned_by_worker("w1") == []


def strike(at_s: float, outage_s: float, books: Books, *hit: str) -> Strike:
    plan = PlannedFault(0, FaultKind.STALL_LINK, Role.WORKER, 0, outage_s)
    return Strike(plan, "w1", at_s, [books.rows[query_id] for query_id in hit], outage_s)


def test_recovery_counts_from_when_something_could_be_done(books: Books) -> None:
    books.received(answer(), 110.0)
    first = strike(101.0, 2.0, books, STANDING, VISITOR)
    overlapping = strike(102.0, 4.0, books)
    later = strike(109.0, 5.0, books)
    before = strike(90.0, 5.0, books)
    assert recovery_s(first, [first]) == pytest.approx([7.0])
    assert recovery_s(first, [later, overlapping, first, before]) == pytest.approx([3.0])
    assert recovery_s(later, [later]) == []


def test_a_standing_question_of_a_killed_edge_ends_but_does_not_recover(books: Books) -> None:
    hit = strike(101.0, 0.0, books, STANDING, VISITOR)
    books.edge_killed(FRAME.boot, 101.0)
    for query_id in (STANDING, VISITOR):
        books.received(answer(query_id), 109.0)
    assert [row.query_id for row in recovered(hit)] == [VISITOR], "that one comes back from the edge's disk"
    assert recovery_s(hit, [hit]) == pytest.approx([8.0])


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
