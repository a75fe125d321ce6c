"""Stored frames on disk: what a power cut, damage, a full disk and another codec cost."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge_nodes import frame_file as frame_file_module
from edge_nodes.frame_file import FrameFile
from edge_nodes.machine_clock import MachineClock
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.store_requests import (
    Damaged,
    DiskFailed,
    Done,
    DropFrames,
    Found,
    FrameRead,
    PutFrame,
    ReadFrame,
    ReadStored,
    StoredFrame,
    StoredQuestion,
    StoreResult,
)
from schemas.errors import ArtifactError
from tests.edge.support import LATENT_DIM, LATENTS, write_codec

MAX_BYTES = 1_000_000
QUESTIONS = (StoredQuestion("car", bytes(range(8))), StoredQuestion("bus", bytes(8)))
CODEC = b"\x01\x02\x03\x04"


class Clock:
    """The clock of a machine that a test switches off and on."""

    def __init__(self) -> None:
        self.boot = "first"
        self.time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> FrequencyTables:
    return FrequencyTables.load(write_codec(tmp_path_factory.mktemp("codec")) / TABLES_FILE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "frames.sqlite3"


def latent(tables: FrequencyTables, number: int) -> EncodedLatent:
    symbols = np.random.default_rng(number).integers(-8, 9, (LATENTS, LATENT_DIM)).astype(np.int32)
    return EncodedLatent(symbols, tables)


def put(tables: FrequencyTables, number: int, *, replaces: tuple[int, ...] = (), age_s: float = 0.0) -> PutFrame:
    payload = latent(tables, number).payload(0, LATENTS)
    stored = StoredFrame(number, "gate", QUESTIONS, CODEC, 4, len(payload), age_s)
    return PutFrame(1, stored, LATENTS, payload, replaces)


def opened(path: Path | None, tables: FrequencyTables, clock: Clock | None = None) -> FrameFile:
    return FrameFile(path, tables, clock or Clock(), max_bytes=MAX_BYTES)


def found(file: FrameFile) -> list[int]:
    result = file.perform(ReadStored(1))
    assert isinstance(result, Found)
    return [stored.entry_id for stored in result.frames]


def is_whole(file: FrameFile, tables: FrequencyTables, number: int) -> bool:
    """Whether a frame is exactly what was stored."""
    result = file.perform(ReadFrame(1, number))
    if not isinstance(result, FrameRead):
        return False
    read = cast(EncodedLatent, result.latent)
    assert np.array_equal(read.symbols, latent(tables, number).symbols), "another latent than was stored"
    return True


def test_what_is_put_is_read_again_by_this_process_and_the_next(path: Path, tables: FrequencyTables) -> None:
    clock = Clock()
    file = opened(path, tables, clock)
    assert file.perform(put(tables, 1, age_s=2.0)) == Done()
    clock.time_s += 30.0
    for again in (file, opened(path, tables, clock)):
        result = again.perform(ReadStored(1))
        assert isinstance(result, Found)
        size_bytes = len(latent(tables, 1).payload(0, LATENTS))
        assert result.frames == (StoredFrame(1, "gate", QUESTIONS, CODEC, 4, size_bytes, 32.0),)
        assert is_whole(again, tables, 1)
        again.close()


def test_it_is_on_the_medium_when_put_returns(path: Path, tables: FrequencyTables) -> None:
    """Another connection sees it, without the first one's close, and each commit is flushed."""
    file = opened(path, tables)
    file.perform(put(tables, 1))
    assert file._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert found(opened(path, tables)) == [1]


def test_after_a_power_cut_nobody_knows_the_age(path: Path, tables: FrequencyTables) -> None:
    clock = Clock()
    file = opened(path, tables, clock)
    file.perform(put(tables, 1))
    clock.boot, clock.time_s = "second", 7.0
    result = file.perform(ReadFrame(1, 1))
    assert isinstance(result, FrameRead)
    assert result.age_s is None
    file.perform(put(tables, 2, age_s=1.0))
    clock.time_s = 17.0
    result = file.perform(ReadStored(1))
    assert isinstance(result, Found)
    assert [stored.age_s for stored in result.frames] == [None, 11.0]


def test_frames_that_are_replaced_go_in_the_same_step(path: Path, tables: FrequencyTables) -> None:
    file = opened(path, tables)
    for number in (1, 2, 3):
        file.perform(put(tables, number))
    file.perform(put(tables, 4, replaces=(1, 3)))
    assert found(file) == [2, 4]
    assert file.perform(DropFrames(1, (2, 99))) == Done()
    assert found(file) == [4]
    assert isinstance(file.perform(ReadFrame(1, 2)), Damaged)


# ---- power cuts and damage ------------------------------------------------------------------------------------------

Files = dict[str, bytes]
STEPS = 5


def snapshot(path: Path) -> Files:
    return {name.name: name.read_bytes() for name in path.parent.iterdir() if ".sqlite3" in name.name}


def restore(folder: Path, files: Files) -> Path:
    folder.mkdir()
    for name, data in files.items():
        if not name.endswith("-shm"):  # it is memory, and gone with the power
            (folder / name).write_bytes(data)
    return folder / "frames.sqlite3"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, tables: FrequencyTables) -> list[tuple[Files, set[int]]]:
    """The files after each step of a life, and the frames that they hold: stored, replaced, dropped, written back."""
    path = tmp_path_factory.mktemp("life") / "frames.sqlite3"
    states: list[tuple[Files, set[int]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_file_module, "LOG_PAGES", 6)  # written back often
        file = opened(path, tables)
        there: set[int] = set()
        states.append((snapshot(path), set()))
        for number in range(1, STEPS + 1):
            replaces = (number - 2,) if number == 4 else ()
            assert file.perform(put(tables, number, replaces=replaces)) == Done()
            there = (there | {number}) - set(replaces)
            states.append((snapshot(path), set(there)))
        assert file.perform(DropFrames(1, (1,))) == Done()
        states.append((snapshot(path), there - {1}))
        file.close()
    return states


def torn(before: Files, after: Files, at: int) -> Files:
    """The files when power is cut after so many bytes of a step: the log is written first, then the table."""
    files = dict(before)
    for name in sorted(after, key=lambda name: not name.endswith("-wal")):
        old, new = before.get(name, b""), after[name]
        if name.endswith("-shm") or old == new:
            continue
        changed = [index for index in range(len(new)) if index >= len(old) or old[index] != new[index]]
        first, last = changed[0], changed[-1] + 1
        if at >= last - first:
            files[name] = new
            at -= last - first
            continue
        cut = first + at
        files[name] = new[:cut] + old[cut:]
        return files
    return files


_numbers = itertools.count()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=st.integers(1, STEPS + 1), at=st.integers(0, 30_000))
@example(step=1, at=0)
@example(step=2, at=1)
@example(step=STEPS, at=4096 + 24)
@example(step=STEPS + 1, at=10**9)
def test_a_power_cut_at_any_byte_loses_at_most_what_was_being_written(
    step: int,
    at: int,
    history: list[tuple[Files, set[int]]],
    tables: FrequencyTables,
    tmp_path: Path,
) -> None:
    (before, was), (after, becomes) = history[step - 1], history[step]
    folder = tmp_path / f"cut{next(_numbers)}"
    file = opened(restore(folder, torn(before, after, at)), tables)
    there = set(found(file))
    assert there in (was, becomes), "the step is done or it is not"
    assert all(is_whole(file, tables, number) for number in there)
    assert file.counters["files_set_aside"] == 0
    assert file.perform(put(tables, 50)) == Done()
    file.close()
    shutil.rmtree(folder)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["frames.sqlite3", "frames.sqlite3-wal"]),
    where=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
def test_whatever_happened_to_the_files_the_store_opens_and_what_it_gives_is_what_was_stored(
    name: str,
    where: float,
    value: int,
    cut: bool,
    history: list[tuple[Files, set[int]]],
    tables: FrequencyTables,
    tmp_path: Path,
) -> None:
    files, was = history[STEPS]
    data = bytearray(files[name])
    at = int(where * len(data))
    if cut:
        del data[at:]
    elif data:
        data[at] ^= value or 1
    folder = tmp_path / f"damage{next(_numbers)}"
    file = opened(restore(folder, {**files, name: bytes(data)}), tables)
    there = found(file)
    assert set(there) <= {*was, 2}, "nothing that never was, at most what was replaced"
    for number in there:
        is_whole(file, tables, number)
    assert file.perform(put(tables, 50)) == Done()
    assert is_whole(file, tables, 50)
    file.close()
    aside = list(folder.glob("frames.damaged*"))
    assert bool(aside) == bool(file.counters["files_set_aside"]), "kept for whoever wants to look"
    shutil.rmtree(folder)


def test_a_damaged_file_is_set_aside_and_said(path: Path, tables: FrequencyTables) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database, it is a power cut" * 100)
    with structlog.testing.capture_logs() as said:
        file = opened(path, tables)
    assert [(line["log_level"], line["event"]) for line in said] == [
        ("error", "the file of stored frames is damaged: starting a new one")
    ]
    assert path.with_suffix(".damaged").read_bytes().startswith(b"this is no database")
    assert file.counters["files_set_aside"] == 1
    assert file.perform(put(tables, 1)) == Done()


def test_a_file_of_another_version_is_set_aside(path: Path, tables: FrequencyTables) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    file = opened(path, tables)
    assert found(file) == []
    assert path.with_suffix(".v9").exists()


@pytest.mark.parametrize(
    "change",
    [
        "payload = x'00'",
        "payload = zeroblob(3)",
        "captured_s = captured_s - 1000",
        "boot = 'second'",
        "questions = '[]'",
        "questions = '[['",
        "camera = 'yard'",
        "base_latents = 1",
        "fingerprint = x'ffffffff'",
        "checksum = 1",
    ],
)
def test_a_row_that_was_changed_costs_itself_alone(path: Path, tables: FrequencyTables, change: str) -> None:
    file = opened(path, tables)
    for number in (1, 2, 3):
        file.perform(put(tables, number))
    with file._database as database:
        database.execute(f"UPDATE frame SET {change} WHERE entry_id = 2")
    assert isinstance(file.perform(ReadFrame(1, 2)), Damaged)
    result = file.perform(ReadStored(1))
    assert isinstance(result, Found)
    assert [stored.entry_id for stored in result.frames] == [1, 3]
    assert result.damaged == 1
    assert file.counters["rows_dropped"] == 1
    assert found(file) == [1, 3]


def test_a_latent_of_other_tables_is_not_read_as_one_of_these(path: Path, tables: FrequencyTables) -> None:
    file = opened(path, tables)
    request = put(tables, 1)
    file.perform(PutFrame(1, request.stored, LATENTS + 1, request.payload))
    result = file.perform(ReadFrame(1, 1))
    assert isinstance(result, Damaged)
    assert f"{LATENTS + 1} latents, the codec has {LATENTS}" in result.problem


# ---- disks ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_the_oldest_can_go(path: Path, tables: FrequencyTables) -> None:
    file = opened(path, tables)
    for number in (1, 2):
        file.perform(put(tables, number))
    (pages,) = file._database.execute("PRAGMA page_count").fetchone()
    file._database.execute(f"PRAGMA max_page_count = {pages}")

    def filled() -> Iterator[StoreResult]:
        for number in range(3, 60):
            yield file.perform(put(tables, number))

    results = list(filled())
    assert any(isinstance(result, DiskFailed) and result.full for result in results)
    assert file.perform(DropFrames(1, tuple(range(1, 20)))) == Done()
    assert file.perform(put(tables, 60)) == Done()


def test_the_file_is_bounded_whatever_it_is_asked_to_hold(path: Path, tables: FrequencyTables) -> None:
    file = FrameFile(path, tables, Clock(), max_bytes=40_000)
    results = [file.perform(put(tables, number)) for number in range(1, 1500)]
    assert any(isinstance(result, DiskFailed) and result.full for result in results)
    file.close()
    assert path.stat().st_size <= 2 * 40_000 + 16 * 4096


def test_what_the_disk_refuses_is_told_and_not_raised(path: Path, tables: FrequencyTables) -> None:
    file = opened(path, tables)
    file._database.execute("PRAGMA query_only = 1")
    result = file.perform(put(tables, 1))
    assert isinstance(result, DiskFailed)
    assert not result.full
    assert isinstance(file.perform(DropFrames(1, (1,))), DiskFailed)


def test_a_place_that_cannot_be_written_leaves_frames_in_memory(tmp_path: Path, tables: FrequencyTables) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "frames.sqlite3"
    with pytest.raises(ArtifactError, match="state_dir"):
        opened(path, tables)
    with structlog.testing.capture_logs() as said:
        file = FrameFile.open_or_in_memory(path, tables, Clock(), max_bytes=MAX_BYTES)
    assert [line["log_level"] for line in said] == ["error"]
    assert file.perform(put(tables, 1)) == Done()
    assert found(file) == [1]


def test_the_clock_of_this_machine_goes_on_and_has_a_name() -> None:
    one, other = MachineClock.of_this_machine(), MachineClock.of_this_machine()
    assert one.boot
    assert 0 < one.now_s() <= other.now_s()


def test_without_a_name_of_its_start_no_two_clocks_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_nodes.machine_clock._BOOT_ID", tmp_path / "none")
    assert MachineClock.of_this_machine().boot != MachineClock.of_this_machine().boot
