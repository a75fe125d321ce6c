"""What a worker receives: topics, wire messages, and which input of the session each one is."""

from __future__ import annotations

from pipeline.bus.base import Inbound, Subscription
from pipeline.protocol.reply_to import reply_to
from pipeline.protocol.worker_session import WorkerSession
from schemas import topics, wire
from schemas.errors import TopicError, WireError
from schemas.messages import Ask, Chunk, Gone, Handover, KeyFrame, Open, Question, Status, Text
from schemas.topics import Family


def subscriptions(worker: str, pool: str) -> tuple[Subscription, ...]:
    """Everything a worker listens to.

    Frames and hand-overs come at QoS 1, and the last wills of edges, which nobody repeats. What an edge sends to one
    worker comes at QoS 0: a loss there costs a repeated request.
    """
    return (
        Subscription(topics.family_filter(Family.QUESTION), qos=1),
        Subscription(topics.family_filter(Family.ASK), qos=1),
        Subscription(f"{topics.ROOT}/{Family.STATUS}/worker/+"),
        Subscription(f"{topics.ROOT}/{Family.STATUS}/edge/+", qos=1),
        Subscription(topics.load_filter(pool)),
        Subscription(topics.inbox_filter(worker)),
        Subscription(topics.handover_topic(worker), qos=1),
        Subscription(topics.key_filter(pool), qos=1),
        # Last: a frame should find its questions and its key frame known.
        Subscription(topics.share_filter(pool), qos=1),
    )


_READ = frozenset(
    {
        Family.OPEN,
        Family.HANDOVER,
        Family.CHUNK,
        Family.KEY,
        Family.QUESTION,
        Family.ASK,
        Family.STATUS,
        Family.LOAD,
    }
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
    family = topics.parse(inbound.topic).family
    if family not in _READ:
        raise TopicError(family, "not a topic that a worker reads")
    topic, message = wire.decode_publish(inbound.topic, inbound.payload)
    match message:
        case Open():
            with session.alone("receive/open", topic.name("camera"), message.frame):
                session.receive_open(topic.name("camera"), message, now_s)
        case Handover():
            with session.alone("receive/handover", message.camera, message.frame):
                session.receive_handover(message, now_s)
        case Chunk():
            with session.alone("receive/chunk", topic.name("camera"), message.frame):
                session.receive_chunk(topic.name("camera"), message, now_s)
        case KeyFrame():
            session.receive_key_frame(topic.name("camera"), message)
        case Gone():
            session.receive_gone(topic.name("camera"), message)
        case Text():
            session.receive_text(message)
        case Question():
            session.receive_question(message)
        case Ask():
            if inbound.retain:
                # A question is asked once. One that a broker keeps would come back after each start.
                raise WireError(family, "published with the retain flag: an ask is read once, by whoever is there")
            camera, client = topic.names
            address = reply_to(inbound.response_topic, inbound.correlation_data, camera, client, message.query_id)
            session.receive_ask(camera, client, message, address)
        case Status() if family is Family.LOAD:
            session.receive_load(message, now_s)
        case Status(kind="edge"):
            session.receive_edge_status(message, now_s)
        case Status():
            session.receive_status(message)
        case _:
            pass  # a retained question, key frame or status was cleared; frames keep the question they were opened with
