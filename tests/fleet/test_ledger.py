"""The ledger: what was asked, how it ended first, and what came of it besides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from latentbus.fleet.frame_log import FrameLogReader
from latentbus.fleet.ledger import READ_LAG_S, OutcomeLedger, percentile
from pipeline.protocol.reducer import OutcomeReducer
from schemas.identity import ad_hoc_query_id, standing_query_id
from schemas.messages import Answer, QueryOutcome
from schemas.types import FrameId, Outcome

FRAME = FrameId(0xB007, 4)
STANDING = standing_query_id("gate", FRAME, "q1")
AD_HOC = ad_hoc_query_id("gate", "alice", "q1")


def answer(
    query_id: str = STANDING, text: str = "yes", outcome: Outcome | None = Outcome.ANSWERED, **more: Any
) -> Answer:
    owner = "site/north" if query_id == STANDING else "client/alice"
    return Answer.model_validate(
        {
            "query_id": query_id, "owner": owner, "camera": "gate", "frame": FRAME, "attempt": 1, "question_id": "q1",
            "worker": "w1", "outcome": outcome, "text": text, "score": 0.9, "latents": 3, "payload_bytes": 9,
            "looks": 1, **more,
        }
    )  # fmt: skip


def expired(query_id: str = STANDING) -> QueryOutcome:
    return QueryOutcome(
        query_id=query_id, owner="site/north", camera="gate", frame=FRAME, question_id="q1", outcome=Outcome.EXPIRED
    )


@pytest.fixture
def ledger() -> OutcomeLedger:
    """Both queries are asked at 100 s and due at 110 s."""
    ledger = OutcomeLedger()
    ledger.asked(STANDING, "gate", "q1", ad_hoc=False, asked_s=100.0, due_s=110.0)
    ledger.asked(AD_HOC, "gate", "q1", ad_hoc=True, asked_s=100.0, due_s=110.0)
    return ledger


def test_the_first_terminal_counts_and_the_others_are_repeats_or_conflicts(ledger: OutcomeLedger) -> None:
    decided = ledger.observe(answer(), 101.0)
    assert decided is ledger.entries[STANDING]
    for later in (answer(), answer(text="no"), expired(), answer(outcome=None, text="maybe")):
        assert ledger.observe(later, 102.0) is None
    assert (decided.outcome, decided.text, decided.decided_s) == (Outcome.ANSWERED, "yes", 101.0)
    assert (ledger.reducer.repeats, ledger.reducer.conflicts) == (1, 2)
    assert ledger.conflicts == {"answered, then answered": 1, "answered, then expired": 1}
    assert (decided.provisional, decided.decisions, ledger.decided_twice) == (None, 1, 0)
    assert set(ledger.undecided) == {AD_HOC}
    assert ledger.by_outcome()["answered"] == 1
    assert set(ledger.by_outcome()) == set(map(str, Outcome))


def test_a_reply_repeats_what_is_public_by_design(ledger: OutcomeLedger) -> None:
    assert ledger.observe(answer(AD_HOC), 101.0, reply=True) is not None
    assert ledger.observe(answer(AD_HOC), 101.0, reply=True) is None
    assert ledger.observe(answer(AD_HOC), 101.0) is None
    assert (ledger.replies, ledger.reducer.repeats) == (1, 1)


def test_first_and_latest_answers_are_kept_and_a_failure_is_no_first_one(ledger: OutcomeLedger) -> None:
    for number, latents in enumerate((3, 5)):
        ledger.observe(answer(outcome=None, text="no", latents=latents, looks=number + 1), 101.0 + number)
    ledger.observe(answer(latents=8, looks=3), 103.0)
    entry = ledger.entries[STANDING]
    assert entry.first is not None
    assert entry.provisional is not None
    assert entry.answer is not None
    assert (entry.first.latents, entry.provisional.latents, entry.answer.latents) == (3, 5, 8)
    assert (entry.first_s, entry.refined) == (101.0, True)
    ledger.observe(answer(AD_HOC, text="", outcome=Outcome.FAILED, reason="internal: bug"), 101.0)
    assert ledger.entries[AD_HOC].first_s is None


def test_an_outcome_after_the_deadline_is_late_and_none_is_overdue(ledger: OutcomeLedger) -> None:
    last_s = 110.0 + READ_LAG_S
    assert ledger.overdue(last_s) == []
    assert {entry.query_id for entry in ledger.overdue(last_s + 0.1)} == {STANDING, AD_HOC}
    ledger.observe(answer(), last_s)
    ledger.observe(answer(AD_HOC), last_s + 0.1)
    assert (ledger.late, ledger.overdue(math.inf)) == (1, [])


def test_a_question_that_is_asked_again_has_more_time(ledger: OutcomeLedger) -> None:
    entry = ledger.asked(AD_HOC, "gate", "q1", ad_hoc=True, asked_s=105.0, due_s=115.0)
    assert (entry.asked_s, entry.due_s) == (100.0, 115.0)
    assert ledger.asked(AD_HOC, "gate", "q1", ad_hoc=True, asked_s=106.0, due_s=104.0).due_s == 115.0


def test_an_answer_may_come_before_it_is_known_who_asked() -> None:
    ledger = OutcomeLedger()
    ledger.observe(answer(), 101.0)
    assert ledger.entries[STANDING].asked_s is None
    entry = ledger.asked(STANDING, "gate", "q1", ad_hoc=False, asked_s=100.0)
    assert (entry.asked_s, entry.outcome, ledger.undecided) == (100.0, Outcome.ANSWERED, {})


def test_a_reader_that_forgets_what_it_decided_is_found_out(ledger: OutcomeLedger) -> None:
    ledger.reducer = OutcomeReducer(capacity=1)
    for message in (answer(), answer(AD_HOC), answer(), answer(AD_HOC), answer()):
        ledger.observe(message, 101.0)
    assert ledger.decided_twice == 2
    assert ledger.by_outcome()["answered"] == 2


def test_a_small_ledger_forgets_the_oldest_and_keeps_its_counts() -> None:
    ledger = OutcomeLedger(capacity=2)
    keys = [standing_query_id("gate", FrameId(1, number), "q1") for number in range(5)]
    for key in keys:
        ledger.observe(answer(key, owner="site/north"), 101.0)
    assert list(ledger.entries) == keys[-2:]
    assert ledger.by_outcome()["answered"] == 5


def test_a_frame_log_is_read_line_by_line_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    log = FrameLogReader(path)
    assert list(log.new_records()) == []
    records = [{"kind": "frame", "frame": "0000b007-4"}, {"kind": "sent", "frame": None}, {"kind": "source"}]
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_text(text[:-20])
    assert [record["frame"] for record in log.new_records()] == [FRAME]
    path.write_text(text + '{"kind": "fra')
    assert [record["kind"] for record in log.new_records()] == ["sent", "source"]
    assert list(log.new_records()) == []


def test_a_percentile_of_nothing_is_none() -> None:
    assert percentile([], 50) is None
    assert percentile([1.0, 3.0], 50) == 2.0
