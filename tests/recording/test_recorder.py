"""The recorder: nobody waits for it, and what it drops is counted and said."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.recording import series, writer
from pipeline.recording.format import Compression
from pipeline.recording.message import LoggedMessage, MqttProperties
from pipeline.recording.reader import LogReader, open_logs
from pipeline.recording.recorder import Recorder, RecorderOptions
from pipeline.recording.series import LogSeries, SeriesOptions
from pipeline.recording.writer import LogWriter
from schemas import topics, wire
from schemas.errors import RecordingError, StateError
from schemas.messages import Status
from tests.recording.messages import EPOCH_NS, numbered

PATIENCE_S = 20.0
QUICK = RecorderOptions(flush_s=0.01)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the writing thread tells nobody how far it is
            await asyncio.sleep(0.005)


def _written(recorder: Recorder, count: int) -> bool:
    return recorder.statistics().written_messages == count


def _offer(recorder: Recorder, count: int, start: int = 0) -> list[bool]:
    return [recorder.offer("t/a", b"%d" % number) for number in range(start, start + count)]


def _payloads(path: Path) -> list[int]:
    with open_logs([path]) as logs:
        return [int(message.payload) for message in logs.messages()]


async def test_everything_offered_is_written_with_its_circumstances(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    properties = MqttProperties(user=(("a", "b"),))
    before_ns = time.time_ns()
    async with Recorder(path, QUICK) as recorder:
        assert recorder.offer("t/a", b"1", qos=1, retain=True, properties=properties, received_s=time.monotonic())
        assert recorder.offer("t/b", b"2")
        await _until(lambda: recorder.statistics().written_messages == 2)
        assert recorder.statistics().file_bytes > 0
    after_ns = time.time_ns()

    with LogReader(path) as reader:
        first, second = reader.messages()
        assert reader.complete
        assert reader.gaps() == []
    assert replace(first, time_ns=0) == LoggedMessage(0, "t/a", b"1", 1, True, properties, 0)
    assert replace(second, time_ns=0) == LoggedMessage(0, "t/b", b"2", 0, False, None, 1)
    assert before_ns - 10**7 <= first.time_ns <= second.time_ns <= after_ns + 10**7


async def test_times_never_go_back(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    now_s = time.monotonic()
    async with Recorder(path, QUICK) as recorder:
        for delay_s in (0.0, 1.0, 0.5, 2.0):
            recorder.offer("t", b"", received_s=now_s + delay_s)

    with LogReader(path) as reader:
        times = [message.time_ns for message in reader.messages()]
    assert times == sorted(times)
    assert times[1] == times[2]


async def test_the_flush_timer_needs_no_further_message(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    async with Recorder(path) as recorder:
        _offer(recorder, 3)
        began_s = time.monotonic()
        await _until(lambda: recorder.statistics().written_messages == 3)
        assert time.monotonic() - began_s < 5
        assert _payloads(path) == [0, 1, 2]


class SlowSeries(LogSeries):
    """Writes when it is allowed to."""

    allowed = threading.Event()

    def write(self, message: LoggedMessage) -> None:
        assert self.allowed.wait(PATIENCE_S)
        super().write(message)


async def test_what_does_not_fit_is_dropped_counted_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.recording.recorder.LogSeries", SlowSeries)
    SlowSeries.allowed.clear()
    path = tmp_path / "a.mcap"
    async with Recorder(path, replace(QUICK, max_queued_messages=10)) as recorder:
        _offer(recorder, 1)
        await _until(lambda: recorder.statistics().queued_messages == 0)  # the thread holds it
        assert _offer(recorder, 30, start=1) == [True] * 10 + [False] * 20
        SlowSeries.allowed.set()
        await _until(lambda: recorder.statistics().written_messages == 11)
        assert _offer(recorder, 2, start=31) == [True, True]
    statistics = recorder.statistics()

    assert (statistics.offered_messages, statistics.written_messages, statistics.dropped_messages) == (33, 13, 20)
    assert _payloads(path) == [*range(11), 31, 32]
    with LogReader(path) as reader:
        [gap] = reader.gaps()
        assert (gap.first_sequence, gap.count) == (11, 20)
        assert [message.sequence for message in reader.messages()] == [*range(11), 31, 32]


async def test_bytes_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.recording.recorder.LogSeries", SlowSeries)
    SlowSeries.allowed.clear()
    async with Recorder(tmp_path / "a.mcap", replace(QUICK, max_queued_bytes=1_000)) as recorder:
        recorder.offer("t", bytes(10))
        await _until(lambda: recorder.statistics().queued_messages == 0)
        taken = [recorder.offer("t", bytes(299)) for _ in range(5)]
        assert taken == [True, True, True, False, False]
        assert recorder.statistics().queued_bytes == 900
        SlowSeries.allowed.set()


async def test_messages_dropped_at_the_very_end_are_marked_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.recording.recorder.LogSeries", SlowSeries)
    SlowSeries.allowed.clear()
    path = tmp_path / "a.mcap"
    async with Recorder(path, replace(QUICK, max_queued_messages=2)) as recorder:
        _offer(recorder, 1)
        await _until(lambda: recorder.statistics().queued_messages == 0)
        _offer(recorder, 5, start=1)
        SlowSeries.allowed.set()

    with LogReader(path) as reader:
        assert [(gap.first_sequence, gap.count) for gap in reader.gaps()] == [(3, 3)]


async def test_losses_before_the_recorder_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    async with Recorder(path, QUICK) as recorder:
        _offer(recorder, 1)
        recorder.mark_gap("more came than this process could read", 5)
        _offer(recorder, 1, start=1)
        recorder.mark_gap("not connected for 1.0 s")

    with LogReader(path) as reader:
        assert [(gap.first_sequence, gap.count) for gap in reader.gaps()] == [(1, 5), (7, 0)]
        assert [message.sequence for message in reader.messages()] == [0, 6]
    assert recorder.statistics().dropped_messages == 5


async def test_a_log_goes_on_in_further_files(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    options = RecorderOptions(
        SeriesOptions(
            compression=Compression.NONE,
            max_file_bytes=20_000,
            metadata={"latentbus": {"filters": "[]"}},
            attachments={"site.yaml": ("application/yaml", b"a: 1")},
        ),
        flush_s=0.01,
    )
    async with Recorder(path, options) as recorder:
        for number in range(60):
            recorder.offer("t/a", b"%d " % number + bytes(2_000))
            await _until(partial(_written, recorder, number + 1))

    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}  # noqa: ASYNC240 - nothing else runs
    assert {"run.mcap", "run.1.mcap", "run.2.mcap"} <= sizes.keys()
    assert max(sizes.values()) < 30_000
    for number, name in enumerate(("run.mcap", "run.1.mcap")):
        with LogReader(tmp_path / name) as reader:
            assert reader.complete
            assert reader.attachments() == {"site.yaml": b"a: 1"}
            assert reader.metadata()["latentbus"]["file_number"] == str(number)
    with open_logs([tmp_path]) as logs:
        assert [message.sequence for message in logs.messages()] == list(range(60))


def test_a_new_file_is_begun_when_it_is_time_and_something_came(tmp_path: Path) -> None:
    log = LogSeries(tmp_path / "run.mcap", SeriesOptions(max_file_s=1e-9))
    log.flush()
    assert log.files == 1
    log.write(numbered(1)[0])
    log.flush()
    log.flush()
    assert (log.files, log.path.name) == (2, "run.1.mcap")
    log.close()


def test_a_file_without_a_channel_left_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_CHANNELS", 6)
    log = LogSeries(tmp_path / "run.mcap", SeriesOptions())
    messages = [LoggedMessage(EPOCH_NS + number, f"t/{number}", b"", sequence=number) for number in range(10)]
    for message in messages:
        log.write(message)
    log.close()

    assert log.files == 3
    with open_logs([tmp_path]) as logs:
        assert list(logs.messages()) == messages


def test_fingerprints_of_processes_are_noted_in_each_file(tmp_path: Path) -> None:
    log = LogSeries(tmp_path / "run.mcap", SeriesOptions(max_file_bytes=1))
    for name in ("w1", "w2"):
        status = Status(kind="worker", id=name, boot=1, online=True, fingerprint="00c0ffee")
        log.write(LoggedMessage(EPOCH_NS, topics.status_topic("worker", name), wire.encode(status), 1, True))
        log.write(LoggedMessage(EPOCH_NS, topics.status_topic("worker", "bad"), b"no status", 1, True))
        log.flush()
    log.close()

    with LogReader(tmp_path / "run.mcap") as first, LogReader(tmp_path / "run.1.mcap") as second:
        assert first.metadata()["fingerprints"] == {"worker/w1": "00c0ffee"}
        assert second.metadata()["fingerprints"] == {"worker/w1": "00c0ffee", "worker/w2": "00c0ffee"}


def test_small_chunks_are_put_together_when_a_file_is_finished(tmp_path: Path) -> None:
    log = LogSeries(tmp_path / "run.mcap", SeriesOptions(max_file_bytes=40_000, compression=Compression.NONE))
    messages = numbered(400, size_bytes=200)
    for message in messages:
        log.write(message)
        log.flush()
    log.close()

    assert log.files > 2
    with LogReader(tmp_path / "run.mcap") as reader:
        assert reader.complete
        assert len(reader.index.chunks) == 1
    with open_logs([tmp_path]) as logs:
        assert list(logs.messages()) == messages
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".mcap"]


def test_a_crash_while_chunks_are_put_together_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def crash(path: Path, compression: Compression) -> None:
        with LogReader(path) as reader:  # what a crash at this moment would leave
            seen.append(sum(1 for _ in reader.messages()))
        raise RecordingError(str(path), "no space left")

    monkeypatch.setattr(series, "rechunk", crash)
    log = LogSeries(tmp_path / "run.mcap", SeriesOptions())
    for message in numbered(100):
        log.write(message)
        log.flush()
    log.close()

    assert seen == [100]
    with LogReader(tmp_path / "run.mcap") as reader:
        assert list(reader.messages()) == numbered(100)


def test_a_recorder_does_not_overwrite_unless_it_may_go_on_behind(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    for _ in range(3):
        log = LogSeries(path, SeriesOptions(append=True))
        log.write(numbered(1)[0])
        log.close()

    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.1.mcap", "run.2.mcap", "run.mcap"]
    with pytest.raises(RecordingError, match="exists already"):
        LogSeries(path, SeriesOptions())


class FailingWriter(LogWriter):
    """A disk that is full for a while."""

    full = False

    def __init__(self, path: Path, **more: object) -> None:
        if self.full:
            raise RecordingError(str(path), "cannot be written: No space left on device")
        super().__init__(path, **more)  # type: ignore[arg-type]

    def flush(self) -> None:
        if FailingWriter.full:
            raise RecordingError(str(self.path), "cannot be written: No space left on device")
        super().flush()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[FailingWriter]:
    monkeypatch.setattr(series, "LogWriter", FailingWriter)
    FailingWriter.full = False
    return FailingWriter


async def test_a_full_disk_ends_the_log_and_nothing_else(tmp_path: Path, disk: type[FailingWriter]) -> None:
    path = tmp_path / "run.mcap"
    async with Recorder(path, QUICK) as recorder:
        _offer(recorder, 5)
        await _until(lambda: recorder.statistics().written_messages == 5)
        disk.full = True
        _offer(recorder, 3, start=5)
        async with asyncio.timeout(PATIENCE_S):
            failure = await recorder.wait_failed()
        assert _offer(recorder, 4, start=8) == [False] * 4
        statistics = recorder.statistics()

    assert failure is recorder.failure
    assert "No space left" in failure.problem
    assert (statistics.written_messages, statistics.dropped_messages) == (5, 7)
    assert _payloads(path) == [0, 1, 2, 3, 4]


async def test_a_recorder_that_must_go_on_begins_a_new_file_when_there_is_room(
    tmp_path: Path, disk: type[FailingWriter]
) -> None:
    path = tmp_path / "run.mcap"
    async with Recorder(path, replace(QUICK, retry_s=0.02)) as recorder:
        _offer(recorder, 5)
        await _until(lambda: recorder.statistics().written_messages == 5)
        disk.full = True
        _offer(recorder, 3, start=5)
        await _until(lambda: recorder.failure is not None)
        assert _offer(recorder, 4, start=8) == [False] * 4
        disk.full = False
        await _until(lambda: recorder.failure is None)
        _offer(recorder, 2, start=12)

    assert recorder.statistics().dropped_messages == 7
    with LogReader(tmp_path / "run.1.mcap") as reader:
        assert [(gap.first_sequence, gap.count) for gap in reader.gaps()] == [(5, 3), (8, 4)]
        assert all("No space left" in gap.reason for gap in reader.gaps())
        assert [int(message.payload) for message in reader.messages()] == [12, 13]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
async def test_a_real_full_disk_is_noticed(tmp_path: Path) -> None:
    async with Recorder(tmp_path / "run.mcap", QUICK) as recorder:
        assert recorder._series is not None
        os.dup2(os.open("/dev/full", os.O_WRONLY), recorder._series._writer._file.fileno())
        _offer(recorder, 1)
        async with asyncio.timeout(PATIENCE_S):
            failure = await recorder.wait_failed()

    assert "No space left" in failure.problem


async def test_a_path_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be written"):
        async with Recorder(tmp_path / "none" / "run.mcap"):
            pass


async def test_messages_are_changed_on_their_way_if_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    options = replace(QUICK, transform=lambda message: replace(message, payload=b"7"))
    async with Recorder(path, options) as recorder:
        _offer(recorder, 3)

    assert _payloads(path) == [7, 7, 7]


async def test_a_bug_in_the_writing_thread_comes_out(tmp_path: Path) -> None:
    def broken(message: LoggedMessage) -> LoggedMessage:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with Recorder(tmp_path / "run.mcap", replace(QUICK, transform=broken)) as recorder:
            _offer(recorder, 1)


async def test_a_recorder_is_entered_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run.mcap")
    with pytest.raises(StateError):
        recorder.statistics()
    async with recorder:
        with pytest.raises(StateError):
            await recorder.__aenter__()
