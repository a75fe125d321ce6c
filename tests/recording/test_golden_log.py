"""A log of one version opens in the next: the golden logs hold what they held when they were written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.recording.format import FORMAT_VERSION
from pipeline.recording.reader import LogReader
from pipeline.recording.traffic import read_traffic
from pipeline.recording.writer import LogWriter
from schemas.errors import RecordingError
from schemas.messages import BINARY_MESSAGES, JSON_MESSAGES
from schemas.wire import decode_publish
from tests.recording.golden_log import ATTACHMENTS, FOLDER, GAP, METADATA, golden_messages, path_of


def test_every_version_has_its_golden_log() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == [f"v{n}.mcap" for n in range(1, FORMAT_VERSION + 1)]


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_an_old_log_says_exactly_what_was_recorded(version: int) -> None:
    with LogReader(path_of(version)) as reader:
        assert reader.complete
        assert list(reader.messages()) == golden_messages()
        assert reader.gaps() == [GAP]
        metadata = reader.metadata()
        assert metadata["latentbus"].pop("format_version") == str(version)
        assert metadata == METADATA
        assert reader.attachments() == {name: data for name, (_, data) in ATTACHMENTS.items()}
        assert reader.start_ns == golden_messages()[0].time_ns
        assert reader.message_count == len(golden_messages())


def test_the_golden_log_has_a_message_of_every_kind_and_reads_as_traffic() -> None:
    with LogReader(path_of(1)) as reader:
        messages = list(reader.messages())
    ours = [message for message in messages if message.topic.startswith("lb/") and message.payload[:1] != b"\xc1"]
    kinds = {type(decode_publish(message.topic, message.payload)[1]) for message in ours}
    assert kinds == {*BINARY_MESSAGES, *JSON_MESSAGES, type(None)}
    traffic = read_traffic(messages)
    assert traffic.undecodable == {"foreign/topic": 1, "open/malformed": 1}
    assert traffic.messages["$local/latent"] == 1


def test_a_log_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "future.mcap"
    newer = str(FORMAT_VERSION + 1)
    with LogWriter(path, metadata={"latentbus": {"format_version": newer}}) as writer:
        for message in golden_messages():
            writer.write(message)
    with pytest.raises(RecordingError, match=f"format version {newer}.*reads up to {FORMAT_VERSION}: update it"):
        LogReader(path)
