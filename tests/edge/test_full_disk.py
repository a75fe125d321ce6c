"""A disk that is full: nobody who asks hears nothing, and what was decided stays decided."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.node.ask_journal import AskJournal
from pipeline.node.disk_reserve import RESERVE_BYTES, DiskReserve
from pipeline.protocol import journal_link
from pipeline.protocol.journal_link import RETRY_S
from pipeline.protocol.journal_requests import MAX_OPEN_ASKS, Admission
from schemas.errors import ArtifactError
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.types import Outcome
from tests.edge.running import listening, running
from tests.edge.support import ScriptedWorker
from tests.protocol.test_ad_hoc_questions import OTHER, REPLY, AdHocSite, answer, ask, key

LONG = "yes " * 500


class SmallDisk:
    """A site whose journal's file can be kept from growing, as on a disk that is full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = AskJournal(path)
        self.site = AdHocSite(self.journal)

    def fill(self) -> None:
        database = self.journal._database
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")

    def free(self) -> None:
        self.journal._database.execute("PRAGMA max_page_count = 1000000")

    def restarted(self) -> AdHocSite:
        """The next process, after this one was killed."""
        return AdHocSite(AskJournal(self.path))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "asks.sqlite3")
    yield small
    small.journal.close()


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


def admitted(disk: SmallDisk, count: int = 3) -> None:
    for number in range(1, count + 1):
        disk.site.receive("gate", ask(f"q{number}"), REPLY)
    disk.site.questions.take("gate", 64)
    disk.fill()


def test_a_question_that_was_decided_on_a_full_disk_is_answered_when_it_is_asked_again(disk: SmallDisk) -> None:
    admitted(disk)
    for query_id in ("q1", "q2", "q3"):
        disk.site.decided(long_answer(query_id), published=True)
    assert disk.site.questions.counters["not_stored"] > 0
    disk.site.replied.clear()
    for query_id in ("q1", "q2", "q3"):
        disk.site.receive("gate", ask(query_id), OTHER)
    assert disk.site.replied == [(OTHER, long_answer(query_id)) for query_id in ("q1", "q2", "q3")]
    assert not disk.site.questions.waiting("gate"), "it is not computed again"
    assert disk.site.reported == []


def test_a_running_question_that_is_asked_again_on_a_full_disk_is_not_ended_and_gets_its_answer(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    admitted(disk)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(disk.journal, "admit", full)
    disk.site.receive("gate", ask(), OTHER)
    assert (disk.site.reported, disk.site.replied) == ([], [])
    disk.site.decided(answer(), published=True)
    assert disk.site.replied == [(OTHER, answer())]
    disk.site.receive("gate", ask("new"), OTHER)
    assert disk.site.reported[0].reason == "the edge cannot store questions"


def test_an_address_that_cannot_be_stored_keeps_nobody_from_the_answer(tmp_path: Path) -> None:
    journal = AskJournal(tmp_path / "asks.sqlite3")
    journal.admit("gate", "client", ask(), REPLY)
    journal._database.execute("PRAGMA query_only = 1")
    admission, stored = journal.admit("gate", "client", ask(), OTHER)
    assert (admission.value, stored.reply_to) == ("running", OTHER)
    assert journal.counters["addresses_not_stored"] == 1
    journal.close()


def test_what_a_full_disk_did_not_take_is_stored_once_there_is_room_and_decided_once(disk: SmallDisk) -> None:
    admitted(disk)
    disk.site.decided(long_answer("q1"), published=True)
    disk.site.decided(long_answer("q2"), published=True)
    disk.site.decided(failed("q3"), published=False)
    for told in disk.site.broker_has_it:
        told()
    disk.site.pump()
    disk.site.tick(disk.site.now_s + RETRY_S)
    disk.free()
    disk.site.tick(disk.site.now_s + RETRY_S)
    assert disk.site.questions.sizes()["asks_unstored"] == 0
    after = disk.restarted()
    assert not after.questions.waiting("gate")
    assert after.reported == []
    for query_id in ("q1", "q2", "q3"):
        after.receive("gate", ask(query_id), OTHER)
    heard = [message.query_id for _, message in after.replied if isinstance(message, Answer | QueryOutcome)]
    assert heard == [key("q1"), key("q2"), key("q3")]
    after.journal.close()


def test_it_is_tried_again_and_again_while_the_process_runs(disk: SmallDisk) -> None:
    admitted(disk, 1)
    for _ in range(3):  # the first one that finds no room, and repeats of it
        disk.site.decided(long_answer("q1"), published=True)
    assert [notice.context["fix"] for notice in disk.site.notices] == ["free space on the disk of state_dir"]
    for _ in range(3):
        due_s = disk.site.questions.next_wake_s()
        assert due_s == disk.site.now_s + RETRY_S
        disk.site.tick(due_s)
    assert disk.site.questions.sizes()["asks_unstored"]
    disk.free()
    disk.site.tick(disk.site.now_s + RETRY_S)
    assert disk.site.questions.sizes()["asks_unstored"] == 0
    assert disk.site.questions.next_wake_s() is None


def test_an_end_that_is_on_its_way_to_the_disk_when_the_disk_is_tried_again_is_stored_once(disk: SmallDisk) -> None:
    for query_id in ("q1", "q2"):
        disk.site.receive("gate", ask(query_id), REPLY)
    disk.site.disk_is_slow = True
    disk.site.decided(answer("q1"), published=True)
    disk.site.decided(answer("q2"), published=True)
    disk.site.questions.try_again(disk.site.now_s)
    disk.site.disk_is_slow = False
    disk.site.pump()
    assert disk.site.questions.sizes()["asks_unstored"] == 0
    assert disk.site.questions.counters["stored_late"] == 0
    disk.site.replied.clear()
    disk.site.receive("gate", ask("q1"), OTHER)
    assert disk.site.replied == [(OTHER, answer("q1"))]


# ---- no journal at all ----------------------------------------------------------------------------------------------


def test_a_journal_in_memory_moves_to_its_file_once_it_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state" / "asks.sqlite3"
    before = AskJournal(path)
    before.admit("gate", "client", ask("earlier"), REPLY)
    before.close()
    with monkeypatch.context() as full:
        full.setattr(AskJournal, "_opened", cannot_open)
        journal = AskJournal.open_or_in_memory(path)
        site = AdHocSite(journal)
        site.receive("gate", ask("new"), REPLY)
        site.receive("gate", ask("done"), REPLY)
        site.decided(answer("done"), published=True)
        site.tick(site.now_s + RETRY_S)
        assert site.questions.counters["restored"] == 0
    site.tick(site.now_s + RETRY_S)
    assert site.questions.counters["restored"] == 1
    assert {query.question_id for query in site.questions.take("gate", 64)} == {"new", "earlier"}
    journal.close()
    later = AskJournal(path)
    assert {stored.ask.query_id for stored in later.unfinished()} == {"earlier", "new"}
    assert later.admit("gate", "client", ask("done"), None)[0].value == "decided"
    later.close()


def cannot_open(_self: AskJournal, path: Path) -> sqlite3.Connection:
    raise ArtifactError(str(path), "cannot be opened: database or disk is full")


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
    monkeypatch.setattr(journal_link, "RETRY_S", 0.01)
    edge = EdgeSettings(
        site="depot", codec=codec_dir, cameras={"gate": CameraSettings(source="test:1")}, state_dir=tmp_path
    )
    path = tmp_path / "asks-depot.sqlite3"
    moved = asyncio.Event()
    loop = asyncio.get_running_loop()
    move_to = AskJournal.move_to

    def watched(self: AskJournal, to: Path) -> object:
        found = move_to(self, to)
        loop.call_soon_threadsafe(moved.set)
        return found

    monkeypatch.setattr(AskJournal, "move_to", watched)
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


# ---- a disk that is really full -------------------------------------------------------------------------------------


class TinyDisk:
    """A file system of 24 MB of its own, and somebody who takes every free block of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal_path = path / "asks.sqlite3"
        self._filler = path / "filler"

    def fill(self) -> None:
        with suppress(OSError), self._filler.open("ab", buffering=0) as filler:
            while True:
                filler.write(b"z" * 4096)

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[TinyDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield TinyDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


def test_the_end_of_every_open_question_is_stored_on_a_disk_that_is_full(tiny_disk: TinyDisk) -> None:
    journal = AskJournal(tiny_disk.journal_path)
    for number in range(MAX_OPEN_ASKS):
        assert journal.admit("gate", "client", ask(f"q{number}"), REPLY)[0] is Admission.NEW
    tiny_disk.fill()
    for number in range(MAX_OPEN_ASKS):
        assert journal.decide(key(f"q{number}"), long_answer(f"q{number}"), told=True) is not None
        tiny_disk.fill()
    assert journal.counters["reserve_pieces_used"] > 0
    # The process is killed, and the next one finds the disk as full.
    killed = AskJournal(tiny_disk.journal_path)
    assert killed.unfinished() == []
    assert killed.admit("gate", "client", ask("q7"), REPLY)[1].terminal == long_answer("q7")
    # What is left is not for new questions.
    with pytest.raises(sqlite3.OperationalError, match="the disk is full"):
        killed.admit("gate", "client", ask("new"), REPLY)
    tiny_disk.free()
    assert killed.admit("gate", "client", ask("new"), REPLY)[0] is Admission.NEW
    assert not killed._reserve or not killed._reserve.used, "it is whole again"
    killed.close()
    journal.close()


def test_a_journal_of_a_full_disk_can_be_opened_and_its_questions_end(tiny_disk: TinyDisk) -> None:
    before = AskJournal(tiny_disk.journal_path)
    for number in range(20):
        before.admit("gate", "client", ask(f"q{number}"), REPLY)
    before.decide(key("q0"), long_answer("q0"), told=True)
    before.close()  # SQLite's log and its index are gone now: to open the file again takes room
    tiny_disk.fill()
    journal = AskJournal(tiny_disk.journal_path)
    for stored in journal.unfinished():
        assert journal.decide(stored.query_id, failed(stored.ask.query_id), told=True) is not None
        tiny_disk.fill()
    assert journal.unfinished() == []
    journal.close()


def test_a_disk_without_room_for_the_reserve_takes_questions_all_the_same(tiny_disk: TinyDisk) -> None:
    with (tiny_disk.path / "photos").open("wb") as photos:
        photos.write(b"z" * (24 * 1024 * 1024 - RESERVE_BYTES // 2))
    journal = AskJournal(tiny_disk.journal_path)
    assert not tiny_disk.journal_path.with_suffix(".reserve").exists()
    assert journal.admit("gate", "client", ask(), REPLY)[0] is Admission.NEW
    assert journal.decide(key("q1"), answer(), told=True) is not None
    journal.close()


def test_a_reserve_that_somebody_deleted_frees_nothing(tmp_path: Path) -> None:
    path = tmp_path / "asks.reserve"
    reserve = DiskReserve(path, 100_000)
    used = [reserve.used, reserve.fill(), reserve.used]
    assert path.stat().st_size == 100_000
    assert [reserve.give_up() for _ in range(5)] == [True] * 4 + [False]
    assert [*used, reserve.used] == [False, True, False, True]
    assert reserve.fill()
    path.unlink()
    assert not reserve.give_up()
    assert reserve.fill()
    assert not DiskReserve(path, 100_000).used
