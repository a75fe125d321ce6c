"""Hostile bytes on every topic: they decode or raise the typed error, quickly and in little memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import wire
from schemas.errors import SchemaVersionError, WireError, WireSizeError
from schemas.messages import BINARY_MESSAGES, SCHEMA_VERSION, Ask, BinaryMessage, Kind, Message
from schemas.topics import MESSAGES, Family
from tests.schemas.golden import GOLDEN
from tests.schemas.strategies import BY_MESSAGE

BINARY_FAMILIES = [family for family in Family if issubclass(MESSAGES[family][0], BinaryMessage)]
JSON_FAMILIES = [family for family in Family if family not in BINARY_FAMILIES]


def decodes_or_raises(family: Family, data: bytes) -> Message | None:
    """The message, None if the bytes are none; any error but a WireError fails the test."""
    try:
        message = wire.decode(family, data)
    except WireError as error:
        refusal = error
    else:
        assert isinstance(message, MESSAGES[family])
        assert wire.decode(family, wire.encode(message)) == message
        return message
    assert refusal.reason in {"malformed", "version", "oversize"}
    assert len(str(refusal)) < 400
    assert str(refusal).isprintable()
    return None


@pytest.mark.parametrize("message", BY_MESSAGE, ids=lambda message: message.__name__)
@given(data=st.data())
@settings(max_examples=60)
def test_every_valid_message_fits_its_limit_and_comes_back(message: type[Message], data: st.DataObject) -> None:
    value = data.draw(BY_MESSAGE[message])
    encoded = wire.encode(value)
    family = next(family for family, admitted in MESSAGES.items() if message in admitted)

    assert wire.decode(family, encoded) == value


@pytest.mark.parametrize("family", Family)
@given(data=st.binary(max_size=256))
@settings(max_examples=1_000)
def test_arbitrary_bytes(family: Family, data: bytes) -> None:
    decodes_or_raises(family, data)


msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.just(msgpack.Timestamp(1, 2))
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    head=st.tuples(st.integers(0, 3), st.sampled_from(Kind) | st.integers(0, 255)),
    fields=st.lists(msgpack_values, max_size=9),
)
@settings(max_examples=200)
def test_arbitrary_msgpack_behind_a_good_head(head: tuple[int, int], fields: list[Any]) -> None:
    for family in BINARY_FAMILIES:
        decodes_or_raises(family, msgpack.packb([*head, *fields]))


@pytest.mark.parametrize("message", BINARY_MESSAGES, ids=lambda message: message.__name__)
@given(data=st.data())
@settings(max_examples=60)
def test_valid_binary_message_with_one_field_replaced(message: type[BinaryMessage], data: st.DataObject) -> None:
    family = next(family for family, admitted in MESSAGES.items() if message in admitted)
    values = msgpack.unpackb(wire.encode(data.draw(BY_MESSAGE[message])))
    values[data.draw(st.integers(0, len(values) - 1))] = data.draw(msgpack_values)

    decodes_or_raises(family, msgpack.packb(values)[: message.limit_bytes])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("family", JSON_FAMILIES)
@given(data=st.data())
@settings(max_examples=100)
def test_valid_json_message_with_one_field_replaced(family: Family, data: st.DataObject) -> None:
    values = json.loads(wire.encode(data.draw(BY_MESSAGE[data.draw(st.sampled_from(MESSAGES[family]))])))
    key = data.draw(st.sampled_from(sorted(values)) | st.text(max_size=40))
    values[key] = data.draw(json_values)

    decodes_or_raises(family, json.dumps(values).encode())


HOSTILE_BINARY = {
    "nothing": b"",
    "reserved byte": b"\xc1",
    "array of 4 billion": b"\xdd\xff\xff\xff\xff",
    "map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "string of 4 GB": b"\xdb\xff\xff\xff\xffabc",
    "bin of 4 GB": b"\x93\x02\x01\xc6\xff\xff\xff\xff",
    "extension of 4 GB": b"\xc9\xff\xff\xff\xff\x01",
    "arrays in arrays": b"\x91" * 100,
    "wide arrays in wide arrays": b"\xdc\x00\x40" * 33,
    "largest arrays in each other": b"\xdd\x00\x00\x00\x40" * 20,
    "string that is not UTF-8": b"\x92\x02\xa4\xff\xfe\xfd\xfc",
    "negative version": b"\x92\xff\x01",
    "largest version": b"\x92\xcf" + b"\xff" * 8 + b"\x01",
    "version is true": b"\x92\xc3\x01",
    "version is a float": b"\x92\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\x01",
    "version is NaN": b"\x92\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x01",
}

HOSTILE_JSON = {
    "nothing": b"",
    "null": b"null",
    "not UTF-8": b'{"text":"\xff\xfe"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "lone surrogate": b'{"query_id":"a","text":"\\ud800"}',
    "NaN": b'{"query_id":"a","text":"b","deadline_ms":NaN}',
    "infinite": b'{"query_id":"a","text":"b","deadline_ms":1e999}',
    "exponent": b'{"query_id":"a","text":"b","deadline_ms":1e4}',
    "arrays in arrays": b"[" * 100,
    "objects in objects": b'{"a":' * 20,
    "version is huge": b'{"v":' + b"9" * 90 + b"}",
    "version is true": b'{"v":true}',
    "version is text": b'{"v":"1"}',
    "line breaks in a key": b'{"query_id":"a","text":"b","x\\ny\\u001b[2J":1}',
}


@pytest.mark.parametrize("family", Family)
def test_hostile_payloads_raise_in_little_memory(family: Family) -> None:
    hostile = HOSTILE_BINARY if family in BINARY_FAMILIES else HOSTILE_JSON
    for name, data in hostile.items():
        assert len(data) <= 100, name
        decodes_or_raises(family, data)  # warm: caches and messages of the libraries
        tracemalloc.start()
        try:
            message = decodes_or_raises(family, data)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert message is None, name
        assert peak_bytes < 128 * 1024, name


@pytest.mark.parametrize("family", Family)
def test_largest_hostile_payloads_stay_below_a_megabyte(family: Family) -> None:
    limit_bytes = max(message.limit_bytes for message in MESSAGES[family])
    patterns = (b"\x91", b"\xdc\x00\x40", b"\x81\x01", b"[", b'{"a":', b"[0,", b"9", b"\xff")
    for pattern in patterns:
        data = (pattern * limit_bytes)[:limit_bytes]
        tracemalloc.start()
        try:
            assert decodes_or_raises(family, data) is None
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 1024 * 1024, pattern


@pytest.mark.parametrize("family", Family)
def test_oversize_is_refused_before_it_is_read(family: Family) -> None:
    limit_bytes = max(message.limit_bytes for message in MESSAGES[family])

    with pytest.raises(WireSizeError) as caught:
        wire.decode(family, b"\x00" * (limit_bytes + 1))
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (limit_bytes + 1, limit_bytes)


def test_small_kind_keeps_its_own_limit_on_a_topic_with_larger_ones() -> None:
    revoke = next(case for case in GOLDEN if case.name == "gone")
    padded = msgpack.packb([SCHEMA_VERSION, int(Kind.REVOKE), "g" * 2_000, [1, 2], 1])

    assert isinstance(wire.decode(Family.CHUNK, revoke.path.read_bytes()), type(revoke.message))
    with pytest.raises(WireSizeError) as caught:
        wire.decode(Family.CHUNK, padded)
    assert caught.value.where == "Revoke"


def test_version_beyond_any_digit_limit_does_not_break_the_error() -> None:
    with pytest.raises(WireError):
        wire.decode(Family.ASK, b'{"v":' + b"9" * 5_000 + b"}")
    with pytest.raises(SchemaVersionError):
        wire.decode(Family.ASK, b'{"v":' + b"9" * 40 + b"}")


def test_a_version_that_comes_later_may_have_other_fields() -> None:
    with pytest.raises(SchemaVersionError) as caught:
        wire.decode(Family.STATUS, b'{"v":3,"new_field":[]}')
    assert caught.value.version == 3


def test_a_key_that_a_peer_chose_does_not_fill_the_log() -> None:
    with pytest.raises(WireError) as caught:
        wire.decode(Family.ASK, json.dumps({"query_id": "a", "text": "b", "k" * 3_000: 1}).encode())
    assert len(str(caught.value)) < 300


def test_false_is_no_version() -> None:
    with pytest.raises(WireError) as caught:
        wire.decode(Family.ASK, b'{"v":false,"query_id":"a","text":"b"}')
    assert not isinstance(caught.value, SchemaVersionError)


def test_problem_names_the_field_and_never_the_value() -> None:
    with pytest.raises(WireError) as caught:
        wire.decode(Family.ASK, json.dumps({"query_id": "a", "text": "secret " * 100}).encode())
    assert caught.value.problem.startswith("text: ")
    assert "secret" not in str(caught.value)


def test_reply_that_is_nearly_an_outcome_is_explained_as_one() -> None:
    outcome = {"query_id": "c/@m/a", "owner": "client/m", "camera": "c", "frame": [1, 2], "question_id": "a"}
    outcome["outcome"] = "exploded"

    with pytest.raises(WireError, match=r"^reply: outcome: "):
        wire.decode(Family.REPLY, json.dumps(outcome).encode())


def test_version_may_be_left_out_by_hand() -> None:
    assert wire.decode(Family.ASK, b'{"query_id":"a","text":"b"}') == Ask(query_id="a", text="b")
