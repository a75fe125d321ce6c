"""What is written stands in an MCAP file that the reader of the format's own authors opens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mcap.reader import NonSeekingReader, make_reader

from pipeline.recording import container, writer
from pipeline.recording.format import Compression, channel_format
from pipeline.recording.message import Gap, LoggedMessage, MqttProperties
from pipeline.recording.reader import LogReader
from pipeline.recording.writer import LogWriter
from schemas.errors import RecordingError, StateError
from tests.recording.messages import EPOCH_NS, numbered, write_log


@pytest.mark.parametrize("compression", Compression)
def test_another_reader_sees_topics_payloads_times_and_schemas(tmp_path: Path, compression: Compression) -> None:
    messages = [
        LoggedMessage(EPOCH_NS, "lb/v2/status/edge/north", b"{}", 1, True, None, 0),
        LoggedMessage(EPOCH_NS + 1, "lb/v2/open/main/gate", b"\x93", 1, False, MqttProperties(expiry_s=3), 1),
        LoggedMessage(EPOCH_NS + 1, "home/door", b"open", 0, False, None, 2),
    ]
    path = write_log(tmp_path / "a.mcap", messages, compression=compression)

    with path.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        seen = {channel.topic: (schema, channel, message) for schema, channel, message in reader.iter_messages()}
    schema, channel, message = seen["lb/v2/status/edge/north"]
    assert schema is not None
    assert (schema.name, schema.encoding, channel.message_encoding) == ("latentbus.Status", "jsonschema", "json")
    assert json.loads(schema.data)["type"] == "object"
    assert (message.data, message.log_time, message.publish_time, message.sequence) == (b"{}", EPOCH_NS, EPOCH_NS, 0)
    assert channel.metadata == {"qos": "1", "retain": "true"}
    schema, channel, message = seen["lb/v2/open/main/gate"]
    assert schema is not None
    assert (schema.name, channel.message_encoding, message.data) == ("latentbus.Open", "msgpack", b"\x93")
    schema, channel, _ = seen["home/door"]
    assert schema is None
    assert channel.message_encoding == ""
    assert json.loads(seen["$local/mqtt/properties"][2].data) == {"expiry_s": 3}


def test_a_streaming_reader_agrees_with_every_checksum(tmp_path: Path) -> None:
    path = write_log(tmp_path / "a.mcap", numbered(500), flush_every=7)

    with path.open("rb") as stream:
        found = [message.data for _, channel, message in NonSeekingReader(stream, validate_crcs=True).iter_messages()
                 if not channel.topic.startswith("$local/")]  # fmt: skip

    assert found == [message.payload for message in numbered(500)]


def test_a_topic_with_several_messages_has_one_schema_with_all_of_them() -> None:
    text = channel_format("lb/v2/control/gate").schema

    assert text is not None
    assert [entry["title"] for entry in json.loads(text.data)["anyOf"]] == [
        "Accept", "Refine", "Busy", "Reject", "NeedText",
    ]  # fmt: skip


def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    path = write_log(tmp_path / "a.mcap", numbered(3))
    before = path.read_bytes()

    with pytest.raises(RecordingError, match="exists already"):
        LogWriter(path)

    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be written: No such file") as caught:
        LogWriter(tmp_path / "none" / "a.mcap")

    assert caught.value.path == str(tmp_path / "none" / "a.mcap")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with LogWriter(path) as log:
        log._file.flush()
        os.dup2(os.open("/dev/full", os.O_WRONLY), log._file.fileno())
        log.write(numbered(1)[0])

        with pytest.raises(RecordingError, match="No space left"):
            log.flush()
        log.abandon()


def test_what_was_flushed_survives_the_end_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from pipeline.recording.writer import LogWriter; from tests.recording.messages import numbered\n"
        "log = LogWriter(Path(sys.argv[1]))\n"
        "for message in numbered(100): log.write(message)\n"
        "log.flush()\n"
        "for message in numbered(50, start=100): log.write(message)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)

    assert done.returncode == -signal.SIGKILL
    with LogReader(path) as reader:
        assert not reader.complete
        assert list(reader.messages()) == numbered(100)


def test_properties_stand_in_the_chunk_of_their_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "CHUNK_BYTES", 100)
    messages = numbered(200)
    path = write_log(tmp_path / "a.mcap", messages)

    with LogReader(path) as reader:
        assert len(reader.index.chunks) > 50
        assert list(reader.messages()) == messages
        middle = messages[101].time_ns
        assert list(reader.messages(start_ns=middle)) == messages[101:]


def test_metadata_and_attachments_can_be_added_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with LogWriter(path, metadata={"latentbus": {"filters": "[]"}, "replay": {"rate": "2"}}) as log:
        log.write(numbered(1)[0])
        log.attach("site.yaml", "application/yaml", b"a: 1")
        log.metadata("fingerprints", {"worker/w1": "00ff00ff"})
        log.metadata("replay", {"rate": "3", "source": "b.mcap"})

    with LogReader(path) as reader:
        metadata = reader.metadata()
        assert metadata["latentbus"]["format_version"] == "1"
        assert metadata["latentbus"]["filters"] == "[]"
        assert metadata["replay"] == {"rate": "3", "source": "b.mcap"}
        assert metadata["fingerprints"] == {"worker/w1": "00ff00ff"}
        assert reader.attachments() == {"site.yaml": b"a: 1"}


def test_gaps_are_no_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    gap = Gap(EPOCH_NS + 5, 3, 7, "more came than could be written")
    with LogWriter(path) as log:
        log.write(numbered(1)[0])
        log.write_gap(gap)

    with LogReader(path) as reader:
        assert reader.gaps() == [gap]
        assert reader.message_count == len(list(reader.messages())) == 1


def test_a_file_without_a_channel_left_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_CHANNELS", 5)
    messages = [LoggedMessage(EPOCH_NS, f"t/{number}", b"", sequence=number) for number in range(4)]
    with LogWriter(tmp_path / "a.mcap") as log:
        for message in messages[:3]:
            log.write(message)

        assert log.has_room(messages[0])
        assert not log.has_room(messages[3])
        with pytest.raises(RecordingError, match="no channel left for 't/3'"):
            log.write(messages[3])
        log.write_gap(Gap(EPOCH_NS, 3, 1, "kept for this"))


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.mcap")
    log.close()
    log.close()

    with pytest.raises(StateError):
        log.write(numbered(1)[0])
    with pytest.raises(StateError):
        log.flush()


def test_sizes_are_told_with_what_is_still_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with LogWriter(path, compression=Compression.NONE) as log:
        before = log.size_bytes
        for message in numbered(10, size_bytes=1000):
            log.write(message)
        assert 10_000 < log.size_bytes - before < 20_000
        log.flush()
        assert path.stat().st_size == log.size_bytes
    assert container.CHUNK_BYTES == 1 << 20
