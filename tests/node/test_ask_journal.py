from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from pipeline.node import ask_journal as journal_module
from pipeline.node.ask_journal import AskJournal
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.journal_requests import (
    Admission,
    Admit,
    Admitted,
    Decide,
    Decided,
    MarkTold,
    MoveToFile,
    NotStored,
    ReadUnfinished,
    Unfinished,
)
from schemas.errors import ArtifactError
from schemas.identity import ad_hoc_query_id
from schemas.messages import Ask, QueryOutcome
from schemas.types import AnswerType, FrameId, Outcome

REPLY = ReplyTo("lb/v2/reply/client/gate/q1", b"\x00\xff")
ASK = Ask(query_id="q1", text="Is the gate open? \N{AUTOMOBILE}", answer_type=AnswerType.YES_NO, deadline_ms=30_000)


class Wall:
    """A wall clock that tests set."""

    def __init__(self) -> None:
        self.time_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time_s


def key(query_id: str) -> str:
    return ad_hoc_query_id("gate", "client", query_id)


def ended(query_id: str = "q1", outcome: Outcome = Outcome.EXPIRED) -> QueryOutcome:
    return QueryOutcome(
        query_id=key(query_id),
        owner="client/client",
        camera="gate",
        frame=FrameId(1, 2),
        question_id=query_id,
        outcome=outcome,  # type: ignore[arg-type]
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "asks.sqlite3"


def test_what_was_admitted_survives_a_process_that_never_closed_its_journal(path: Path) -> None:
    wall = Wall()
    crashed = AskJournal(path, wall_s=wall)
    assert crashed.admit("gate", "client", ASK, REPLY)[0] is Admission.NEW
    wall.time_s += 12.0
    restarted = AskJournal(path, wall_s=wall)
    (stored,) = restarted.unfinished()
    assert (stored.ask, stored.camera, stored.reply_to, stored.terminal) == (ASK, "gate", REPLY, None)
    assert stored.remaining_s == pytest.approx(18.0)
    crashed.close()
    restarted.close()


def test_it_is_on_disk_when_admit_returns(path: Path) -> None:
    journal = AskJournal(path)
    journal.admit("gate", "client", ASK, None)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT query_id FROM ask").fetchall() == [(key("q1"),)]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    assert journal._database.execute("PRAGMA synchronous").fetchone() == (2,)
    journal.close()


def test_a_clock_that_was_set_back_gives_no_extra_time() -> None:
    wall = Wall()
    journal = AskJournal(None, wall_s=wall)
    journal.admit("gate", "client", ASK, None)
    wall.time_s -= 3600.0
    assert journal.unfinished()[0].remaining_s == pytest.approx(30.0)
    journal.close()


def test_asking_again_is_harmless_and_the_newer_reply_topic_counts() -> None:
    journal = AskJournal(None)
    journal.admit("gate", "client", ASK, None)
    admission, stored = journal.admit("gate", "client", ASK, REPLY)
    assert (admission, stored.reply_to) == (Admission.RUNNING, REPLY)
    assert journal.admit("gate", "client", ASK, None)[1].reply_to == REPLY
    assert len(journal.unfinished()) == 1
    journal.close()


def test_the_first_terminal_stays_and_answers_who_asks_again() -> None:
    journal = AskJournal(None)
    journal.admit("gate", "client", ASK, REPLY)
    stored = journal.decide(key("q1"), ended(), told=False)
    assert stored is not None
    assert stored.reply_to == REPLY
    assert journal.decide(key("q1"), ended(outcome=Outcome.FAILED), told=True) is None
    admission, again = journal.admit("gate", "client", ASK, None)
    assert (admission, again.terminal) == (Admission.DECIDED, ended())
    journal.close()


def test_an_outcome_that_was_not_told_is_unfinished() -> None:
    journal = AskJournal(None)
    journal.admit("gate", "client", ASK, None)
    journal.decide(key("q1"), ended(), told=False)
    assert [stored.terminal for stored in journal.unfinished()] == [ended()]
    journal.told(key("q1"))
    assert journal.unfinished() == []
    journal.close()


@pytest.mark.parametrize(
    "changed",
    [ASK.model_copy(update={"text": "Another?"}), ASK.model_copy(update={"answer_type": AnswerType.WORD})],
)
def test_one_query_id_of_a_client_at_a_camera_stands_for_one_question(changed: Ask) -> None:
    journal = AskJournal(None)
    journal.admit("gate", "client", ASK, None)
    assert journal.admit("gate", "client", changed, REPLY)[0] is Admission.CONFLICT
    assert journal.unfinished()[0].ask == ASK
    journal.close()


def test_equal_ids_of_two_clients_or_at_two_cameras_are_different_questions(path: Path) -> None:
    journal = AskJournal(path)
    changed = ASK.model_copy(update={"text": "Another?"})
    for camera, client, ask in (("gate", "client", ASK), ("gate", "other", changed), ("yard", "client", changed)):
        assert journal.admit(camera, client, ask, None)[0] is Admission.NEW
    journal.decide(key("q1"), ended(), told=True)
    assert journal.admit("gate", "other", changed, None)[0] is Admission.RUNNING
    assert {(stored.camera, stored.client) for stored in journal.unfinished()} == {
        ("gate", "other"),
        ("yard", "client"),
    }
    journal.close()


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_OPEN_ASKS", 3)
    monkeypatch.setattr(journal_module, "MAX_DECIDED", 2)
    wall = Wall()
    journal = AskJournal(None, wall_s=wall)
    for number in range(3):
        wall.time_s += 1
        journal.admit("gate", "client", ASK.model_copy(update={"query_id": f"q{number}"}), None)
    late = ASK.model_copy(update={"query_id": "late"})
    assert journal.admit("gate", "client", late, None)[0] is Admission.FULL
    for number in range(3):
        journal.decide(key(f"q{number}"), ended(f"q{number}"), told=True)
    count = journal._database.execute("SELECT count(*) FROM ask").fetchone()
    assert count == (2,)
    assert (
        journal.admit("gate", "client", ASK.model_copy(update={"query_id": "q0"}), None)[0] is Admission.NEW
    )  # forgotten
    assert journal.admit("gate", "client", ASK.model_copy(update={"query_id": "q2"}), None)[0] is Admission.DECIDED
    journal.close()


def test_a_damaged_file_is_put_aside_and_the_site_goes_on(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database, it is a power cut" * 100)
    journal = AskJournal(path)
    assert journal.admit("gate", "client", ASK, None)[0] is Admission.NEW
    assert path.with_suffix(".damaged").read_bytes().startswith(b"this is no database")
    journal.close()


def test_files_of_another_version_are_put_aside_one_by_one(path: Path) -> None:
    path.parent.mkdir()
    for aside in (path.with_suffix(".v9"), path.with_suffix(".v9-2")):
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 9")
        database.close()
        journal = AskJournal(path)
        assert journal.admit("gate", "client", ASK, None)[0] is Admission.NEW
        assert journal.counters["files_set_aside"] == 1
        journal.close()
        assert aside.exists()
        path.unlink()


OF_VERSION_1 = """
CREATE TABLE ask (
    query_id TEXT PRIMARY KEY, camera TEXT NOT NULL, text TEXT NOT NULL, answer_type TEXT NOT NULL,
    deadline_ms INTEGER NOT NULL, asked_s REAL NOT NULL, reply_topic TEXT, correlation_data BLOB, terminal BLOB,
    told INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX undecided ON ask (asked_s) WHERE terminal IS NULL;
INSERT INTO ask VALUES ('q1', 'gate', 'Is there a car?', 'yes_no', 30000, 1800000000.0, NULL, NULL, NULL, 0);
PRAGMA user_version = 1;
"""


def test_a_journal_of_wire_version_1_is_set_aside_whole_with_a_word(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.executescript(OF_VERSION_1)
    database.close()
    old = path.read_bytes()
    with structlog.testing.capture_logs() as said:
        journal = AskJournal(path)
    aside = path.with_suffix(".v1")
    assert said == [
        {
            "event": "the journal of ad-hoc questions is of another version: starting a new one",
            "kept_as": str(aside),
            "log_level": "error",
        }
    ]
    assert aside.read_bytes() == old
    # Its questions named no client, so that none of them is asked or answered in somebody's name.
    assert journal.unfinished() == []
    assert journal.admit("gate", "me", ASK, None)[0] is Admission.NEW
    journal.close()


def _journal_bytes(path: Path) -> bytes:
    journal = AskJournal(path)
    for number in range(6):
        journal.admit("gate", "client", ASK.model_copy(update={"query_id": f"q{number}"}), REPLY)
        if number % 2:
            journal.decide(key(f"q{number}"), ended(f"q{number}"), told=False)
    journal._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.close()
    data = path.read_bytes()
    path.unlink()
    return data


def test_whatever_happened_to_the_file_the_journal_opens_and_takes_questions(path: Path) -> None:
    good = _journal_bytes(path)
    draw = random.Random(13)
    for case in range(150):
        damaged = bytearray(good)
        if case % 3 == 0:
            del damaged[draw.randrange(len(damaged)) :]
        for _ in range(draw.choice([1, 4, 64])):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        journal = AskJournal(path)
        journal.unfinished()
        assert journal.admit("gate", "client", ASK.model_copy(update={"query_id": "new"}), None)[0] is Admission.NEW
        journal.close()
        for leftover in path.parent.iterdir():
            leftover.unlink()


@pytest.mark.parametrize(
    "change",
    [
        "answer_type = 'riddle'",
        "camera = 'No Name'",
        "client = 'other'",
        "options = '{'",
        f"options = '{'[' * 100_000}'",
        "text = CAST(x'ff' AS TEXT)",
        "text = ''",
        "deadline_ms = -1",
        "asked_s = 9e999",
        "reply_topic = 'home/x'",
        "terminal = x'00'",
        "terminal = CAST('{}' AS BLOB)",
    ],
)
def test_a_row_that_is_no_question_costs_itself_alone(path: Path, change: str) -> None:
    path.write_bytes(_journal_bytes(path))
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE ask SET {change} WHERE ask_id = 'q0'")
    database.close()
    journal = AskJournal(path)
    assert {stored.ask.query_id for stored in journal.unfinished()} == {"q1", "q2", "q3", "q4", "q5"}
    assert journal.counters["rows_dropped"] == 1
    assert journal.admit("gate", "client", ASK.model_copy(update={"query_id": "q0"}), None)[0] is Admission.NEW
    journal.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="state_dir"):
        AskJournal(tmp_path / "file" / "asks.sqlite3")


def test_requests_of_a_machine_are_done_and_what_fails_is_told(path: Path) -> None:
    journal = AskJournal(path)
    for number in range(3):
        asked = ASK.model_copy(update={"query_id": f"q{number}"})
        admitted = journal.perform(Admit(1, "gate", "client", asked, None))
        assert isinstance(admitted, Admitted)
        assert admitted.admission is Admission.NEW
        decided = journal.perform(Decide(2, key(f"q{number}"), ended(f"q{number}"), False))
        assert isinstance(decided, Decided)
        assert decided.stored is not None
    assert journal.perform(MarkTold(3, key("q1"))) == Decided(None)
    unfinished = journal.perform(ReadUnfinished(4))
    assert isinstance(unfinished, Unfinished)
    assert [stored.ask.query_id for stored in unfinished.asks] == ["q0", "q2"]
    assert journal.perform(MoveToFile(5)) == Unfinished(())
    journal._database.execute("PRAGMA query_only = 1")
    refused = journal.perform(Admit(6, "gate", "client", ASK.model_copy(update={"query_id": "q9"}), None))
    assert isinstance(refused, NotStored)
    assert "readonly" in refused.problem
    journal.close()


def test_a_question_about_the_past_comes_back_as_it_was_asked(path: Path) -> None:
    journal = AskJournal(path)
    asks = [
        Ask(query_id="ago", text="Was it open?", ago_ms=5_000),
        Ask(query_id="frame", text="What colour?", frame=FrameId(0x1A2B3C4D, 17)),
    ]
    for ask in asks:
        journal.admit("gate", "client", ask, None)
    journal.close()
    assert [stored.ask for stored in AskJournal(path).unfinished()] == asks


def test_a_journal_of_version_2_is_taken_over_with_its_questions(path: Path) -> None:
    journal = AskJournal(path)
    journal.admit("gate", "client", Ask(query_id="q1", text="Is it open?"), REPLY)
    journal.close()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "ALTER TABLE ask DROP COLUMN ago_ms; ALTER TABLE ask DROP COLUMN frame; PRAGMA user_version = 2;"
        )
    again = AskJournal(path)
    (stored,) = again.unfinished()
    assert (stored.ask.text, stored.reply_to, stored.ask.of_the_past) == ("Is it open?", REPLY, False)
    assert not again.counters["files_set_aside"]
