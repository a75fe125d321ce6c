"""From bytes on a topic to a message that says what it must, or the typed error."""

from __future__ import annotations

from pipeline.bus.base import Inbound
from pipeline.protocol.effects import ReplyTo
from schemas import topics, wire
from schemas.errors import TopicError
from schemas.messages import Answer, Message, Question, Status
from schemas.topics import Family, Topic


def read(inbound: Inbound) -> tuple[Topic, Message | None]:
    """Parse topic and payload.

    Returns:
        The topic, and the message; None for a retained one that was deleted.

    Raises:
        WireError: either is none of ours, or they contradict each other.
    """
    topic = topics.parse(inbound.topic)
    if not inbound.payload and topic.family in (Family.QUESTION, Family.STATUS):
        return topic, None
    message = wire.decode(topic.family, inbound.payload)
    match message:
        case Answer():
            _agree(topic, "camera", message.camera)
        case Question():
            _agree(topic, "question_id", message.question_id)
        case Status():
            _agree(topic, "kind", message.kind)
            _agree(topic, "id", message.id)
    return topic, message


def reply_to(inbound: Inbound) -> ReplyTo | None:
    """Where the sender wants its replies.

    Raises:
        TopicError: anywhere but under the reply topics: a question must not make the edge write elsewhere.
    """
    if inbound.response_topic is None:
        return None
    topic = topics.parse(inbound.response_topic)
    if topic.family is not Family.REPLY:
        raise TopicError(Family.ASK, f"response topic {inbound.response_topic!r} is no reply topic")
    return ReplyTo(inbound.response_topic, inbound.correlation_data)


def _agree(topic: Topic, level: str, value: str) -> None:
    if topic.name(level) != value:
        raise TopicError(topic.family, f"the topic says {level} {topic.name(level)!r}, the payload {value!r}")
