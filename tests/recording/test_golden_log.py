"""A log of one version opens in the next: the golden logs hold what they held when they were written."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.traffic import read_traffic
from pipeline.recording.format import FORMAT_VERSION
from pipeline.recording.reader import LogReader
from pipeline.recording.writer import LogWriter
from schemas.errors import RecordingError
from schemas.messages import BINARY_MESSAGES, JSON_MESSAGES, EventPicture
from schemas.topics import carries_pixels
from schemas.wire import decode_publish
from tests.recording.golden_log import (
    ATTACHMENTS,
    CURRENT,
    DIGESTS,
    FLEET_LOGS,
    FOLDER,
    GAP,
    LOGS,
    METADATA,
    START_NS,
    digest,
    golden_messages,
    path_of,
)

VERSIONS = [(version, name) for version, names in LOGS.items() for name in names]


def test_every_version_has_its_golden_log() -> None:
    assert sorted(LOGS) == list(range(1, FORMAT_VERSION + 1))
    assert sorted(FOLDER.iterdir()) == sorted(path_of(name) for name in DIGESTS)
    assert set(DIGESTS) == {*FLEET_LOGS, *(name for _, name in VERSIONS)}


@pytest.mark.parametrize("name", DIGESTS)
def test_an_old_log_holds_every_byte_that_was_recorded(name: str) -> None:
    with LogReader(path_of(name)) as reader:
        assert digest(reader.messages()) == DIGESTS[name]


@pytest.mark.parametrize(("version", "name"), VERSIONS)
def test_an_old_log_says_exactly_what_was_recorded(version: int, name: str) -> None:
    with LogReader(path_of(name)) as reader:
        messages = list(reader.messages())
        assert reader.complete
        assert digest(messages) == DIGESTS[name]
        assert reader.gaps() == [GAP]
        metadata = reader.metadata()
        assert metadata["latentbus"].pop("format_version") == str(version)
        assert metadata == METADATA
        assert reader.attachments() == {name: data for name, (_, data) in ATTACHMENTS.items()}
        assert reader.start_ns == messages[0].time_ns == START_NS
        assert reader.message_count == len(messages)


def test_the_golden_log_of_this_version_has_a_message_of_every_kind_and_reads_as_traffic() -> None:
    with LogReader(path_of(CURRENT)) as reader:
        messages = list(reader.messages())
    assert messages == golden_messages()
    ours = [message for message in messages if message.topic.startswith("lb/") and message.payload[:1] != b"\xc1"]
    kinds = {type(decode_publish(message.topic, message.payload)[1]) for message in ours}
    assert not any(carries_pixels(message.topic) for message in messages)
    assert kinds == {*BINARY_MESSAGES, *JSON_MESSAGES, type(None)} - {EventPicture}
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
