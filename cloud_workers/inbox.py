"""What a worker receives: topics, wire messages, and which input of the session each one is."""

from __future__ import annotations

from pipeline.bus.base import Inbound, Subscription
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.worker_session import WorkerSession
from schemas import topics, wire
from schemas.errors import TopicError, WireError
from schemas.messages import Ask, Chunk, Gone, Handover, Open, Question, Status, Text
from schemas.topics import Family, Topic


def subscriptions(worker: str, pool: str) -> tuple[Subscription, ...]:
    """Everything a worker listens to.

    Frames and hand-overs come at QoS 1, what an edge sends to one worker at QoS 0: a loss there costs a repeated
    request.
    """
    return (
        Subscription(topics.family_filter(Family.QUESTION), qos=1),
        Subscription(topics.family_filter(Family.ASK), qos=1),
        Subscription(f"{topics.ROOT}/{Family.STATUS}/worker/+"),
        Subscription(topics.inbox_filter(worker)),
        Subscription(topics.handover_topic(worker), qos=1),
        # Last: a frame should find its questions known.
        Subscription(topics.share_filter(pool), qos=1),
    )


def receive(session: WorkerSession, inbound: Inbound, now_s: float) -> None:
    """Feed one message from the broker to the session.

    Args:
        session: the worker's session.
        inbound: the message.
        now_s: the worker's monotonic time.

    Raises:
        RemoteError: not a valid message of its topic, or not for this worker; nothing was changed.
    """
    topic = topics.parse(inbound.topic)
    match topic.family:
        case Family.OPEN:
            _open(session, topic, inbound, now_s)
        case Family.HANDOVER:
            _handover(session, inbound, now_s)
        case Family.CHUNK:
            _from_edge(session, topic, inbound, now_s)
        case Family.QUESTION:
            _question(session, topic, inbound)
        case Family.ASK:
            _ask(session, inbound)
        case Family.STATUS:
            _status(session, topic, inbound)
        case _:
            raise TopicError(topic.family, "not a topic that a worker reads")


def _open(session: WorkerSession, topic: Topic, inbound: Inbound, now_s: float) -> None:
    message = wire.decode(Family.OPEN, inbound.payload)
    if isinstance(message, Open):
        session.receive_open(topic.name("camera"), message, now_s)


def _handover(session: WorkerSession, inbound: Inbound, now_s: float) -> None:
    message = wire.decode(Family.HANDOVER, inbound.payload)
    if isinstance(message, Handover):
        session.receive_handover(message, now_s)


def _from_edge(session: WorkerSession, topic: Topic, inbound: Inbound, now_s: float) -> None:
    message = wire.decode(Family.CHUNK, inbound.payload)
    camera = topic.name("camera")
    if isinstance(message, Chunk):
        session.receive_chunk(camera, message, now_s)
    elif isinstance(message, Gone):
        session.receive_gone(camera, message)
    elif isinstance(message, Text):
        if message.camera != camera:
            raise TopicError(Family.CHUNK, f"topic names camera {camera!r}, payload {message.camera!r}")
        session.receive_text(message)


def _question(session: WorkerSession, topic: Topic, inbound: Inbound) -> None:
    question_id = topic.name("question_id")
    if not inbound.payload:  # how a retained message is withdrawn
        session.receive_question(question_id, None)
        return
    message = wire.decode(Family.QUESTION, inbound.payload)
    if isinstance(message, Question):
        if message.question_id != question_id:
            raise TopicError(Family.QUESTION, f"topic names question {question_id!r}, payload {message.question_id!r}")
        session.receive_question(question_id, message)


def _ask(session: WorkerSession, inbound: Inbound) -> None:
    message = wire.decode(Family.ASK, inbound.payload)
    if isinstance(message, Ask):
        session.receive_ask(message, _reply_to(inbound, message.query_id))


def _reply_to(inbound: Inbound, query_id: str) -> ReplyTo | None:
    """Where the client wants its answers; only its own reply topic, or anybody could make workers write anywhere."""
    if inbound.response_topic is None:
        return None
    topic = topics.parse(inbound.response_topic)
    if topic.family is not Family.REPLY or topic.name("query_id") != query_id:
        raise TopicError(Family.ASK, f"response topic {inbound.response_topic!r} is no reply topic of {query_id!r}")
    return ReplyTo(inbound.response_topic, inbound.correlation_data)


def _status(session: WorkerSession, topic: Topic, inbound: Inbound) -> None:
    if not inbound.payload:
        return  # an operator has cleared the retained status of a worker that is long gone
    message = wire.decode(Family.STATUS, inbound.payload)
    if isinstance(message, Status):
        if (message.kind, message.id) != topic.names:
            raise TopicError(Family.STATUS, f"topic names {'/'.join(topic.names)}, payload {message.kind}/{message.id}")
        session.receive_status(message)


def kind_of(inbound: Inbound) -> str:
    """Topic family for logs and counters, of low cardinality whatever a stranger publishes."""
    try:
        return topics.parse(inbound.topic).family
    except WireError:
        return "topic"
