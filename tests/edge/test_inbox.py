from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_nodes import inbox
from pipeline.protocol.effects import ReplyTo
from schemas import topics, wire
from schemas.errors import TopicError, WireError
from schemas.messages import Accept, Message, Question, Status
from schemas.types import FrameId
from tests.edge.support import inbound
from tests.edge.test_asks import answer


def test_a_message_and_its_topic() -> None:
    accept = Accept(worker="w-1", frame=FrameId(1, 2), attempt=1, lease_ms=100)
    topic, message = inbox.read(inbound(topics.control_topic("gate"), wire.encode(accept)))
    assert (topic.name("camera"), message) == ("gate", accept)


def test_a_deleted_question_is_no_message() -> None:
    topic, message = inbox.read(inbound(topics.question_topic("car"), b"", retain=True))
    assert (topic.name("question_id"), message) == ("car", None)
    with pytest.raises(WireError):
        inbox.read(inbound(topics.control_topic("gate"), b""))


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        (topics.answer_topic("yard"), answer()),
        (topics.question_topic("bus"), Question(question_id="car", text="Is there a car?")),
        (topics.status_topic("worker", "w-2"), Status(kind="worker", id="w-1", boot=1, online=True)),
        (topics.status_topic("edge", "w-1"), Status(kind="worker", id="w-1", boot=1, online=True)),
    ],
)
def test_a_payload_that_contradicts_its_topic_is_refused(topic: str, message: Message) -> None:
    with pytest.raises(TopicError, match="the topic says"):
        inbox.read(inbound(topic, wire.encode(message)))


@given(
    topic=st.one_of(
        st.text(max_size=40),
        st.sampled_from([topics.control_topic("gate"), topics.answer_topic("gate"), topics.ask_topic("gate")]),
    ),
    payload=st.binary(max_size=200),
)
def test_any_bytes_are_a_message_or_a_wire_error(topic: str, payload: bytes) -> None:
    try:
        _, message = inbox.read(inbound(topic, payload))
    except WireError:
        return
    assert message is None or isinstance(message, Message)


def test_replies_go_under_the_reply_topics_only() -> None:
    ask = topics.ask_topic("gate")
    assert inbox.reply_to(inbound(ask, b"")) is None
    good = "lb/v1/reply/me/q1"
    assert inbox.reply_to(inbound(ask, b"", response_topic=good)) == ReplyTo(good, None)
    for bad in ("lb/v1/open/main/gate", "home/x", "", "lb/v1/reply/+/q1"):
        with pytest.raises(TopicError):
            inbox.reply_to(inbound(ask, b"", response_topic=bad))
