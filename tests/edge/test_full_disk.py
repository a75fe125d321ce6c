"""A disk that is full: nobody who asks hears nothing, and what was decided stays decided."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_nodes import asks as asks_module
from edge_nodes.journal import AskJournal, JournalThread
from pipeline.config.settings import BrokerSettings, CameraSettings, EdgeSettings, LatentbusSettings
from schemas.errors import ArtifactError
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.types import Outcome
from tests.edge.running import listening, running
from tests.edge.support import ScriptedWorker, settle
from tests.edge.test_asks import OTHER, REPLY, Desk, answer, ask, key

LONG = "yes " * 500


class SmallDisk:
    """A desk whose journal's file can be kept from growing, as on a disk that is full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = AskJournal(path)
        self.site = Desk(self.journal)

    def fill(self) -> None:
        database = self.journal._database
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")

    def free(self) -> None:
        self.journal._database.execute("PRAGMA max_page_count = 1000000")

    async def restarted(self) -> Desk:
        """The next process, after this one was killed."""
        desk = Desk(AskJournal(self.path))
        await desk.desk.restore()
        return desk


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SmallDisk]:
    small = SmallDisk(tmp_path / "asks.sqlite3")
    yield small
    await asyncio.gather(*small.site.tasks)
    await small.site.journal.close()


def long_answer(query_id: str = "q1") -> Answer:
    """One that needs a page of its own."""
    return answer(query_id).model_copy(update={"text": LONG[:2_000].strip()})


def failed(query_id: str = "q1") -> QueryOutcome:
    return QueryOutcome(
        query_id=key(query_id),
        owner="client/client",
        camera="gate",
        frame=answer().frame,
        question_id=query_id,
        outcome=Outcome.FAILED,
        reason="no worker answered " * 10,
    )


async def admitted(disk: SmallDisk, count: int = 3) -> None:
    for number in range(1, count + 1):
        await disk.site.receive("gate", ask(f"q{number}"), REPLY)
    disk.site.desk.take("gate", 64)
    disk.fill()


async def test_a_question_that_was_decided_on_a_full_disk_is_answered_when_it_is_asked_again(disk: SmallDisk) -> None:
    await admitted(disk)
    for query_id in ("q1", "q2", "q3"):
        await disk.site.desk.decided(long_answer(query_id), published=True)
    assert disk.site.desk.counters["not_stored"] > 0
    disk.site.replied.clear()
    for query_id in ("q1", "q2", "q3"):
        await disk.site.receive("gate", ask(query_id), OTHER)
    assert disk.site.replied == [(OTHER, long_answer(query_id)) for query_id in ("q1", "q2", "q3")]
    assert not disk.site.desk.waiting("gate"), "it is not computed again"
    assert disk.site.reported == []


async def test_a_running_question_that_is_asked_again_on_a_full_disk_is_not_ended_and_gets_its_answer(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admitted(disk)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(disk.journal, "admit", full)
    await disk.site.receive("gate", ask(), OTHER)
    assert (disk.site.reported, disk.site.replied) == ([], [])
    await disk.site.desk.decided(answer(), published=True)
    assert disk.site.replied == [(OTHER, answer())]
    await disk.site.receive("gate", ask("new"), OTHER)
    assert disk.site.reported[0].reason == "the edge cannot store questions"


def test_an_address_that_cannot_be_stored_keeps_nobody_from_the_answer(tmp_path: Path) -> None:
    journal = AskJournal(tmp_path / "asks.sqlite3")
    journal.admit("gate", "client", ask(), REPLY)
    journal._database.execute("PRAGMA query_only = 1")
    admission, stored = journal.admit("gate", "client", ask(), OTHER)
    assert (admission.value, stored.reply_to) == ("running", OTHER)
    assert journal.counters["addresses_not_stored"] == 1
    journal.close()


async def test_what_a_full_disk_did_not_take_is_stored_once_there_is_room_and_decided_once(disk: SmallDisk) -> None:
    await admitted(disk)
    await disk.site.desk.decided(long_answer("q1"), published=True)
    await disk.site.desk.decided(long_answer("q2"), published=True)
    await disk.site.desk.decided(failed("q3"), published=False)
    for told in disk.site.broker_has_it:
        told()
    await asyncio.gather(*disk.site.tasks)
    await disk.site.desk.store_again()
    disk.free()
    await disk.site.desk.store_again()
    assert disk.site.desk._unstored == {}
    after = await disk.restarted()
    assert not after.desk.waiting("gate")
    assert after.reported == []
    for query_id in ("q1", "q2", "q3"):
        await after.receive("gate", ask(query_id), OTHER)
    assert [message.query_id for _, message in after.replied] == [key("q1"), key("q2"), key("q3")]
    await after.journal.close()


async def test_it_is_tried_again_and_again_while_the_process_runs(disk: SmallDisk) -> None:
    await admitted(disk, 1)
    with capture_logs() as logs:
        for _ in range(3):  # the first one that finds no room, and repeats of it
            await disk.site.desk.decided(long_answer("q1"), published=True)
    assert [line["fix"] for line in logs if "fix" in line] == ["free space on the disk of state_dir"]
    keeping = asyncio.create_task(disk.site.desk.keep_journal())
    began_s = disk.site.clock.now_s()
    while disk.site.clock.now_s() < began_s + 3 * asks_module.RETRY_S:
        await settle()
    assert disk.site.desk._unstored
    disk.free()
    while disk.site.desk._unstored:
        await settle()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_an_end_that_is_on_its_way_to_the_disk_when_the_disk_is_tried_again_is_stored_once(
    disk: SmallDisk,
) -> None:
    for query_id in ("q1", "q2"):
        await disk.site.receive("gate", ask(query_id), REPLY)
    await asyncio.gather(
        disk.site.desk.decided(answer("q1"), published=True),
        disk.site.desk.decided(answer("q2"), published=True),
        disk.site.desk.store_again(),
    )
    assert disk.site.desk._unstored == {}
    assert disk.site.desk.counters["stored_late"] == 0
    disk.site.replied.clear()
    await disk.site.receive("gate", ask("q1"), OTHER)
    assert disk.site.replied == [(OTHER, answer("q1"))]


# ---- no journal at all ----------------------------------------------------------------------------------------------


async def test_a_journal_in_memory_moves_to_its_file_once_it_can_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "state" / "asks.sqlite3"
    before = AskJournal(path)
    before.admit("gate", "client", ask("earlier"), REPLY)
    before.close()
    journal = AskJournal(None)
    site = Desk(journal)
    await site.receive("gate", ask("new"), REPLY)
    await site.receive("gate", ask("done"), REPLY)
    await site.desk.decided(answer("done"), published=True)
    keeping = asyncio.create_task(site.desk.keep_journal(path))
    while site.desk.counters["restored"] == 0:
        await settle()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert {query.question_id for query in site.desk.take("gate", 64)} == {"new", "earlier"}
    await site.journal.close()
    later = AskJournal(path)
    assert {stored.ask.query_id for stored in later.unfinished()} == {"earlier", "new"}
    assert later.admit("gate", "client", ask("done"), None)[0].value == "decided"
    later.close()


def test_a_file_that_still_cannot_be_used_leaves_the_journal_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = AskJournal(None)
    journal.admit("gate", "client", ask(), REPLY)
    with pytest.raises(ArtifactError):
        journal.move_to(tmp_path / "file" / "asks.sqlite3")
    assert [stored.ask for stored in journal.unfinished()] == [ask()]
    journal.close()


@pytest.mark.broker
async def test_an_edge_starts_without_its_journal_and_opens_it_when_the_disk_has_room(
    broker_settings: BrokerSettings, codec_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = False
    open_file = AskJournal._opened

    def full_at_first(self: AskJournal, path: Path) -> sqlite3.Connection:
        if not room:
            raise ArtifactError(str(path), "cannot be opened: database or disk is full")
        return open_file(self, path)

    monkeypatch.setattr(AskJournal, "_opened", full_at_first)
    monkeypatch.setattr(asks_module, "RETRY_S", 0.01)
    edge = EdgeSettings(
        site="depot", codec=codec_dir, cameras={"gate": CameraSettings(source="test:1")}, state_dir=tmp_path
    )
    path = tmp_path / "asks-depot.sqlite3"
    moved = asyncio.Event()
    move_to = JournalThread.move_to

    async def watched(self: JournalThread, to: Path) -> object:
        found = await move_to(self, to)
        moved.set()
        return found

    monkeypatch.setattr(JournalThread, "move_to", watched)
    async with (
        asyncio.timeout(30),
        listening(broker_settings, "lb/v2/reply/me/+/+") as client,
        ScriptedWorker(broker_settings) as worker,
        running(LatentbusSettings(broker=broker_settings, edge=edge)),
    ):
        question = Ask(query_id="q1", text="What is on the roof?", deadline_ms=20_000)
        await client.ask("gate", question, reply="lb/v2/reply/me/gate/q1")
        camera, opened = await worker.next_open()
        assert not path.exists()
        room = True
        await moved.wait()
        stored = AskJournal(path)
        assert [entry.ask for entry in stored.unfinished()] == [question]
        stored.close()
        await worker.answer_all(camera, opened, "a cat")
