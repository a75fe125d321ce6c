"""Redacted messages: nothing private survives, and everything else is as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.redact.redaction import PLACEHOLDERS, Redaction, redacted, redaction_value, redactor
from analysis.traffic import Traffic, read_traffic
from pipeline.recording.message import LoggedMessage, MqttProperties
from pipeline.recording.reader import LogReader
from pipeline.recording.stored_latent import StoredLatent, decode_stored_latent, encode_stored_latent, latent_topic
from schemas import topics
from schemas.messages import Answer, Ask, Message, NeedText, Open, Question, Text
from schemas.types import AnswerType, FrameId
from schemas.wire import decode_publish, encode
from tests.recording.fleet_log import CHUNK_PAYLOAD, OPEN_PAYLOAD, demo_log
from tests.recording.golden_log import path_of
from tests.schemas.golden import GOLDEN, Golden
from tests.schemas.strategies import BY_MESSAGE

BOTH = tuple(Redaction)
characters = st.characters(exclude_categories=["Cs"])


def latents_of(message: Message | None) -> bytes:
    return getattr(message, "payload", b"")


def text_of(message: Message | None) -> str:
    return getattr(message, "text", "")


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.name)
def test_every_message_stays_valid_and_as_long_as_it_was(case: Golden) -> None:
    original = LoggedMessage(7, case.topic, encode(case.message), 1, True, None, 3)
    after = redactor(BOTH)(original)
    _, message = decode_publish(after.topic, after.payload)
    assert type(message) is type(case.message)
    assert (after.time_ns, after.topic, after.qos, after.retain, after.sequence) == (7, case.topic, 1, True, 3)
    assert len(after.payload) == len(original.payload)
    assert latents_of(message) == bytes(len(latents_of(case.message)))
    assert len(text_of(message)) == len(text_of(case.message))
    assert set(text_of(message)) <= set(PLACEHOLDERS.values())
    assert message is not None
    private = {"payload", "text", "options", "queries", "digests", "events", "keep_when"} & type(
        message
    ).model_fields.keys()
    kept = {name: getattr(case.message, name) for name in private}
    assert message.model_copy(update=kept) == case.message


def test_no_digest_of_an_open_message_survives_in_another_kind() -> None:
    opened = next(case for case in GOLDEN if case.name == "open_first")
    assert isinstance(opened.message, Open)
    digests = {ref.digest for ref in opened.message.queries}
    kinds = 0
    for case in GOLDEN:
        payload = encode(case.message)
        if any(digest in payload for digest in digests):
            after = redactor([Redaction.TEXT])(LoggedMessage(0, case.topic, payload)).payload
            assert not any(digest in after for digest in digests), case.name
            kinds += 1
    assert kinds > 3


def test_digests_of_texts_go_and_equal_ones_stay_equal() -> None:
    opened, asked = (next(case for case in GOLDEN if case.name == name) for name in ("open_first", "need_text"))
    assert isinstance(opened.message, Open)
    assert isinstance(asked.message, NeedText)
    digests = tuple(ref.digest for ref in opened.message.queries)
    assert digests == asked.message.digests

    def of(redact: Callable[[LoggedMessage], LoggedMessage]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        found = [
            decode_publish(case.topic, redact(LoggedMessage(0, case.topic, encode(case.message))).payload)[1]
            for case in (opened, asked)
        ]
        assert isinstance(found[0], Open)
        assert isinstance(found[1], NeedText)
        assert [ref._replace(digest=b"") for ref in found[0].queries] == [
            ref._replace(digest=b"")
            for ref in opened.message.queries  # type: ignore[attr-defined]
        ]
        return tuple(ref.digest for ref in found[0].queries), found[1].digests

    once, again = of(redactor([Redaction.TEXT])), of(redactor([Redaction.TEXT]))
    assert once[0] == once[1]
    assert len({*digests, *once[0], *again[0]}) == 6
    assert of(redactor([Redaction.LATENTS])) == (digests, digests)


@given(st.data())
def test_options_stay_different_and_as_long_as_they_were(data: st.DataObject) -> None:
    message = data.draw(st.one_of(*(BY_MESSAGE[kind] for kind in (Question, Ask, Text))))
    assert isinstance(message, Question | Ask | Text)
    topic = {
        Question: lambda: topics.question_topic(message.site, message.question_id),  # type: ignore[union-attr]
        Ask: lambda: topics.ask_topic("c", "client"),
        Text: lambda: topics.chunk_topic("w", message.camera),  # type: ignore[union-attr]
    }[type(message)]()
    after = redactor([Redaction.TEXT])(LoggedMessage(0, topic, encode(message)))
    _, seen = decode_publish(topic, after.payload)

    assert isinstance(seen, Question | Ask | Text)
    assert len(after.payload) == len(encode(message))
    assert seen.answer_type is message.answer_type
    assert [len(option) for option in seen.options] == [len(option) for option in message.options]
    assert len(set(seen.options)) == len(message.options)


@pytest.mark.parametrize("name", ["v1", "v1_key_frames", "v1_fleet"])
def test_a_log_of_version_one_is_redacted_and_keeps_its_shape(name: str) -> None:
    with LogReader(path_of(name)) as reader:
        before = list(reader.messages())
    after = [redactor(BOTH)(message) for message in before]

    assert [len(message.payload) for message in after] == [len(message.payload) for message in before]
    assert read_traffic(after).undecodable == read_traffic(before).undecodable
    assert read_traffic(after).messages == read_traffic(before).messages
    private = b"".join(message.payload for message in after)
    assert not [
        text for text in (b"Is there a red car?", b"Ist das Tor", b"nobody at all", OPEN_PAYLOAD) if text in private
    ]
    texts = [query.text for query in read_traffic(after).queries.values() if query.text]
    assert all(set(text) <= set(PLACEHOLDERS.values()) for text in texts)
    assert bool(texts) == (name != "v1_key_frames")


def test_each_kind_leaves_the_other_alone() -> None:
    log = demo_log().messages
    for kind, keeps, loses in (
        (Redaction.LATENTS, [b"Is there a red car?", b"nobody at all"], [OPEN_PAYLOAD, CHUNK_PAYLOAD]),
        (Redaction.TEXT, [OPEN_PAYLOAD, CHUNK_PAYLOAD], [b"Is there a red car?", b"nobody at all"]),
    ):
        payloads = b"".join(redactor([kind])(message).payload for message in log)
        assert all(kept in payloads for kept in keeps)
        assert not any(lost in payloads for lost in loses)
    assert [redactor(())(message) for message in log] == log


def test_shape_and_timing_read_as_before() -> None:
    log = demo_log().messages
    before, after = read_traffic(log), read_traffic(map(redactor(BOTH), log))

    def shape(traffic: Traffic) -> object:
        return (
            [
                (q.query_id, q.outcome, q.latents, q.score, q.latency_ms, q.answer_type)
                for q in traffic.queries.values()
            ],
            [(f.wire_bytes, f.latent_bytes, len(f.chunks)) for f in traffic.frames.values()],
            (traffic.uplink_bytes, traffic.downlink_bytes, traffic.fingerprints, traffic.undecodable, traffic.start_ns),
        )

    assert shape(after) == shape(before)
    assert after.queries["yard/@phone/ask-7f"].text == "x" * len("Who parks at the ramp?")
    assert after.queries["yard/@phone/ask-7f"].answer_text == "x" * len("nobody at all")


def test_a_message_that_does_not_decode_is_blank() -> None:
    for topic in ("home/kitchen/camera", "lb/v2/answer/gate", "$local/latent/gate", "$local/something"):
        after = redactor([Redaction.TEXT])(LoggedMessage(0, topic, b"the safe is open"))
        assert after.payload == bytes(16)


def test_properties_of_clients_are_text() -> None:
    properties = MqttProperties(
        correlation_data=b"alice", response_topic="lb/v2/reply/a/gate/b", user=(("who", "alïce"),)
    )
    logged = LoggedMessage(0, "lb/v2/ask/gate", b"", properties=properties)
    after = redactor([Redaction.TEXT])(logged).properties
    assert after == MqttProperties(
        correlation_data=bytes(5), response_topic="lb/v2/reply/a/gate/b", user=(("who", "xx¤xx"),)
    )
    assert redactor([Redaction.LATENTS])(logged).properties == properties


def test_a_stored_latent_is_redacted_too() -> None:
    stored = StoredLatent("gate", FrameId(1, 2), base=8, stop=64, payload=b"whole latent")
    logged = LoggedMessage(0, latent_topic("gate"), encode_stored_latent(stored))
    after = redactor([Redaction.LATENTS])(logged)
    assert len(after.payload) == len(logged.payload)
    assert decode_stored_latent(after.topic, after.payload) == StoredLatent("gate", FrameId(1, 2), 8, 64, bytes(12))
    assert redactor([Redaction.TEXT])(logged) == logged


def test_json_of_a_foreign_client_keeps_its_length() -> None:
    payload = b'{ "query_id": "q1",\n  "text": "caf\\u00e9 \\/ bar", "v": 2 }'
    after = redactor([Redaction.TEXT])(LoggedMessage(0, topics.ask_topic("gate", "client"), payload))
    assert len(after.payload) == len(payload)
    _, message = decode_publish(after.topic, after.payload)
    assert isinstance(message, Ask)
    assert message.text == "xxx¤xxxxxx"


@given(st.text(characters, min_size=4, max_size=60), st.binary(min_size=4, max_size=60))
def test_no_four_characters_of_a_text_survive(text: str, correlation: bytes) -> None:
    frame = FrameId(1, 2)
    messages = [
        (topics.ask_topic("c", "client"), Ask(query_id="q", text=text)),
        (
            topics.chunk_topic("w", "c"),
            Text(camera="c", owner="site/n", question_id="q", text=text, answer_type=AnswerType.WORD),
        ),
        (
            topics.answer_topic("c"),
            Answer(
                query_id="c/@n/q", owner="client/n", camera="c", frame=frame, attempt=1, question_id="q", worker="w",
                text=text, score=0.5,
                latents=1, payload_bytes=1, looks=1,
            ),
        ),
    ]  # fmt: skip
    for topic, message in messages:
        logged = LoggedMessage(0, topic, encode(message), properties=MqttProperties(correlation_data=correlation))
        after = redactor([Redaction.TEXT])(logged)
        _, seen = decode_publish(topic, after.payload)
        assert len(after.payload) == len(logged.payload)
        for start in range(len(text) - 3):
            window = text[start : start + 4]
            assert set(window) <= set(PLACEHOLDERS.values()) or window not in text_of(seen)
        assert after.properties == MqttProperties(correlation_data=bytes(len(correlation)))


def test_a_log_says_what_was_taken_out() -> None:
    assert redaction_value(BOTH) == "latents,text"
    for kinds in ((), (Redaction.TEXT,), BOTH):
        assert redacted({"latentbus": {"redaction": redaction_value(kinds)}}) == frozenset(kinds)
    assert redacted({}) == frozenset()
