"""What a worker receives: topics, wire messages, and what each one means to its frames."""

from __future__ import annotations

from pipeline.protocol.ports import Received, Subscription
from pipeline.protocol.reply_to import reply_to
from pipeline.protocol.worker_frames import WorkerFrames
from schemas import topics
from schemas.errors import TopicError, WireError
from schemas.messages import Ask, Chunk, FollowUp, Handover, KeyFrame, Open, Question, Revoke, Status, Text
from schemas.topics import Family


def subscriptions(worker: str, pool: str, *, draining: bool = False) -> tuple[Subscription, ...]:
    """Everything a worker listens to.

    Frames and hand-overs come at QoS 1, and the last wills of edges, which nobody repeats. What an edge sends to one
    worker comes at QoS 0: a loss there costs a repeated request.

    Args:
        worker: its name.
        pool: its pool.
        draining: it has left the share group.
    """
    always = (
        Subscription(topics.family_filter(Family.QUESTION), qos=1),
        Subscription(topics.family_filter(Family.ASK), qos=1),
        Subscription(f"{topics.ROOT}/{Family.STATUS}/worker/+"),
        Subscription(f"{topics.ROOT}/{Family.STATUS}/edge/+", qos=1),
        Subscription(topics.load_filter(pool)),
        Subscription(topics.inbox_filter(worker)),
        Subscription(topics.handover_topic(worker), qos=1),
        Subscription(topics.key_filter(pool), qos=1),
    )
    # Last: a frame should find its questions and its key frame known.
    return always if draining else (*always, Subscription(topics.share_filter(pool), qos=1))


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


def route(frames: WorkerFrames, received: Received, now_s: float) -> None:
    """Feed one message to the frames.

    Args:
        frames: of the worker.
        received: the message.
        now_s: the worker's monotonic time.

    Raises:
        RemoteError: not a valid message of its topic, or not for this worker; nothing was changed.
    """
    family = (topics.parse(received.topic) if received.decoded is None else received.decoded[0]).family
    if family not in _READ:
        raise TopicError(family, "not a topic that a worker reads")
    topic, message = received.decode()
    match message:
        case Open():
            with frames.alone("receive/open", topic.name("camera"), message.frame):
                frames.receive_open(topic.name("camera"), message, now_s)
        case Handover():
            with frames.alone("receive/handover", message.camera, message.frame):
                frames.receive_handover(message, now_s)
        case Chunk():
            with frames.alone("receive/chunk", topic.name("camera"), message.frame):
                frames.receive_chunk(topic.name("camera"), message, now_s)
        case KeyFrame():
            frames.receive_key_frame(topic.name("camera"), message)
        case FollowUp():
            with frames.alone("receive/follow_up", topic.name("camera"), message.frame):
                frames.receive_follow_up(topic.name("camera"), message, now_s)
        case Revoke():
            frames.receive_revoke(topic.name("camera"), message)
        case Text():
            frames.receive_text(message)
        case Question():
            frames.receive_question(message)
        case Ask():
            if received.retained:
                # A question is asked once. One that a broker keeps would come back after each start.
                raise WireError(family, "published with the retain flag: an ask is read once, by whoever is there")
            camera, client = topic.names
            address = reply_to(received.response_topic, received.correlation_data, camera, client, message.query_id)
            frames.receive_ask(camera, client, message, address)
        case Status() if family is Family.LOAD:
            frames.receive_load(message, now_s)
        case Status(kind="edge"):
            frames.receive_edge_status(message, now_s)
        case Status():
            frames.receive_status(message)
        case _:
            pass  # a retained question, key frame or status was cleared; frames keep the question they were opened with
