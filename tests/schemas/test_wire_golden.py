"""Golden bytes, and everything that a link or a peer may do to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from schemas import topics, wire
from schemas.errors import RemoteError, WireError
from schemas.messages import BINARY_MESSAGES, JSON_MESSAGES, Open, QueryRef
from schemas.topics import Family
from schemas.types import FrameId
from tests.schemas.golden import FOLDER, GOLDEN, Golden

every_case = pytest.mark.parametrize("case", GOLDEN, ids=[case.name for case in GOLDEN])


@every_case
def test_golden_bytes_are_the_encoding(case: Golden) -> None:
    data = case.path.read_bytes()

    assert wire.encode(case.message) == data
    assert wire.decode_publish(case.topic, data) == (topics.parse(case.topic), case.message)


def test_every_message_and_every_file_has_its_case() -> None:
    assert {type(case.message) for case in GOLDEN} == {*BINARY_MESSAGES, *JSON_MESSAGES}
    assert {case.path.name for case in GOLDEN} == {path.name for path in FOLDER.iterdir()}
    assert {topics.parse(case.topic).family for case in GOLDEN} == set(Family)


def test_open_message_written_by_hand_after_the_msgpack_specification() -> None:
    by_hand = bytes.fromhex(
        "99"  # array of 9
        "02 01"  # schema version, kind
        "92 ce1a2b3c4d cd01a1"  # frame: boot, sequence
        "01"  # attempt
        "a5 6e6f727468"  # site: "north"
        "c404 c0ffee01"  # fingerprint, bin
        "91 94 a27131 cd2648 c408 0123456789abcdef c0"  # one query: "q1", 9800 ms, digest, standing
        "08"  # stop
        "c403 010203"  # payload, bin
    )
    message = Open(
        frame=FrameId(0x1A2B3C4D, 417),
        attempt=1,
        site="north",
        fingerprint=bytes.fromhex("c0ffee01"),
        queries=(QueryRef("q1", 9_800, bytes.fromhex("0123456789abcdef")),),
        stop=8,
        payload=b"\x01\x02\x03",
    )

    assert wire.encode(message) == by_hand
    assert wire.decode(Family.OPEN, by_hand) == message


@every_case
def test_truncations_raise(case: Golden) -> None:
    data = case.path.read_bytes()
    for length in range(len(data)):
        with pytest.raises(WireError):
            wire.decode(topics.parse(case.topic).family, data[:length])


@every_case
def test_trailing_bytes_raise(case: Golden) -> None:
    data = case.path.read_bytes()
    for more in (b"\x00", b"x", b"{}", data):
        with pytest.raises(WireError):
            wire.decode(topics.parse(case.topic).family, data + more)


@every_case
def test_flipped_bytes_decode_to_a_sound_message_or_raise(case: Golden) -> None:
    family = topics.parse(case.topic).family
    data = case.path.read_bytes()
    sound = 0
    for position in range(len(data)):
        for flip in (0xFF, *(1 << bit for bit in range(8))):
            damaged = bytearray(data)
            damaged[position] ^= flip
            try:
                message = wire.decode(family, bytes(damaged))
            except WireError:
                continue
            # The wire has no checksum of its own (TCP and TLS have): what decodes must at least be one message.
            assert wire.decode(family, wire.encode(message)) == message
            sound += 1
    assert sound < len(data) * 9


@every_case
def test_other_versions_are_refused_by_name(case: Golden) -> None:
    family = topics.parse(case.topic).family
    data = case.path.read_bytes()
    for version in (0, 1, 3, 127):
        if case.path.suffix == ".msgpack":
            other = data[:1] + msgpack.packb(version) + data[2:]
        else:
            other = data.replace(b'"v":2', b'"v":%d' % version)
        with pytest.raises(WireError) as caught:
            wire.decode(family, other)
        assert caught.value.reason == "version"
        assert getattr(caught.value, "version", None) == version


@pytest.mark.parametrize("position", [0, 1], ids=["version", "kind"])
@pytest.mark.parametrize("convert", [float, bool, str, lambda number: [number], lambda number: {number: 1}])
def test_version_and_kind_are_integers_and_nothing_that_equals_one(
    position: int, convert: Callable[[int], Any]
) -> None:
    opened = next(case for case in GOLDEN if case.name == "open_first")
    values = msgpack.unpackb(opened.path.read_bytes())
    assert wire.decode(Family.OPEN, msgpack.packb(values)) == opened.message

    values[position] = convert(values[position])

    with pytest.raises(WireError):
        wire.decode(Family.OPEN, msgpack.packb(values))


@every_case
def test_message_on_a_topic_of_another_family_is_refused(case: Golden) -> None:
    data = case.path.read_bytes()
    for family in Family:
        if type(case.message) not in topics.MESSAGES[family]:
            with pytest.raises(RemoteError):
                wire.decode(family, data)
