"""Redacted copies of whole logs: nothing private in the file, everything else as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from analysis.redact.redacted_copy import copy_redacted
from analysis.redact.redaction import Redaction, redacted
from analysis.traffic import read_traffic
from latentbus.cli import app
from pipeline.recording.format import Compression
from pipeline.recording.message import Gap, LoggedMessage, MqttProperties
from pipeline.recording.reader import LogReader
from pipeline.recording.stored_latent import StoredLatent, encode_stored_latent, latent_topic
from pipeline.recording.writer import LogWriter
from schemas import topics
from schemas.errors import ConfigError, RecordingError
from schemas.messages import Answer, Ask, Chunk, Handover, Open, QueryRef, Question, Text
from schemas.types import AnswerType, FrameId, Outcome
from schemas.wire import encode
from tests.recording.fleet_log import START_NS, demo_log

BOTH = tuple(Redaction)
FRAME = FrameId(1, 2)
GAP = Gap(START_NS + 1_600_000_000, first_sequence=100, count=3, reason="the queue was full")
# Letters that no topic, schema, name or number in a file has, so that what is found is what was put in.
texts = st.text("QZЖщ門閉🚚", min_size=4, max_size=40)
latents = st.lists(st.integers(0x80, 0xFE), min_size=8, max_size=60).map(bytes)


def private_messages(text: str, latent: bytes) -> Iterator[tuple[str, bytes]]:
    """Every place of the wire and of a local log that holds text or latents."""
    queries = (QueryRef("q", 5_000, bytes(8)),)
    opened = Open(frame=FRAME, attempt=1, site="n", fingerprint=b"\1\2\3\4", queries=queries, stop=8, payload=latent)
    answer = Answer(
        query_id="c/@n/q", owner="client/n", camera="c", frame=FRAME, attempt=1, question_id="q", worker="w",
        outcome=Outcome.ANSWERED, text=text, score=0.5, latents=8, payload_bytes=9, looks=1,
    )  # fmt: skip
    yield topics.question_topic("n", "q"), encode(Question(site="n", question_id="q", text=text))
    yield topics.ask_topic("c", "client"), encode(Ask(query_id="q", text=text))
    yield topics.open_topic("p", "c"), encode(opened)
    yield (
        topics.chunk_topic("w", "c"),
        encode(Chunk(camera="c", frame=FRAME, attempt=1, start=8, stop=9, payload=latent)),
    )
    yield topics.handover_topic("w"), encode(Handover(camera="c", hops=1, **dict(opened)))
    yield (
        topics.chunk_topic("w", "c"),
        encode(Text(camera="c", owner="site/n", question_id="q", text=text, answer_type=AnswerType.WORD)),
    )
    yield topics.answer_topic("c"), encode(answer)
    yield topics.reply_topic("n", "c", "q"), encode(answer)
    yield latent_topic("c"), encode_stored_latent(StoredLatent("c", FRAME, base=8, stop=32, payload=latent))
    yield "elsewhere/note", text.encode()
    yield topics.answer_topic("c"), b"{" + text.encode() + latent


def write(path: Path, messages: Iterable[LoggedMessage], **metadata: dict[str, str]) -> Path:
    with LogWriter(path, metadata=metadata) as writer:
        writer.attach("config.yaml", "text/yaml", b"questions: {car: {text: QZQZ}}")
        writer.attach("codec.json", "application/json", b"{}")
        writer.write_gap(GAP)
        for message in messages:
            writer.write(message)
    return path


@settings(max_examples=40)
@given(texts, latents)
def test_no_text_and_no_latents_survive_in_the_file(text: str, latent: bytes) -> None:
    properties = MqttProperties(correlation_data=text.encode(), user=(("who", text),))
    messages = [
        LoggedMessage(START_NS, topic, payload, 1, False, properties, number)
        for number, (topic, payload) in enumerate(private_messages(text, latent))
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = write(Path(folder) / "in.mcap", messages), Path(folder) / "out.mcap"
        with LogReader(source) as reader:
            assert copy_redacted(reader, target, BOTH, compression=Compression.NONE) == len(messages)
        raw = target.read_bytes()
        with LogReader(target) as reader:
            copied = list(reader.messages())
    for start in range(len(text) - 3):
        assert text[start : start + 4].encode() not in raw
    for start in range(len(latent) - 7):
        assert latent[start : start + 8] not in raw
    assert [(m.time_ns, m.topic, len(m.payload), m.qos, m.sequence) for m in copied] == [
        (m.time_ns, m.topic, len(m.payload), m.qos, m.sequence) for m in messages
    ]
    # All that was a message still is one; the two that were none stay none.
    assert read_traffic(copied).undecodable == read_traffic(messages).undecodable


def test_the_copy_keeps_gaps_and_metadata_and_says_what_was_taken_out(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.mcap",
        demo_log().sorted(),
        latentbus={"start": "then", "redaction": "latents", "software_version": "0.0.1"},
        replay={"rate": "10"},
    )
    target = tmp_path / "out.mcap"
    with LogReader(source) as reader:
        copy_redacted(reader, target, [Redaction.TEXT])
    with LogReader(target) as reader:
        metadata = reader.metadata()
        assert redacted(metadata) == set(BOTH)
        assert (metadata["latentbus"]["start"], metadata["replay"]) == ("then", {"rate": "10"})
        assert metadata["latentbus"]["software_version"] != "0.0.1"
        assert reader.gaps() == [GAP]
        assert reader.attachments() == {"codec.json": b"{}"}
        assert reader.complete


def test_attachments_stay_when_only_latents_are_taken_out(tmp_path: Path) -> None:
    with LogReader(write(tmp_path / "in.mcap", demo_log().sorted())) as reader:
        copy_redacted(reader, tmp_path / "out.mcap", [Redaction.LATENTS])
    with LogReader(tmp_path / "out.mcap") as reader:
        assert set(reader.attachments()) == {"config.yaml", "codec.json"}


def test_a_copy_that_fails_is_no_file(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mcap", demo_log().sorted())

    def interrupted(messages: Iterable[LoggedMessage]) -> Iterator[LoggedMessage]:
        yield next(iter(messages))
        raise KeyboardInterrupt

    with LogReader(source) as reader, pytest.raises(KeyboardInterrupt):
        copy_redacted(reader, tmp_path / "out.mcap", BOTH, watch=interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mcap"]


def test_the_command_copies_and_refuses_to_overwrite(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.mcap", demo_log().sorted()), tmp_path / "out.mcap"
    arguments = ["redact", str(source), str(target), "--latents", "--text"]
    told = CliRunner().invoke(app, arguments)
    said = f"{target}: {len(demo_log().messages)} messages, redacted: latents, text"
    assert (told.exit_code, told.output.replace("\n", "")) == (0, said)
    before = target.read_bytes()
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, RecordingError)
    assert target.read_bytes() == before


def test_the_command_wants_to_know_what(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mcap", demo_log().sorted())
    told = CliRunner().invoke(app, ["redact", str(source), str(tmp_path / "out.mcap")])
    assert isinstance(told.exception, ConfigError)
    assert "--latents, --text or both" in str(told.exception)
    assert not (tmp_path / "out.mcap").exists()
