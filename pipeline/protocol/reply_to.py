"""Where the client of an ad-hoc question wants its answers, as edge and worker read it."""

from __future__ import annotations

from pipeline.protocol.effects import ReplyTo
from schemas import topics
from schemas.errors import WireError, WireSizeError
from schemas.limits import MAX_CORRELATION_BYTES
from schemas.topics import Family


def reply_to(
    response_topic: str | None, correlation_data: bytes | None, camera: str, client: str, query_id: str
) -> ReplyTo | None:
    """The reply topic of an ask, with what the client wants to see again there.

    Args:
        response_topic: MQTT 5 property of the publish that carried the ask.
        correlation_data: the same.
        camera: the camera that its topic names.
        client: the client that its topic names.
        query_id: of the ask.

    Returns:
        None where the client named no reply topic of this query of its own. An ask must not make others publish
        elsewhere, so it is answered on the public topics alone.

    Raises:
        WireSizeError: more correlation data than every process that may reply is willing to keep.
    """
    size_bytes = len(correlation_data or b"")
    if size_bytes > MAX_CORRELATION_BYTES:
        raise WireSizeError("ask: CorrelationData", size_bytes, MAX_CORRELATION_BYTES)
    if response_topic is None:
        return None
    try:
        topic = topics.parse(response_topic)
    except WireError:
        return None
    if topic.family is not Family.REPLY or topic.names != (client, camera, query_id):
        return None
    return ReplyTo(response_topic, correlation_data)
