from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_workers import inbox
from cloud_workers.status import WorkerIdentity
from pipeline.bus.base import Inbound
from pipeline.protocol.effects import ReplyTo, SendAnswer, SendControl
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerSession
from schemas import topics, wire
from schemas.errors import RemoteError, SchemaVersionError, TopicError, WireError
from schemas.identity import QuestionContent
from schemas.messages import Gone, Message, NeedText, Open, RejectReason, Status, Text
from schemas.topics import Family
from schemas.types import AnswerType, FrameId
from tests.cloud.scripted import CLIENT, FINGERPRINT, RULE, WHO, WHO_1
from tests.protocol.questions import SITE, ask_message, content, published, ref

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


def inbound(topic: str, message: Message | bytes, response_topic: str | None = None) -> Inbound:
    payload = message if isinstance(message, bytes) else wire.encode(message)
    return Inbound(topic, payload, 1, False, response_topic, b"42" if response_topic else None, 1, 1, 0.0)


def text_of(question: QuestionContent, camera: str = "gate") -> Text:
    return Text(
        camera=camera,
        owner=question.owner,
        question_id=question.question_id,
        text=question.text,
        answer_type=question.answer_type,
    )


@pytest.fixture
def session() -> WorkerSession:
    return new_session()


def new_session() -> WorkerSession:
    return WorkerSession(WorkerProtocolSettings(), worker="w-1", pool="main", fingerprint=FINGERPRINT, stop_rule=RULE)


def open_frame(session: WorkerSession, question: QuestionContent = CAR) -> list[object]:
    """Open a frame and take what the session says to it."""
    message = Open(
        frame=FrameId(1, 1),
        attempt=1,
        site=SITE,
        fingerprint=FINGERPRINT,
        queries=(ref(question, 5_000),),
        stop=3,
        payload=b"x",
    )
    inbox.receive(session, inbound(topics.open_topic("main", "gate"), message), 0.0)
    return [effect.message for effect in session.take_effects()]


def test_a_frame_keeps_the_text_that_it_was_opened_with_when_its_question_is_withdrawn(
    session: WorkerSession,
) -> None:
    inbox.receive(session, inbound(topics.question_topic(SITE, "car"), published(CAR)), 0.0)
    assert open_frame(session) == []
    inbox.receive(session, inbound(topics.question_topic(SITE, "car"), b""), 0.0)
    (look,) = session.take_looks(1, 0.0)
    assert (look.queries[0].text, look.queries[0].answer_type) == ("Is there a car?", AnswerType.YES_NO)


def test_a_frame_with_another_text_than_the_retained_one_asks_for_its_own(session: WorkerSession) -> None:
    inbox.receive(session, inbound(topics.question_topic(SITE, "car"), published(content("car", "Is it red?"))), 0.0)
    (need,) = open_frame(session)
    assert isinstance(need, NeedText)
    assert need.digests == (CAR.digest,)


def test_a_text_ends_the_wait_for_it(session: WorkerSession) -> None:
    open_frame(session)
    assert not session.take_looks(1, 0.0)
    inbox.receive(session, inbound(topics.chunk_topic("w-1", "gate"), text_of(CAR)), 0.0)
    assert len(session.take_looks(1, 0.0)) == 1


def test_gone_ends_a_frame(session: WorkerSession) -> None:
    open_frame(session)
    assert session.unfinished() == 1
    gone = Gone(camera="gate", frame=FrameId(1, 1), attempt=1)
    inbox.receive(session, inbound(topics.chunk_topic("w-1", "gate"), gone), 0.0)
    assert session.unfinished() == 0


def test_an_ask_is_kept_with_its_reply_topic(session: WorkerSession) -> None:
    reply = topics.reply_topic(CLIENT, "gate", "who-1")
    inbox.receive(session, inbound(topics.ask_topic("gate", CLIENT), ask_message(WHO_1), reply), 0.0)
    open_frame(session, WHO_1)
    (look,) = session.take_looks(1, 0.0)
    session.fail_look(look, RejectReason.MODEL, "broken")
    (effect,) = (effect for effect in session.take_effects() if not isinstance(effect, SendControl))
    assert isinstance(effect, SendAnswer)
    assert effect.reply_to == ReplyTo(reply, b"42")


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        (topics.question_topic(SITE, "bus"), published(CAR)),
        (topics.question_topic("south", "car"), published(CAR)),
        (topics.status_topic("worker", "w-2"), Status(kind="worker", id="w-3", boot=1, online=True)),
        (topics.status_topic("worker", "w-2"), Status(kind="edge", id="w-2", boot=1, online=True)),
        (topics.load_topic("main", "w-2"), Status(kind="worker", id="w-2", boot=1, online=True, pool="other")),
        (topics.chunk_topic("w-1", "gate"), text_of(CAR, camera="yard")),
        (topics.chunk_topic("w-1", "gate"), Gone(camera="yard", frame=FrameId(1, 1), attempt=1)),
        (topics.answer_topic("gate"), b"{}"),
        ("something/else", b"{}"),
    ],
)
def test_a_payload_that_contradicts_its_topic_is_refused(
    session: WorkerSession, topic: str, message: Message | bytes
) -> None:
    with pytest.raises(TopicError):
        inbox.receive(session, inbound(topic, message), 0.0)


def test_an_edge_that_is_gone_is_known_to_be(session: WorkerSession) -> None:
    open_frame(session)
    will = Status(kind="edge", id="north", boot=1, online=False, pool="main")
    inbox.receive(session, inbound(topics.status_topic("edge", "north"), will), 1.0)
    session.tick(5.1)
    (effect,) = session.take_effects()
    assert isinstance(effect, SendAnswer)
    assert (effect.message.outcome, effect.message.reason) == ("failed", "edge_lost")


def test_a_cleared_status_is_no_message(session: WorkerSession) -> None:
    inbox.receive(session, inbound(topics.status_topic("worker", "w-2"), b""), 0.0)


@given(topic=st.sampled_from(OWN_TOPICS), payload=st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused_as_the_peers_fault(topic: str, payload: bytes) -> None:
    session = new_session()
    try:
        inbox.receive(session, inbound(topic, payload), 0.0)
    except RemoteError:
        assert session.unfinished() == 0


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
    session: WorkerSession, topic: str, payload: bytes
) -> None:
    with pytest.raises(
        SchemaVersionError, match="wire version 1 of the peer, this process speaks 2: update the older side, the peer"
    ):
        inbox.receive(session, inbound(topic, payload), 0.0)


def test_a_peer_that_speaks_a_further_version_as_well_is_one_of_ours(session: WorkerSession) -> None:
    status = Status(kind="worker", id="w-2", boot=1, online=True, pool="main", fingerprint=FINGERPRINT.hex(), parked=0)
    both = status.model_copy(update={"versions": (2, 3), "capacity": 9})
    inbox.receive(session, inbound(topics.load_topic("main", "w-2"), both), 0.0)
    assert session._peers.less_loaded(5, 0.0) == "w-2"


def test_an_ask_that_the_broker_keeps_is_no_ask(session: WorkerSession) -> None:
    topic, asked = topics.ask_topic("gate", CLIENT), ask_message(WHO_1)
    kept = replace(inbound(topic, asked, topics.reply_topic(CLIENT, "gate", "who-1")), retain=True)
    with pytest.raises(WireError, match="retain flag"):
        inbox.receive(session, kept, 0.0)
    assert [type(message) for message in open_frame(session, WHO_1)] == [NeedText]


def test_what_a_client_says_of_another_client_proves_nothing(session: WorkerSession) -> None:
    """The topic says who asks, and a reply goes below that name alone."""
    eve, reply = topics.ask_topic("gate", "eve"), topics.reply_topic(CLIENT, "gate", "who-1")
    inbox.receive(session, inbound(eve, ask_message(WHO_1), reply), 0.0)
    (need,) = open_frame(session, WHO_1)
    assert isinstance(need, NeedText)
    mine = content("who-1", WHO, ad_hoc=True, client="eve")
    inbox.receive(session, inbound(eve, ask_message(mine), reply), 0.0)
    asked = session._texts.ask(mine.query_id("gate", FrameId(1, 1)), mine.owner, mine.digest)
    assert asked is not None
    assert asked.reply_to is None, "answered on the public topics, not to the other client"


def test_a_newer_schema_names_its_version(session: WorkerSession) -> None:
    with pytest.raises(SchemaVersionError, match="99"):
        inbox.receive(session, inbound(OWN_TOPICS[0], b"\x92\x63\x01"), 0.0)


def test_frames_are_subscribed_to_last_and_acknowledged() -> None:
    filters = inbox.subscriptions("w-1", "main")
    assert filters[-1].filter == "$share/main/lb/v2/open/main/+"
    at_qos_1 = {entry.filter for entry in filters if entry.qos}
    assert "lb/v2/status/edge/+" in at_qos_1, "nobody repeats a last will"
    assert at_qos_1 >= {filters[-1].filter, topics.handover_topic("w-1"), topics.family_filter(Family.QUESTION)}
    assert topics.inbox_filter("w-1") in {entry.filter for entry in filters} - at_qos_1


def test_the_will_is_the_end_of_this_boot() -> None:
    identity = WorkerIdentity("w-1", "main", 77, FINGERPRINT)
    will = identity.will()
    status = wire.decode(Family.STATUS, will.payload)
    assert isinstance(status, Status)
    assert will.topic == topics.status_topic("worker", "w-1")
    assert (status.boot, status.online, will.retain, will.qos) == (77, False, True, 1)
    birth = wire.decode(Family.STATUS, identity.status(online=True, parked=3, capacity=9))
    assert birth == Status(
        kind="worker", id="w-1", boot=77, online=True, pool="main", fingerprint="74696e79", parked=3, capacity=9
    )
