"""What a message admits, and what the keys mean."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from pydantic import ValidationError

from schemas import wire
from schemas.errors import WireError, WireSizeError
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import (
    BINARY_MESSAGES,
    JSON_MESSAGES,
    Answer,
    BinaryMessage,
    Chunk,
    Handover,
    JsonMessage,
    Kind,
    Message,
    Open,
    QueryRef,
    Refine,
    Status,
)
from schemas.topics import Family
from schemas.types import QUERY_ID_PATTERN, FrameId, Outcome
from tests.schemas.golden import GOLDEN

FIRST: dict[str, Message] = {type(case.message).__name__: case.message for case in GOLDEN}
OPEN = next(case.message for case in GOLDEN if isinstance(case.message, Open))
HANDOVER = next(case.message for case in GOLDEN if isinstance(case.message, Handover))


def changed(message: Message, **fields: Any) -> Message:
    return type(message).model_validate({**dict(message), **fields})


def subclasses(base: type[Message]) -> set[type[Message]]:
    return {c for child in base.__subclasses__() for c in {child, *subclasses(child)} if not c.__name__.startswith("_")}


def test_registries_are_complete() -> None:
    assert set(BINARY_MESSAGES) == subclasses(BinaryMessage)
    assert set(JSON_MESSAGES) == subclasses(JsonMessage)
    assert sorted(message.kind for message in BINARY_MESSAGES) == sorted(Kind)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Open", {"attempt": 0}),
        ("Open", {"attempt": 256}),
        ("Open", {"attempt": True}),
        ("Open", {"attempt": 1.0}),
        ("Open", {"frame": (1, 2**32)}),
        ("Open", {"frame": (1, -1)}),
        ("Open", {"frame": (1,)}),
        ("Open", {"frame": ("1", 2)}),
        ("Open", {"fingerprint": b"abc"}),
        ("Open", {"fingerprint": "abcd"}),
        ("Open", {"queries": ()}),
        ("Open", {"queries": tuple((f"q{n}", 1, False) for n in range(MAX_QUERIES_PER_FRAME + 1))}),
        ("Open", {"queries": (("q1", 1, False), ("q1", 2, False))}),
        ("Open", {"queries": (("q1", 86_400_001, False),)}),
        ("Open", {"queries": (("q1", -1, False),)}),
        ("Open", {"queries": (("q1", 1, 0),)}),
        ("Open", {"queries": (("Q1", 1, False),)}),
        ("Open", {"stop": 0}),
        ("Open", {"stop": 4_097}),
        ("Open", {"payload": b""}),
        ("Open", {"payload": b"x" * 16_385}),
        ("Open", {"unknown": 1}),
        ("Chunk", {"start": 24}),
        ("Chunk", {"start": 25}),
        ("Chunk", {"camera": "a/b"}),
        ("Refine", {"start": 24}),
        ("Refine", {"lease_ms": 0}),
        ("Handover", {"hops": 0}),
        ("Handover", {"hops": 9}),
        ("NeedText", {"question_ids": ()}),
        ("NeedText", {"question_ids": ("q",) * 17}),
        ("Text", {"text": ""}),
        ("Text", {"text": "x" * 501}),
        ("Text", {"text": "\ud800"}),
        ("Text", {"answer_type": "poem"}),
        ("Text", {"answer_type": b"yes_no"}),
        ("Reject", {"reason": 99}),
        ("Reject", {"reason": "1"}),
        ("Reject", {"reason": True}),
        ("Reject", {"reason": 1.0}),
        ("Answer", {"score": float("nan")}),
        ("Answer", {"score": 1.01}),
        ("Answer", {"outcome": Outcome.EXPIRED}),
        ("Answer", {"query_id": "a\n"}),
        ("Answer", {"query_id": ""}),
        ("Answer", {"v": 2}),
        ("QueryOutcome", {"outcome": Outcome.ANSWERED}),
        ("QueryOutcome", {"outcome": None}),
        ("Question", {"risk": -0.1}),
        ("Ask", {"query_id": "a/b"}),
        ("Status", {"kind": "toaster"}),
        ("Status", {"fingerprint": "C0FFEE01"}),
        ("Status", {"cameras": ("c",) * 129}),
    ],
)
def test_values_outside_the_schema_are_refused(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(FIRST[name], **fields)
    assert changed(FIRST[name]) == FIRST[name]


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        OPEN.attempt = 2  # type: ignore[misc]


def test_too_many_fields_and_too_few_are_refused() -> None:
    values = msgpack.unpackb(wire.encode(OPEN))
    for wrong in (values[:-1], [*values, None], values[:2], values[:1], [values]):
        with pytest.raises(WireError):
            wire.decode(Family.OPEN, msgpack.packb(wrong))


def test_same_id_may_name_a_standing_and_an_ad_hoc_question() -> None:
    message = changed(OPEN, queries=(QueryRef("q1", 1, False), QueryRef("q1", 1, True)))

    assert isinstance(message, Open)
    assert len(set(message.query_ids("gate"))) == 2


def test_query_ids_are_derived_for_standing_questions_and_kept_for_ad_hoc_ones() -> None:
    message = changed(OPEN, frame=FrameId(10, 3), queries=(QueryRef("q1", 5), QueryRef("ask-1", 5, True)))

    assert isinstance(message, Open)
    assert message.query_ids("gate") == ("gate/0000000a-3/q1", "ask-1")


def test_longest_derived_query_id_is_a_query_id() -> None:
    longest = changed(OPEN, frame=FrameId(2**32 - 1, 2**32 - 1), queries=(QueryRef("q" * 32, 5),))
    assert isinstance(longest, Open)

    answer = changed(FIRST["Answer"], query_id=longest.query_ids("c" * 32)[0])

    assert isinstance(answer, Answer)
    assert len(answer.query_id) <= 96
    assert QUERY_ID_PATTERN.endswith("{0,95}$")


def test_handover_carries_the_open_message_whole() -> None:
    inner = HANDOVER.to_open()

    assert {name: getattr(inner, name) for name in Open.model_fields} == {
        name: getattr(HANDOVER, name) for name in Open.model_fields
    }


def test_message_over_its_limit_is_not_encoded() -> None:
    oversize = Status.model_construct(kind="edge", id="e", boot=1, online=True, cameras=("n" * 32,) * 1_000)

    with pytest.raises(WireSizeError) as caught:
        wire.encode(oversize)
    assert caught.value.size_bytes > caught.value.limit_bytes == Status.limit_bytes


def test_range_messages_share_their_rule() -> None:
    for message in (Chunk, Refine):
        with pytest.raises(ValidationError, match=r"latent range 9\.\.9 is empty"):
            changed(FIRST[message.__name__], start=9, stop=9)
