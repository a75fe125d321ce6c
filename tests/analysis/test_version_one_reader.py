"""The reader of wire version 1: every message of the golden logs, byte for byte, and typed errors for all else."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.translation import LogDecoder
from analysis.version_one import LEVELS, is_version_one, read_version_one
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogReader
from schemas import topics
from schemas.errors import SchemaVersionError, TopicError, WireError, WireSizeError
from schemas.types import FrameId
from tests.recording.golden_log import path_of

NUMBERS = {
    "Open": 1, "Chunk": 2, "Gone": 3, "Text": 4, "Handover": 5, "Accept": 6, "Refine": 7, "Busy": 8, "Reject": 9,
    "NeedText": 10, "KeyFrame": 11,
}  # fmt: skip
NONE_OF_ITS_KIND = (b"\xc1 no message", b'{"broken')


def recorded() -> list[LoggedMessage]:
    """Messages of version 1 in the golden logs, those that are damaged left out."""
    found: list[LoggedMessage] = []
    for name in ("v1", "v1_key_frames", "v1_fleet"):
        with LogReader(path_of(name)) as reader:
            found += [message for message in reader.messages() if is_version_one(message.topic)]
    return [message for message in found if message.payload not in NONE_OF_ITS_KIND]


RECORDED = recorded()


def test_the_golden_logs_have_a_message_of_every_kind() -> None:
    kinds = Counter(read_version_one(message.topic, message.payload).kind for message in RECORDED)
    assert kinds.keys() == {*NUMBERS, "Answer", "QueryOutcome", "Question", "Ask", "Status", None}
    families = {read_version_one(message.topic, message.payload).family for message in RECORDED}
    assert families >= set(LEVELS) - {"reply"}


def test_what_was_read_is_what_was_written() -> None:
    for message in RECORDED:
        found = read_version_one(message.topic, message.payload)
        if found.kind in NUMBERS:
            assert msgpack.packb([1, NUMBERS[found.kind], *found.fields.values()]) == message.payload
        elif found.kind is not None:
            written = {"v": 1, **json.loads(message.payload)}
            assert {"v": 1, **found.fields, **_frame(found.fields)} == written
        assert message.topic == "/".join(("lb/v1", found.family, *found.names.values()))


def _frame(fields: object) -> dict[str, list[int]]:
    return {"frame": list(fields["frame"])} if isinstance(fields, dict) and "frame" in fields else {}


def test_an_answer_and_an_open_message_have_their_fields() -> None:
    with LogReader(path_of("v1_fleet")) as reader:
        old = [read_version_one(m.topic, m.payload) for m in reader.messages() if m in RECORDED]
    opened = next(found for found in old if found.kind == "Open")
    answer = next(found for found in old if found.kind == "Answer")
    assert opened.names == {"pool": "main", "camera": "gate"}
    assert opened.fields["frame"] == FrameId(0x1A2B3C4D, 1)
    assert opened.fields["queries"] == (("car", 7_500, False), ("count", 7_500, False))
    assert "key" not in opened.fields
    assert (answer.fields["question_id"], answer.fields["text"], answer.fields["outcome"]) == ("car", "yes", "answered")


def test_an_outcome_and_an_answer_are_told_apart_on_a_reply_topic() -> None:
    told: set[str | None] = set()
    for message in RECORDED:
        if message.topic.startswith(("lb/v1/answer/", "lb/v1/outcome/")):
            kind = read_version_one(message.topic, message.payload).kind
            values = {**json.loads(message.payload), "query_id": "ask-7f"}
            assert read_version_one("lb/v1/reply/phone/ask-7f", json.dumps(values).encode()).kind == kind
            told.add(kind)
    assert told == {"Answer", "QueryOutcome"}


@pytest.mark.parametrize(
    ("topic", "payload", "error"),
    [
        ("lb/v2/answer/gate", b"{}", TopicError),
        ("home/kitchen", b"21.5", TopicError),
        ("lb/v1/answer", b"{}", TopicError),
        ("lb/v1/answer/Gate", b"{}", TopicError),
        ("lb/v1/strange/gate", b"{}", TopicError),
        ("lb/v1/answer/gate", b"[]", WireError),
        ("lb/v1/answer/gate", b"{", WireError),
        ("lb/v1/answer/gate", b'{"camera":"yard","frame":[1,2]}', TopicError),
        ("lb/v1/answer/gate", b'{"v":2}', SchemaVersionError),
        ("lb/v1/answer/gate", b'{"v":"1"}', SchemaVersionError),
        ("lb/v1/answer/gate", b'{"frame":[1]}', WireError),
        ("lb/v1/ask/gate", b'{"owner":"x"}', WireError),
        ("lb/v1/open/main/gate", b"", WireError),
        ("lb/v1/open/main/gate", msgpack.packb([2, 1, [1, 2]]), SchemaVersionError),
        ("lb/v1/open/main/gate", msgpack.packb([1, 2, [1, 2]]), WireError),
        ("lb/v1/open/main/gate", msgpack.packb([1, 1, [1, 2]]), WireError),
        ("lb/v1/chunk/w1/gate", msgpack.packb([1, 3, "gate", [1, -2], 1]), WireError),
        ("lb/v1/open/main/gate", bytes(30_000), WireSizeError),
    ],
)
def test_all_else_is_a_typed_error(topic: str, payload: bytes, error: type[WireError]) -> None:
    with pytest.raises(error):
        read_version_one(topic, payload)


@given(number=st.integers(0, len(RECORDED) - 1), at=st.floats(0, 1), noise=st.binary(max_size=6))
def test_damage_never_raises_anything_else(number: int, at: float, noise: bytes) -> None:
    message = RECORDED[number]
    cut = int(len(message.payload) * at)
    with contextlib.suppress(WireError):
        read_version_one(message.topic, message.payload[:cut] + noise + message.payload[cut + len(noise) :])


@given(
    st.lists(
        st.tuples(st.integers(0, len(RECORDED) - 1), st.floats(0, 1), st.binary(max_size=6), st.booleans()), max_size=6
    )
)
def test_damaged_messages_are_translated_to_a_message_of_today_or_a_typed_error(
    damages: list[tuple[int, float, bytes, bool]],
) -> None:
    decoder = LogDecoder()
    for number, at, noise, cut_off in damages:
        message = RECORDED[number]
        cut = int(len(message.payload) * at)
        rest = b"" if cut_off else message.payload[cut + len(noise) :]
        with contextlib.suppress(WireError):
            topic, decoded = decoder.decode(replace(message, payload=message.payload[:cut] + noise + rest))
            assert decoded is None or type(decoded) in topics.MESSAGES[topic.family]
