"""Reading logs: everything comes back, from one file or several, whole or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType, Writer

from pipeline.recording import writer
from pipeline.recording.format import Compression
from pipeline.recording.message import Gap, LoggedMessage
from pipeline.recording.reader import LogReader, open_logs
from pipeline.recording.writer import LogWriter
from schemas.errors import RecordingError
from tests.recording.messages import EPOCH_NS, message_lists, numbered, write_log


@settings(max_examples=50)
@given(messages=message_lists(), compression=st.sampled_from(Compression), flush_every=st.integers(1, 5))
def test_every_message_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, messages: list[LoggedMessage], compression: Compression, flush_every: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.mcap"
    write_log(path, messages, flush_every=flush_every, compression=compression)

    with LogReader(path) as reader:
        assert reader.complete
        assert list(reader.messages()) == messages
        assert reader.message_count == len(messages)
        if messages:
            assert (reader.start_ns, reader.stop_ns) == (messages[0].time_ns, messages[-1].time_ns)
    with LogReader(path, scan=True) as scanned:
        assert list(scanned.messages()) == messages
        assert scanned.damages == []


@settings(max_examples=50)
@given(start=st.integers(-5, 125), stop=st.integers(-5, 125), camera=st.integers(0, 2))
def test_a_part_of_a_log_is_chosen_by_time_and_topic(
    tmp_path_factory: pytest.TempPathFactory, start: int, stop: int, camera: int
) -> None:
    messages = numbered(120)
    path = tmp_path_factory.mktemp("log") / "a.mcap"
    write_log(path, messages, flush_every=9)
    start_ns, stop_ns = EPOCH_NS + start * 1_000_000, EPOCH_NS + stop * 1_000_000
    topic = f"lb/v2/answer/cam{camera}"

    with LogReader(path) as reader:
        found = list(reader.messages(start_ns=start_ns, stop_ns=stop_ns, topics=lambda name: name == topic))

    assert found == [
        message for message in messages if start_ns <= message.time_ns < stop_ns and message.topic == topic
    ]


def test_several_logs_are_one(tmp_path: Path) -> None:
    messages = numbered(60)
    north = write_log(tmp_path / "north.mcap", messages[::2])
    with LogWriter(tmp_path / "south.mcap", metadata={"replay": {"rate": "1"}}) as log:
        for message in messages[1::2]:
            log.write(message)
        log.write_gap(Gap(messages[-1].time_ns, 60, 2, "full"))
        log.attach("south.yaml", "application/yaml", b"b")

    with open_logs([tmp_path / "south.mcap", north]) as logs, open_logs([tmp_path]) as folder:
        assert list(logs.messages()) == messages
        assert list(folder.messages(start_ns=messages[40].time_ns)) == messages[40:]
        assert (logs.start_ns, logs.stop_ns) == (messages[0].time_ns, messages[-1].time_ns)
        assert logs.message_count == 60
        assert sum(logs.topics().values()) == 60
        assert [gap.count for gap in logs.gaps()] == [2]
        assert logs.metadata()["replay"] == {"rate": "1"}
        assert logs.attachments() == {"south.yaml": b"b"}
        assert logs.complete


def test_a_file_that_is_being_written_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    messages = numbered(50)
    log = LogWriter(tmp_path / "a.mcap")
    for message in messages[:30]:
        log.write(message)
    log.flush()

    with LogReader(log.path) as reader:
        assert not reader.complete
        assert reader.damages == []
        assert list(reader.messages()) == messages[:30]
    log.close()


def test_a_damaged_chunk_of_a_closed_log_is_said_and_not_passed_over(tmp_path: Path) -> None:
    path = write_log(tmp_path / "a.mcap", numbered(100), flush_every=20, compression=Compression.NONE)
    data = bytearray(path.read_bytes())
    data[data.index(numbered(100)[50].payload) + 3] ^= 1
    path.write_bytes(data)

    with LogReader(path) as reader, pytest.raises(RecordingError, match="latentbus recover") as caught:
        list(reader.messages())

    assert caught.value.offset is not None


def test_a_log_of_a_newer_version_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FORMAT_VERSION", 2)
    path = write_log(tmp_path / "a.mcap", numbered(1))

    with pytest.raises(RecordingError, match="format version 2, and this Latentbus reads up to 1: update it"):
        LogReader(path)


def test_what_is_no_log_is_a_typed_error(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("no log at all, but long enough for a header")
    foreign = tmp_path / "ros.mcap"
    with foreign.open("wb") as stream:
        other = Writer(stream, compression=CompressionType.NONE)
        other.start("ros2", "test")
        other.finish()  # type: ignore[no-untyped-call]
    (tmp_path / "empty").mkdir()

    with pytest.raises(RecordingError, match="no MCAP file"):
        LogReader(text)
    with pytest.raises(RecordingError, match="profile 'ros2', no Latentbus log"):
        LogReader(foreign)
    with pytest.raises(RecordingError, match="No such file"):
        LogReader(tmp_path / "none.mcap")
    with pytest.raises(RecordingError, match=r"no .mcap file in this folder"):
        open_logs([tmp_path / "empty"])


def test_a_log_of_another_writer_with_the_same_rules_is_read(tmp_path: Path) -> None:
    path = tmp_path / "other.mcap"
    with path.open("wb") as stream:
        other = Writer(stream, chunk_size=64)
        other.start("latentbus", "test")
        schema = other.register_schema("latentbus.Answer", "jsonschema", b"{}")
        channel = other.register_channel("lb/v2/answer/gate", "json", schema, {"qos": "1", "retain": "true"})
        for number in range(20):
            other.add_message(channel, EPOCH_NS + number, b"payload %d" % number, EPOCH_NS + number, number)
        other.finish()  # type: ignore[no-untyped-call]

    with LogReader(path) as reader:
        found = list(reader.messages())
    assert [(message.payload, message.qos, message.retain, message.sequence) for message in found] == [
        (b"payload %d" % number, 1, True, number) for number in range(20)
    ]
