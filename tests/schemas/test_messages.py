"""What a message admits, and what the keys mean."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest
from pydantic import ValidationError

from schemas import wire
from schemas.errors import WireError, WireSizeError
from schemas.identity import QuestionContent
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import (
    BINARY_MESSAGES,
    JSON_MESSAGES,
    RESERVED_KINDS,
    Answer,
    Ask,
    BinaryMessage,
    Chunk,
    Handover,
    JsonMessage,
    Kind,
    Message,
    Open,
    QueryRef,
    Question,
    Refine,
    Status,
    Text,
)
from schemas.topics import Family
from schemas.types import MAX_AGE_MS, AnswerType, FrameId, Outcome
from tests.schemas.golden import GOLDEN

DIGEST = bytes(8)
FIRST: dict[str, Message] = {type(case.message).__name__: case.message for case in reversed(GOLDEN)}
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
        ("Open", {"queries": tuple((f"q{n}", 1, DIGEST, None) for n in range(MAX_QUERIES_PER_FRAME + 1))}),
        ("Open", {"queries": (("q1", 1, DIGEST, None), ("q1", 2, DIGEST, None))}),
        ("Open", {"queries": (("q1", 1, DIGEST, "me"), ("q1", 2, bytes(range(8)), "me"))}),
        ("Open", {"queries": (("q1", 86_400_001, DIGEST, None),)}),
        ("Open", {"queries": (("q1", -1, DIGEST, None),)}),
        ("Open", {"queries": (("q1", 1, DIGEST, 0),)}),
        ("Open", {"queries": (("q1", 1, DIGEST[1:], None),)}),
        ("Open", {"queries": (("q1", 1, DIGEST + b"x", None),)}),
        ("Open", {"queries": (("q1", 1, "12345678", None),)}),
        ("Open", {"queries": (("q1", 1, DIGEST, "@me"),)}),
        ("Open", {"queries": (("Q1", 1, DIGEST, None),)}),
        ("Open", {"site": "a/b"}),
        ("Open", {"age_ms": -1}),
        ("Open", {"age_ms": MAX_AGE_MS + 1}),
        ("Open", {"age_ms": "young"}),
        ("Open", {"age_ms": b"unknown"}),
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
        ("NeedText", {"digests": ()}),
        ("NeedText", {"digests": (DIGEST,) * 17}),
        ("NeedText", {"digests": (b"",)}),
        ("Text", {"text": ""}),
        ("Text", {"text": "x" * 501}),
        ("Text", {"text": "\ud800"}),
        ("Text", {"answer_type": "poem"}),
        ("Text", {"answer_type": b"yes_no"}),
        ("Text", {"owner": "me"}),
        ("Text", {"owner": "site/a/b"}),
        ("Text", {"owner": "worker/w1"}),
        ("Text", {"options": ("yes", "no")}),
        ("Text", {"risk": 1.5}),
        ("Reject", {"reason": 99}),
        ("Reject", {"reason": "1"}),
        ("Reject", {"reason": True}),
        ("Reject", {"reason": 1.0}),
        ("Answer", {"score": float("nan")}),
        ("Answer", {"score": 1.01}),
        ("Answer", {"outcome": Outcome.EXPIRED}),
        ("Answer", {"query_id": "a\n"}),
        ("Answer", {"query_id": ""}),
        ("Answer", {"query_id": "ask-7f"}),
        ("Answer", {"query_id": "gate/@me"}),
        ("Answer", {"query_id": "gate/@me/q1/x"}),
        ("Answer", {"query_id": "gate/1a2b3c4d-01234567890/q1"}),
        ("Answer", {"owner": "phone-3"}),
        ("Answer", {"v": 1}),
        ("QueryOutcome", {"outcome": Outcome.ANSWERED}),
        ("QueryOutcome", {"outcome": None}),
        ("Question", {"risk": -0.1}),
        ("Question", {"set_by": "client"}),
        ("Question", {"cameras": ("c",) * 129}),
        ("Question", {"answer_type": AnswerType.CHOICE}),
        ("Question", {"answer_type": AnswerType.CHOICE, "options": ("open",)}),
        ("Question", {"answer_type": AnswerType.CHOICE, "options": ("open", " Open")}),
        ("Question", {"answer_type": AnswerType.CHOICE, "options": ("open", " ")}),
        ("Question", {"answer_type": AnswerType.CHOICE, "options": tuple("abcdefghijklmnopq")}),
        ("Question", {"answer_type": AnswerType.CHOICE, "options": ("a", "b" * 65)}),
        ("Ask", {"options": ("a", "b")}),
        ("Ask", {"query_id": "a/b"}),
        ("Status", {"kind": "toaster"}),
        ("Status", {"fingerprint": "C0FFEE01"}),
        ("Status", {"cameras": ("c",) * 129}),
        ("Status", {"versions": ()}),
        ("Status", {"versions": tuple(range(9))}),
        ("Receipt", {"about": "q" * 33}),
        ("Receipt", {"reason": "x" * 301}),
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


def test_same_id_may_name_a_standing_question_and_those_of_several_clients() -> None:
    refs = tuple(QueryRef("q1", 1, DIGEST, client) for client in (None, "alice", "bob"))
    message = changed(OPEN, queries=refs)

    assert isinstance(message, Open)
    assert message.query_ids("gate") == (f"gate/{OPEN.frame}/q1", "gate/@alice/q1", "gate/@bob/q1")
    assert [ref.ad_hoc for ref in message.queries] == [False, True, True]


@pytest.mark.parametrize("client", [None, "n" * 32])
def test_longest_query_id_is_a_query_id(client: str | None) -> None:
    frame = FrameId(2**32 - 1, 2**32 - 1)
    longest = changed(OPEN, frame=frame, queries=(QueryRef("q" * 32, 5, DIGEST, client),))
    assert isinstance(longest, Open)
    [query_id] = longest.query_ids("c" * 32)

    answer = changed(FIRST["Answer"], query_id=query_id)

    assert isinstance(answer, Answer)
    assert answer.query_id == query_id


def test_a_question_has_one_digest_wherever_it_is_said() -> None:
    common: dict[str, Any] = {"text": "How is it?", "answer_type": AnswerType.CHOICE, "options": ("good", "bad")}
    question = Question(site="north", question_id="q1", risk=0.02, **common)
    text = Text(camera="gate", owner="site/north", question_id="q1", risk=0.02, **common)
    ask = Ask(query_id="q1", **common)
    asked = Text(camera="gate", owner="client/alice", question_id="q1", **common)

    assert question.content() == text.content()
    assert ask.content("alice") == asked.content()
    assert question.content().digest == text.content().digest
    assert text.content().prompt == "How is it? Answer with one of: good, bad."


def test_every_part_of_a_question_is_in_its_digest() -> None:
    whole = QuestionContent("site/north", "q1", "How is it?", AnswerType.CHOICE, ("good", "bad"), 0.02)
    others: dict[str, Any] = {
        "owner": "client/north",
        "question_id": "q2",
        "text": "How is it ?",
        "answer_type": AnswerType.TEXT,
        "options": ("good", "bad "),
        "risk": None,
    }
    contents = [whole, *(replace(whole, **{name: other}) for name, other in others.items())]

    assert {*others, "digest"} == {field.name for field in fields(QuestionContent)}
    assert len({content.digest for content in contents}) == 1 + len(others)
    assert {len(content.digest) for content in contents} == {8}


def test_the_digest_of_a_question_never_changes() -> None:
    content = QuestionContent("site/north", "q1", "Ist das Tor offen? 🚪", AnswerType.CHOICE, ("ja", "nein"), 0.02)

    assert content.digest.hex() == "7b65e0ed2252381c"


def test_reserved_kinds_are_refused_by_name() -> None:
    for kind, purpose in RESERVED_KINDS.items():
        assert kind not in set(Kind)
        with pytest.raises(WireError, match=f"kind {kind} is reserved for {purpose}"):
            wire.decode(Family.OPEN, msgpack.packb([2, kind]))


def test_a_field_that_has_its_default_is_left_out_and_nothing_else_decodes() -> None:
    plain = wire.encode(OPEN)
    aged = changed(OPEN, age_ms=5)
    assert OPEN.key is None

    assert wire.encode(aged) == plain[:1].replace(b"\x99", b"\x9b") + plain[1:] + b"\xc0\x05"
    assert wire.decode(Family.OPEN, wire.encode(aged)) == aged
    values = msgpack.unpackb(plain)
    for longer in ([*values, None], [*values, None, None], [*values, 7, None]):
        with pytest.raises(WireError, match="its default stands where the field is left out"):
            wire.decode(Family.OPEN, msgpack.packb(longer))


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
