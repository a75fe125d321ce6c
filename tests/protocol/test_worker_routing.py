"""What a worker makes of each message that it receives, and of those that it should not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.effects import InferencePass
from pipeline.protocol.ports import Acknowledge, Contained, Delivery, PassFailure, Problem, Publish, Received, RunBatch
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_routing import subscriptions
from pipeline.protocol.worker_session import WorkerOutput, WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from schemas import topics, wire
from schemas.errors import LatentbusError, RemoteError, SchemaVersionError, TopicError, WireError
from schemas.identity import QuestionContent
from schemas.messages import Answer, Message, NeedText, Open, RejectReason, Revoke, Status, Text
from schemas.topics import Family
from schemas.types import AnswerType, FrameId
from tests.protocol.questions import SITE, ask_message, content, published, ref

FINGERPRINT = b"tiny"
RULE = StopRule((3, 5, 8), (0.9, 0.6, 0.0), {}, 0.02)
CLIENT = "phone"
WHO = "Who is there?"
WHO_1 = content("who-1", WHO, ad_hoc=True, client=CLIENT)
CAR = content("car", "Is there a car?", AnswerType.YES_NO)

OWN_TOPICS = (
    topics.open_topic("main", "gate"),
    topics.chunk_topic("w-1", "gate"),
    topics.handover_topic("w-1"),
    topics.question_topic(SITE, "car"),
    topics.ask_topic("gate", CLIENT),
    topics.status_topic("worker", "w-2"),
    topics.status_topic("edge", "north"),
)


def received(topic: str, message: Message | bytes, response_topic: str | None = None) -> Received:
    payload = message if isinstance(message, bytes) else wire.encode(message)
    return Received(topic, payload, False, response_topic, b"42" if response_topic else None, 1)


def text_of(question: QuestionContent, camera: str = "gate") -> Text:
    return Text(
        camera=camera,
        owner=question.owner,
        question_id=question.question_id,
        text=question.text,
        answer_type=question.answer_type,
    )


class Worker:
    """A worker at a broker that takes everything at once; what it wants is kept."""

    def __init__(self) -> None:
        identity = WorkerIdentity("w-1", "main", 77, FINGERPRINT)
        self.session = WorkerSession(WorkerProtocolSettings(), identity=identity, stop_rule=RULE)
        self.session.connection(True, 0.0)
        self.passes: list[tuple[int, InferencePass]] = []
        self.poll(0.0)

    def receive(self, received: Received, now_s: float = 0.0) -> list[Message]:
        """What it says to a message.

        Raises:
            RemoteError: what it says is wrong with it.
        """
        self.session.receive(received, now_s)
        outputs = self.poll(now_s)
        assert [output for output in outputs if isinstance(output, Acknowledge)] == [Acknowledge((1,))]
        for output in outputs:
            if isinstance(output, Problem):
                assert isinstance(output.error, LatentbusError)
                assert output.kind == topics.label_of(received.topic)
                assert output.text == str(output.error)
                raise output.error
        return [output.message for output in said(outputs)]

    def poll(self, now_s: float) -> list[WorkerOutput]:
        outputs = self.session.poll(now_s)
        for output in outputs:
            if isinstance(output, Publish):
                self.session.published(output.token, Delivery.DELIVERED, now_s)
            elif isinstance(output, RunBatch):
                self.passes += [(output.token, inference_pass) for inference_pass in output.passes]
            elif isinstance(output, Contained):
                raise output.error
        return outputs


def said(outputs: list[WorkerOutput]) -> list[Publish]:
    """Publishes about frames."""
    return [
        output for output in outputs if isinstance(output, Publish) and output.label not in (Family.STATUS, Family.LOAD)
    ]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def open_frame(worker: Worker, question: QuestionContent = CAR) -> list[Message]:
    """Open a frame and take what the worker says to it."""
    message = Open(
        frame=FrameId(1, 1),
        attempt=1,
        site=SITE,
        fingerprint=FINGERPRINT,
        queries=(ref(question, 5_000),),
        stop=3,
        payload=b"x",
    )
    return worker.receive(received(topics.open_topic("main", "gate"), message))


def test_a_frame_keeps_the_text_that_it_was_opened_with_when_its_question_is_withdrawn(
    worker: Worker,
) -> None:
    worker.receive(received(topics.question_topic(SITE, "car"), published(CAR)))
    assert open_frame(worker) == []
    worker.receive(received(topics.question_topic(SITE, "car"), b""))
    ((_, inference_pass),) = worker.passes
    assert (inference_pass.queries[0].text, inference_pass.queries[0].answer_type) == (
        "Is there a car?",
        AnswerType.YES_NO,
    )


def test_a_frame_with_another_text_than_the_retained_one_asks_for_its_own(worker: Worker) -> None:
    worker.receive(received(topics.question_topic(SITE, "car"), published(content("car", "Is it red?"))))
    (need,) = open_frame(worker)
    assert isinstance(need, NeedText)
    assert need.digests == (CAR.digest,)


def test_a_text_ends_the_wait_for_it(worker: Worker) -> None:
    open_frame(worker)
    assert not worker.passes
    worker.receive(received(topics.chunk_topic("w-1", "gate"), text_of(CAR)))
    assert len(worker.passes) == 1


def test_revoke_ends_a_frame(worker: Worker) -> None:
    open_frame(worker)
    assert worker.session.unfinished() == 1
    revoke = Revoke(camera="gate", frame=FrameId(1, 1), attempt=1)
    worker.receive(received(topics.chunk_topic("w-1", "gate"), revoke))
    assert worker.session.unfinished() == 0


def test_an_ask_is_kept_with_its_reply_topic(worker: Worker) -> None:
    reply = topics.reply_topic(CLIENT, "gate", "who-1")
    worker.receive(received(topics.ask_topic("gate", CLIENT), ask_message(WHO_1), reply))
    open_frame(worker, WHO_1)
    ((batch, _),) = worker.passes
    worker.session.batch_done(batch, [PassFailure(RejectReason.MODEL, "broken")], 0.0)
    public, mine = [publish for publish in said(worker.poll(0.0)) if isinstance(publish.message, Answer)]
    assert (public.topic, public.correlation_data) == (topics.answer_topic("gate"), None)
    assert (mine.topic, mine.correlation_data) == (reply, b"42")
    assert mine.payload == public.payload == wire.encode(mine.message)
    assert {mine.content_type, public.content_type} == {"application/json"}


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        (topics.question_topic(SITE, "bus"), published(CAR)),
        (topics.question_topic("south", "car"), published(CAR)),
        (topics.status_topic("worker", "w-2"), Status(kind="worker", id="w-3", boot=1, online=True)),
        (topics.status_topic("worker", "w-2"), Status(kind="edge", id="w-2", boot=1, online=True)),
        (topics.load_topic("main", "w-2"), Status(kind="worker", id="w-2", boot=1, online=True, pool="other")),
        (topics.chunk_topic("w-1", "gate"), text_of(CAR, camera="yard")),
        (topics.chunk_topic("w-1", "gate"), Revoke(camera="yard", frame=FrameId(1, 1), attempt=1)),
        (topics.answer_topic("gate"), b"{}"),
        ("something/else", b"{}"),
    ],
)
def test_a_payload_that_contradicts_its_topic_is_refused(worker: Worker, topic: str, message: Message | bytes) -> None:
    with pytest.raises(TopicError):
        worker.receive(received(topic, message))


def test_an_edge_that_is_gone_is_known_to_be(worker: Worker) -> None:
    open_frame(worker)
    will = Status(kind="edge", id="north", boot=1, online=False, pool="main")
    worker.receive(received(topics.status_topic("edge", "north"), will), 1.0)
    (answer,) = (publish.message for publish in said(worker.poll(5.1)))
    assert isinstance(answer, Answer)
    assert (answer.outcome, answer.reason) == ("failed", "edge_lost")


def test_a_cleared_status_is_no_message(worker: Worker) -> None:
    worker.receive(received(topics.status_topic("worker", "w-2"), b""))


@given(topic=st.sampled_from(OWN_TOPICS), payload=st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused_as_the_peers_fault(topic: str, payload: bytes) -> None:
    worker = Worker()
    try:
        worker.receive(received(topic, payload))
    except RemoteError:
        assert worker.session.unfinished() == 0


def test_kinds_of_strange_topics_are_few() -> None:
    kinds = {
        topics.label_of(topic) for topic in (*OWN_TOPICS, "a/b", f"{topics.ROOT}/what/ever", f"{topics.ROOT}/open/x")
    }
    assert kinds == {"open", "chunk", "handover", "question", "ask", "status", "topic"}


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("lb/v1/status/worker/w-2", b'{"v":1,"kind":"worker","id":"w-2","boot":1,"online":true}'),
        ("lb/v1/open/main/gate", b"\x92\x01\x01"),
        (OWN_TOPICS[0], b"\x92\x01\x01"),
        (topics.ask_topic("gate", CLIENT), b'{"v":1,"query_id":"q1","text":"Is there a car?"}'),
        (topics.status_topic("worker", "w-2"), b'{"v":1,"kind":"worker","id":"w-2","boot":1,"online":true}'),
        (topics.status_topic("worker", "w-2"), b'{"kind":"worker","id":"w-2","boot":1,"online":true,"versions":[1]}'),
        (topics.status_topic("edge", "north"), b'{"kind":"edge","id":"north","boot":1,"online":true,"versions":[1]}'),
    ],
)
def test_a_peer_of_version_one_is_refused_with_both_versions_and_the_fix(
    worker: Worker, topic: str, payload: bytes
) -> None:
    with pytest.raises(
        SchemaVersionError, match="wire version 1 of the peer, this process speaks 2: update the older side, the peer"
    ):
        worker.receive(received(topic, payload))


def test_a_peer_that_speaks_a_further_version_as_well_is_one_of_ours(worker: Worker) -> None:
    status = Status(kind="worker", id="w-2", boot=1, online=True, pool="main", fingerprint=FINGERPRINT.hex(), parked=0)
    both = status.model_copy(update={"versions": (2, 3), "capacity": 9})
    worker.receive(received(topics.load_topic("main", "w-2"), both))
    assert worker.session._frames._peers.less_loaded(5, 0.0) == "w-2"


def test_an_ask_that_the_broker_keeps_is_no_ask(worker: Worker) -> None:
    topic, asked = topics.ask_topic("gate", CLIENT), ask_message(WHO_1)
    kept = replace(received(topic, asked, topics.reply_topic(CLIENT, "gate", "who-1")), retained=True)
    with pytest.raises(WireError, match="retain flag"):
        worker.receive(kept)
    assert [type(message) for message in open_frame(worker, WHO_1)] == [NeedText]


def test_what_a_client_says_of_another_client_proves_nothing(worker: Worker) -> None:
    """The topic says who asks, and a reply goes below that name alone."""
    eve, reply = topics.ask_topic("gate", "eve"), topics.reply_topic(CLIENT, "gate", "who-1")
    worker.receive(received(eve, ask_message(WHO_1), reply))
    (need,) = open_frame(worker, WHO_1)
    assert isinstance(need, NeedText)
    mine = content("who-1", WHO, ad_hoc=True, client="eve")
    worker.receive(received(eve, ask_message(mine), reply))
    asked = worker.session._frames._texts.ask(mine.query_id("gate", FrameId(1, 1)), mine.owner, mine.digest)
    assert asked is not None
    assert asked.reply_to is None, "answered on the public topics, not to the other client"


def test_a_newer_schema_names_its_version(worker: Worker) -> None:
    with pytest.raises(SchemaVersionError, match="99"):
        worker.receive(received(OWN_TOPICS[0], b"\x92\x63\x01"))


def test_frames_are_subscribed_to_last_and_acknowledged() -> None:
    filters = subscriptions("w-1", "main")
    assert filters[-1].filter == "$share/main/lb/v2/open/main/+"
    at_qos_1 = {entry.filter for entry in filters if entry.qos}
    assert "lb/v2/status/edge/+" in at_qos_1, "nobody repeats a last will"
    assert at_qos_1 >= {filters[-1].filter, topics.handover_topic("w-1"), topics.family_filter(Family.QUESTION)}
    assert topics.inbox_filter("w-1") in {entry.filter for entry in filters} - at_qos_1


def test_a_worker_that_drains_is_no_member_of_the_share_group_after_a_reconnect(worker: Worker) -> None:
    assert worker.session.subscriptions() == subscriptions("w-1", "main")
    worker.session.drain(0.0)
    assert [entry.filter for entry in subscriptions("w-1", "main") if entry not in worker.session.subscriptions()] == [
        topics.share_filter("main")
    ]


def test_the_will_is_the_end_of_this_boot() -> None:
    identity = WorkerIdentity("w-1", "main", 77, FINGERPRINT)
    will = identity.will()
    status = wire.decode(Family.STATUS, will.payload)
    assert isinstance(status, Status)
    assert will.topic == topics.status_topic("worker", "w-1")
    assert (status.boot, status.online, will.retain, will.qos) == (77, False, True, 1)
    assert identity.status((3, 9)) == Status(
        kind="worker", id="w-1", boot=77, online=True, pool="main", fingerprint="74696e79", parked=3, capacity=9
    )
