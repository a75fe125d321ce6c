"""Logs that were cut, damaged or made to hurt: what is whole comes back, within bounds of memory and time."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.opcode import Opcode

from analysis.recover import Recovery, recover
from pipeline.recording import index
from pipeline.recording.format import Compression
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogReader
from pipeline.recording.records import CHUNK_HEAD, MAX_CHUNK_BYTES
from pipeline.recording.rewrite import rechunk
from pipeline.recording.series import LogSeries, SeriesOptions
from pipeline.recording.writer import LogWriter
from schemas.errors import RecordingError
from tests.recording.messages import numbered, write_log

MESSAGES = numbered(1_000, size_bytes=120, topics=20)
FLUSH_EVERY = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A log of 50 chunks with an attachment, about 200 kB."""
    path = tmp_path_factory.mktemp("whole") / "a.mcap"
    rng = random.Random(1)
    with LogWriter(path, compression=Compression.NONE) as log:
        log.attach("site.yaml", "application/yaml", rng.randbytes(2_000))
        for number, message in enumerate(MESSAGES, 1):
            log.write(message)
            if number % FLUSH_EVERY == 0:
                log.flush()
    return path.read_bytes()


def _recover(folder: Path, data: bytes) -> tuple[Recovery, list[LoggedMessage]]:
    source, target = folder / "cut.mcap", folder / "out.mcap"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    recovery = recover(source, target)
    with LogReader(target) as reader:
        assert reader.complete
        return recovery, list(reader.messages())


def _records(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each record of the data section begins, and its opcode."""
    offset = 8
    while offset < len(data) and data[offset] != Opcode.DATA_END:
        yield offset, data[offset]
        offset = _stop(data, offset)


def _stop(data: bytes, start: int) -> int:
    return start + 9 + int.from_bytes(data[start + 1 : start + 9], "little")


def _data_end(data: bytes) -> int:
    """Where the data section ends."""
    return _stop(data, max(start for start, _ in _records(data)))


def _chunks(data: bytes) -> list[int]:
    return [start for start, opcode in _records(data) if opcode == Opcode.CHUNK]


def _chunk_ends(data: bytes) -> list[int]:
    return [_stop(data, start) for start in _chunks(data)]


def test_a_log_cut_anywhere_gives_every_whole_chunk(whole: bytes, tmp_path: Path) -> None:
    ends = _chunk_ends(whole)
    assert len(ends) == len(MESSAGES) // FLUSH_EVERY
    assert len(whole) > 180_000
    # Every 1,000th byte, and around the ends of chunks, where one byte decides.
    for cut in sorted({*range(1_000, len(whole), 1_000), ends[0] - 1, ends[0], ends[7] - 1, ends[7], ends[7] + 1}):
        recovery, found = _recover(tmp_path, whole[:cut])

        expected = FLUSH_EVERY * sum(end <= cut for end in ends)
        assert found == MESSAGES[:expected], cut
        assert (recovery.messages, recovery.complete, recovery.missing) == (expected, False, 0)


def test_a_log_that_ends_before_its_header_has_nothing(whole: bytes, tmp_path: Path) -> None:
    for cut in (0, 5, 8, 20):
        with pytest.raises(RecordingError, match="nothing was recorded yet"):
            _recover(tmp_path, whole[:cut])
        assert not (tmp_path / "out.mcap").exists()


def test_a_whole_log_is_said_to_be_whole(whole: bytes, tmp_path: Path) -> None:
    recovery, found = _recover(tmp_path, whole)

    assert recovery.complete
    assert recovery.damages == ()
    assert found == MESSAGES


def _with_and_without_summary(whole: bytes) -> list[bytes]:
    return [whole, whole[: _chunk_ends(whole)[-1]]]


def test_a_flipped_bit_costs_its_chunk_and_is_said(whole: bytes, tmp_path: Path) -> None:
    ends = _chunk_ends(whole)
    rng = random.Random(7)
    for data in _with_and_without_summary(whole):
        for _ in range(25):
            damaged = bytearray(data)
            # Anywhere from the second chunk on: the first one says what the channels are.
            at = rng.randrange(ends[0], ends[-1])
            damaged[at] ^= 1 << rng.randrange(8)
            recovery, found = _recover(tmp_path, bytes(damaged))

            lost = len(MESSAGES) - len(found)
            assert lost in (0, FLUSH_EVERY), at
            kept = set(found)
            assert [message for message in MESSAGES if message in kept] == found
            if lost:
                assert recovery.damages
                assert recovery.damaged_bytes > 0
                # The last chunk is missed by nobody: no message comes after it.
                assert recovery.missing == (0 if found[-1] != MESSAGES[-1] else lost)


def test_a_damaged_first_chunk_does_not_take_the_names_of_all_others_with_it(whole: bytes, tmp_path: Path) -> None:
    for data in _with_and_without_summary(whole):
        flipped = bytearray(data)
        flipped[data.index(MESSAGES[5].payload)] ^= 255
        recovery, found = _recover(tmp_path, bytes(flipped))

        assert found == MESSAGES[FLUSH_EVERY:]
        assert recovery.orphans == 0


def test_messages_without_a_channel_are_counted(whole: bytes, tmp_path: Path) -> None:
    cut = whole[: _chunk_ends(whole)[-1]]
    first = min(start for start, opcode in _records(cut) if opcode in (Opcode.SCHEMA, Opcode.CHANNEL))
    recovery, found = _recover(tmp_path, cut[:first] + cut[_chunk_ends(cut)[0] :])

    assert found == []
    # Companions with properties count as well: nothing says that they are such.
    assert recovery.orphans >= len(MESSAGES) - FLUSH_EVERY


def test_a_damaged_attachment_is_left_out_and_said(whole: bytes, tmp_path: Path) -> None:
    damaged = bytearray(whole)
    damaged[whole.index(b"site.yaml") + 500] ^= 1
    recovery, found = _recover(tmp_path, bytes(damaged))

    assert found == MESSAGES
    assert "attachment" in recovery.damages[0].problem
    with LogReader(tmp_path / "out.mcap") as reader:
        assert reader.attachments() == {}


def _hostile_length(data: bytearray, start: int) -> None:
    data[start + 1 : start + 9] = struct.pack("<Q", 2**62)


def _hostile_unpacked_size(data: bytearray, start: int) -> None:
    data[start + 9 + 16 : start + 9 + 24] = struct.pack("<Q", 2**40)


def _hostile_data_length(data: bytearray, start: int) -> None:
    at = start + 9 + CHUNK_HEAD.size + 4
    data[at : at + 8] = struct.pack("<Q", 2**63)


def _hostile_name_length(data: bytearray, start: int) -> None:
    at = start + 9 + CHUNK_HEAD.size
    data[at : at + 4] = struct.pack("<I", 2**32 - 1)


@pytest.mark.parametrize("harm", [_hostile_length, _hostile_unpacked_size, _hostile_data_length, _hostile_name_length])
def test_no_length_in_a_file_is_believed(whole: bytes, tmp_path: Path, harm: Callable[[bytearray, int], None]) -> None:
    cut = bytearray(whole[: _chunk_ends(whole)[-1]])
    harm(cut, _chunks(whole)[5])
    tracemalloc.start()
    try:
        _, found = _recover(tmp_path, bytes(cut))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert found == MESSAGES[: 5 * FLUSH_EVERY] + MESSAGES[6 * FLUSH_EVERY :]
    assert peak_bytes < 64_000_000


@pytest.mark.parametrize("compression", [Compression.LZ4, Compression.ZSTD])
def test_a_chunk_that_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path: Path, compression: Compression) -> None:
    huge = LoggedMessage(1, "t", bytes(8 * MAX_CHUNK_BYTES // 10), sequence=0)
    path = write_log(tmp_path / "bomb.mcap", [huge], compression=compression)
    data = bytearray(path.read_bytes())
    chunk = data.index(compression.value.encode()) - 4 - CHUNK_HEAD.size
    data[chunk + 16 : chunk + 24] = struct.pack("<Q", 1_000)
    tracemalloc.start()
    try:
        with LogReader(write_bytes(tmp_path / "b.mcap", bytes(data)), scan=True) as reader:
            problems = [damage.problem for damage in reader.damages]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert problems == ["a chunk of 1001 bytes instead of 1000"]
    assert peak_bytes < 16_000_000


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_file_made_of_damage_is_not_searched_without_end(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MAX_DAMAGES", 5)
    damaged = bytearray(whole)
    for message in MESSAGES[::FLUSH_EVERY][1:]:
        damaged[whole.index(message.payload)] ^= 1

    recovery, found = _recover(tmp_path, bytes(damaged))

    assert found == MESSAGES[:FLUSH_EVERY]
    assert len(recovery.damages) == 6
    assert "not read after 5 damaged places" in recovery.damages[-1].problem


@given(noise=st.binary(max_size=400), at=st.integers(0, 3_000))
def test_noise_in_a_file_never_raises_anything_but_the_typed_error(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, noise: bytes, at: int
) -> None:
    path = write_bytes(tmp_path_factory.mktemp("noise") / "a.mcap", whole[:at] + noise + whole[at : at + 8_000])
    try:
        with LogReader(path) as reader:
            list(reader.messages())
            reader.gaps()
            reader.metadata()
            reader.attachments()
    except RecordingError:
        pass


def test_the_target_is_never_overwritten_and_never_half_written(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_bytes(tmp_path / "a.mcap", whole)
    other = write_bytes(tmp_path / "b.mcap", b"mine")

    with pytest.raises(RecordingError, match="exists already"):
        recover(source, source)
    with pytest.raises(RecordingError, match="exists already"):
        recover(source, other)
    assert other.read_bytes() == b"mine"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.recording.rewrite.os.fsync", full)
    with pytest.raises(RecordingError, match="No space left"):
        recover(source, tmp_path / "c.mcap")
    assert not (tmp_path / "c.mcap").exists()


def test_rechunking_changes_the_chunks_and_nothing_else(whole: bytes, tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.mcap", whole)
    with LogReader(path) as reader:
        before = (reader.metadata(), reader.attachments(), reader.topics(), list(reader.messages()))

    rechunk(path, Compression.ZSTD)

    with LogReader(path) as reader:
        assert len(reader.index.chunks) == 1
        assert (reader.metadata(), reader.attachments(), reader.topics(), list(reader.messages())) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_rechunking_that_fails_leaves_the_file_as_it_was(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bytes(tmp_path / "a.mcap", whole)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.recording.rewrite.os.fsync", full)
    with pytest.raises(RecordingError, match="No space left"):
        rechunk(path, Compression.LZ4)

    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


SECONDS = 30
CHATTER = [
    replace(message, sequence=number)
    for number, message in enumerate(numbered(SECONDS * 1_000, size_bytes=40, topics=8)[::25])
]
"""Half a minute of 40 messages a second, as a small fleet sends them."""


def _closed_well(folder: Path) -> bytes:
    """A log as a recorder leaves it: flushed four times a second, finished, its chunks put together."""
    log = LogSeries(folder / "closed.mcap", SeriesOptions())
    for number, message in enumerate(CHATTER):
        log.write(message)
        if number % 10 == 9:
            log.flush()
    log.close()
    return (folder / "closed.mcap").read_bytes()


def test_one_damaged_byte_of_a_closed_log_costs_a_second_of_traffic_and_is_counted(tmp_path: Path) -> None:
    data = _closed_well(tmp_path)
    rng = random.Random(5)
    losses = set()
    for _ in range(40):
        damaged = bytearray(data)
        damaged[rng.randrange(_stop(data, 8), _data_end(data))] ^= 1 << rng.randrange(8)
        recovery, found = _recover(tmp_path, bytes(damaged))

        assert recovery.lost_exact
        assert recovery.lost == len(CHATTER) - len(found)
        losses.add(recovery.lost)
    assert max(losses) == 40
    assert min(losses) == 0


def test_a_closed_log_that_was_cut_keeps_all_seconds_before_the_cut(tmp_path: Path) -> None:
    data = _closed_well(tmp_path)
    cut = data[: len(data) * 6 // 10]
    recovery, found = _recover(tmp_path, cut)

    ends = [end for end in _chunk_ends(data) if end <= len(cut)]
    assert len(ends) >= 10
    assert len(found) == 40 * len(ends)
    assert not recovery.complete
    # The rest of the file is gone, and nothing in what is left says what stood there.
    assert not recovery.lost_exact
    assert "the file ends within a record" in recovery.damages[-1].problem


def test_messages_of_a_damaged_chunk_are_counted_without_a_summary(tmp_path: Path) -> None:
    data = _closed_well(tmp_path)
    chunks = _chunks(data)
    damaged = bytearray(data[: _data_end(data)])
    for chunk in (chunks[0], chunks[-1]):  # where no sequence number before or after tells
        damaged[chunk + 100] ^= 255
    recovery, found = _recover(tmp_path, bytes(damaged))

    assert [damage.messages for damage in recovery.damages] == [40, 40]
    assert (recovery.lost, recovery.lost_exact, recovery.missing) == (80, True, 0)
    assert len(found) == len(CHATTER) - 80


def test_a_quiet_log_has_a_chunk_for_each_message_and_a_busy_one_is_bounded_in_bytes(tmp_path: Path) -> None:
    quiet = [replace(message, time_ns=message.time_ns + number * 10**10) for number, message in enumerate(numbered(9))]
    with LogReader(write_log(tmp_path / "quiet.mcap", quiet)) as reader:
        assert len(reader.index.chunks) == 9
        assert list(reader.messages()) == quiet
    busy = numbered(900, size_bytes=4_000)
    with LogReader(write_log(tmp_path / "busy.mcap", busy)) as reader:
        assert len(reader.index.chunks) == 4
