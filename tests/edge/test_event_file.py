"""Events on disk: what survives, what is erased, and what damage costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from edge_nodes.event_file import EventFile
from pipeline.protocol.event_requests import (
    EraseKeptEvents,
    EventDiskFailed,
    EventFrameRead,
    EventsChanged,
    EventsListed,
    KeepEventFrame,
    ListKeptEvents,
    ReadEventFrame,
)
from schemas.messages import EventEntry
from schemas.types import FrameId
from tests.protocol.fake_latents import LATENTS, FakeLatent

EVENT, OTHER = FrameId(1, 7), FrameId(1, 40)
FINGERPRINT = b"\x01\x02\x03\x04"


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "events-depot.sqlite3"


def opened(path: Path | None, clock: Clock, *, boot: str = "one", max_bytes: int = 1_000_000) -> EventFile:
    return EventFile(path, FINGERPRINT, max_bytes=max_bytes, now_s=lambda: clock.s, boot=boot)


def keep(
    file: EventFile, *offsets_ms: int, camera: str = "gate", event: FrameId = EVENT, picture: bytes | None = None
) -> None:
    for number, offset_ms in enumerate(offsets_ms):
        frame = FrameId(1, event.sequence + number)
        request = KeepEventFrame(1, camera, event, "car", "yes", 0.0, frame, offset_ms, FakeLatent(), picture)
        assert file.perform(request) == EventsChanged(1)


def entries(file: EventFile, camera: str = "gate") -> tuple[EventEntry, ...]:
    listed = file.perform(ListKeptEvents(1, camera, None, 10))
    assert isinstance(listed, EventsListed)
    return listed.entries


def erase(file: EventFile, camera: str | None = "gate", **what: object) -> int:
    erased = file.perform(EraseKeptEvents(1, camera, **what))  # type: ignore[arg-type]
    assert isinstance(erased, EventsChanged)
    return erased.frames


def test_events_survive_a_restart_with_their_age(path: Path, clock: Clock) -> None:
    before = opened(path, clock)
    keep(before, 0, -2_000, 1_000, picture=b"jpeg")
    before.close()
    clock.s += 60.0
    after = opened(path, clock)
    (entry,) = entries(after)
    assert (entry.event, entry.frames, entry.pictures, entry.age_ms) == (EVENT, 3, 3, 60_000)
    assert entry.size_bytes == after.held_bytes == 3 * (LATENTS + 4)
    read = [after.perform(ReadEventFrame(1, "gate", EVENT, index, picture=False)) for index in range(4)]
    whole = FakeLatent().payload(0, LATENTS)
    assert read[:3] == [
        EventFrameRead(FrameId(1, 8), 3, -2_000, whole, FINGERPRINT),
        EventFrameRead(FrameId(1, 7), 3, 0, whole, FINGERPRINT),
        EventFrameRead(FrameId(1, 9), 3, 1_000, whole, FINGERPRINT),
    ]
    assert read[3] == EventFrameRead(None, 3)
    picture = after.perform(ReadEventFrame(1, "gate", EVENT, 0, picture=True))
    assert isinstance(picture, EventFrameRead)
    assert picture.payload == b"jpeg"


def test_after_a_power_cut_the_age_is_unknown_counts_from_then_and_is_old_to_whoever_erases(
    path: Path, clock: Clock
) -> None:
    before = opened(path, clock)
    keep(before, 0)
    before.close()
    clock.s = 5.0  # the machine counts anew
    after = opened(path, clock, boot="two")
    assert [entry.age_ms for entry in entries(after)] == ["unknown"]
    clock.s += 100.0
    assert erase(after, None, older_than_s=200.0) == 0
    assert erase(after, "gate", younger_than_s=200.0) == 0
    assert erase(after, "gate", older_than_s=3_000.0) == 1
    keep(after, 0)
    clock.s += 300.0
    assert erase(after, None, older_than_s=200.0) == 1


def test_a_power_cut_costs_what_was_not_committed_and_the_file_opens(path: Path, clock: Clock, tmp_path: Path) -> None:
    file = opened(path, clock)
    keep(file, 0, 1_000)
    log = path.with_name(f"{path.name}-wal").read_bytes()
    table = path.read_bytes()
    for cut in range(0, len(log), max(1, len(log) // 40)):
        copy = tmp_path / f"{cut}" / path.name
        copy.parent.mkdir()
        copy.write_bytes(table)
        copy.with_name(f"{path.name}-wal").write_bytes(log[:cut])
        again = opened(copy, clock)
        assert sum(entry.frames for entry in entries(again)) in (0, 1, 2)
        again.close()


def test_a_damaged_file_is_set_aside_and_never_a_dark_site(path: Path, clock: Clock) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 100)
    with structlog.testing.capture_logs() as logs:
        file = opened(path, clock)
    assert entries(file) == ()
    assert file.counters["files_set_aside"] == 1
    assert [entry["event"] for entry in logs] == ["the file of events is damaged: starting a new one"]
    assert path.with_suffix(".damaged").read_bytes().startswith(b"no database")


def test_what_is_erased_is_overwritten(path: Path, clock: Clock) -> None:
    secret = b"a picture that nobody may ever see again"
    file = opened(path, clock)
    keep(file, 0, picture=secret)
    keep(file, 0, event=OTHER, picture=b"another")
    assert erase(file, "gate", event=EVENT) == 1
    on_disk = b"".join(part.read_bytes() for part in path.parent.iterdir())
    assert secret not in on_disk
    assert [entry.event for entry in entries(file)] == [OTHER]


def test_erasing_is_by_camera_and_by_the_age_of_each_frame(path: Path, clock: Clock) -> None:
    file = opened(path, clock)
    keep(file, -20_000, 0, 5_000)
    keep(file, 0, camera="yard")
    clock.s += 10.0
    assert erase(file, "gate", older_than_s=25.0) == 1
    assert erase(file, "gate", older_than_s=0.0, younger_than_s=7.0) == 1
    assert [entry.frames for entry in entries(file)] == [1]
    assert [entry.frames for entry in entries(file, "yard")] == [1]
    assert erase(file) == 1
    assert file.held_bytes == LATENTS


def test_the_oldest_event_goes_when_bytes_run_out_and_a_frame_that_is_too_large_is_refused(clock: Clock) -> None:
    file = opened(None, clock, max_bytes=4 * LATENTS)
    keep(file, 0, 1_000)
    keep(file, 0, 1_000, event=OTHER)
    keep(file, 2_000, event=OTHER)
    assert [entry.event for entry in entries(file)] == [OTHER]
    assert file.counters["events_dropped"] == 1
    huge = KeepEventFrame(1, "gate", EVENT, "car", "yes", 0.0, EVENT, 0, FakeLatent(), bytes(1000))
    assert isinstance(file.perform(huge), EventDiskFailed)


def test_a_row_that_holds_what_no_event_has_is_left_out_of_the_list(clock: Clock) -> None:
    file = opened(None, clock)
    keep(file, 0)
    keep(file, 0, event=OTHER)
    file._database.execute("UPDATE event_frame SET question_id = 'No Name' WHERE event_sequence = 7")
    assert [entry.event for entry in entries(file)] == [OTHER]
    assert file.counters["rows_dropped"] == 1


def test_a_file_that_cannot_be_opened_leaves_events_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with structlog.testing.capture_logs() as logs:
        file = EventFile.open_or_in_memory(blocked / "events.sqlite3", FINGERPRINT, max_bytes=1000)
    keep(file, 0)
    assert [entry["event"] for entry in logs] == ["events are kept in memory until the next start"]
