"""Where the client of an ad-hoc question wants its answers, as edge and worker read it."""

from __future__ import annotations

from pipeline.bus.base import Inbound
from pipeline.protocol.effects import ReplyTo
from schemas import topics
from schemas.errors import TopicError
from schemas.topics import Family


def reply_to(inbound: Inbound, query_id: str) -> ReplyTo | None:
    """The reply topic of an ask, with what the client wants to see again there.

    Args:
        inbound: the publish that carried the ask.
        query_id: of the ask.

    Raises:
        TopicError: anything but a reply topic of this query: an ask must not make others publish elsewhere.
    """
    if inbound.response_topic is None:
        return None
    topic = topics.parse(inbound.response_topic)
    if topic.family is not Family.REPLY or topic.name("query_id") != query_id:
        raise TopicError(Family.ASK, f"response topic {inbound.response_topic!r} is no reply topic of {query_id!r}")
    return ReplyTo(inbound.response_topic, inbound.correlation_data)
