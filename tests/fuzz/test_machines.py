"""Valid messages at the wrong time, in any order: the protocol machines refuse them by a typed error or take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.protocol.effects import GivenKey, PassAnswer
from pipeline.protocol.ports import (
    Acknowledge,
    Contained,
    Delivery,
    PassFailure,
    PassResult,
    Publish,
    Received,
    RunBatch,
)
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_session import WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from schemas import topics, wire
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    Chunk,
    Handover,
    KeyFrame,
    Message,
    NeedText,
    Open,
    Question,
    Refine,
    Reject,
    RejectReason,
    Revoke,
    SiteConfig,
    Status,
    Text,
)
from schemas.topics import MESSAGES, Family, Topic
from schemas.types import AnswerType, FrameId
from simulation.bounds import edge_buffers, worker_buffers
from tests.fuzz.budget import examples
from tests.protocol.edge_driver import EdgeDriver
from tests.protocol.fake_latents import LADDER, FakeLatent
from tests.protocol.harness import FINGERPRINT
from tests.protocol.questions import CLIENT, SITE, asked, content, ref
from tests.schemas.strategies import BY_MESSAGE

CAMERA = "gate"
QUESTIONS = (content("q0"), content("q1"), content("q2", ad_hoc=True))
TO_EDGE = (Accept, Refine, Busy, Reject, NeedText, Answer, Status, Question, Ask)
TO_WORKER = (Open, Chunk, KeyFrame, Revoke, Handover, Text, Question, Ask, Status)


def likely(message: Message, data: st.DataObject) -> Message:
    """The same message about a frame and by a worker that exist, so that it gets past the first check."""
    fields: dict[str, Any] = {
        "frame": FrameId(7, data.draw(st.integers(0, 2))),
        "camera": CAMERA,
        "attempt": data.draw(st.integers(1, 3)),
        "worker": data.draw(st.sampled_from(["w0", "w1"])),
        "fingerprint": FINGERPRINT,
        "id": data.draw(st.sampled_from(["w0", "w1", "site"])),
        "boot": data.draw(st.integers(6, 8)),
        "key": data.draw(st.none() | st.integers(0, 2)),
        "site": data.draw(st.sampled_from([SITE, "south"])),
    }
    known = {name: value for name, value in fields.items() if name in type(message).model_fields}
    if isinstance(message, Status):
        known.pop("fingerprint")
    if isinstance(message, Open | Handover):
        questions = data.draw(st.lists(st.sampled_from(QUESTIONS), min_size=1, max_size=3, unique=True))
        known["queries"] = tuple(ref(question, data.draw(st.integers(0, 9_000))) for question in questions)
    if isinstance(message, Text):
        question = data.draw(st.sampled_from(QUESTIONS))
        known |= {"owner": question.owner, "question_id": question.question_id, "text": question.text}
        known |= {"answer_type": question.answer_type, "options": (), "risk": None}
    return message.model_copy(update=known)


def drawn(kinds: tuple[type[Message], ...], data: st.DataObject) -> Message:
    message = data.draw(BY_MESSAGE[data.draw(st.sampled_from(kinds))])
    return likely(message, data) if data.draw(st.booleans()) else message


def check_sent(messages: Iterable[Message | None]) -> None:
    """What a machine says must be valid messages."""
    for message in messages:
        if message is not None:
            family = next(family for family, kinds in MESSAGES.items() if type(message) in kinds)
            assert wire.decode(family, wire.encode(message)) == message


def topic_for_edge(message: Message) -> str:
    """Where a message for the edge comes."""
    match message:
        case Answer():
            return topics.answer_topic(message.camera)
        case Status():
            return topics.status_topic(message.kind, message.id)
        case Question():
            return topics.question_topic(message.site, message.question_id)
        case SiteConfig():
            return topics.config_topic(message.site)
        case Ask():
            return topics.ask_topic(CAMERA, CLIENT)
        case _:
            return topics.control_topic(CAMERA)


@given(data=st.data())
@settings(max_examples=examples(150))
def test_an_edge_takes_anything_that_anybody_may_say(data: st.DataObject) -> None:
    bounds = EdgeProtocolSettings(max_frames_per_camera=2, terminal_cache=3)
    driver = EdgeDriver(settings=bounds, site=SITE, cameras=(CAMERA,), boot=7, now_s=0.0)
    edge = driver.session
    tokens: list[int | None] = []
    driver.connect()
    for step in range(data.draw(st.integers(1, 25))):
        driver.turn_to(driver.now_s + data.draw(st.floats(0.0, 3.0)))
        driver.deliveries = data.draw(st.lists(st.sampled_from(Delivery), max_size=3))
        match data.draw(st.integers(0, 6)):
            case 0:
                now_s = driver.now_s
                queries = [asked(f"q{index}", now_s + data.draw(st.floats(0.0, 9.0))) for index in range(2)]
                queries += [asked(f"ask-{step}", now_s + 5.0, ad_hoc=True)]
                given_key = st.none() | st.builds(GivenKey, st.just(FakeLatent()), st.none() | st.integers(0, 2))
                edge.offer(CAMERA, FakeLatent(), LADDER[0], queries, now_s, given_key=data.draw(given_key))
                driver.pump()
            case 1:
                edge.connection(data.draw(st.booleans()), driver.now_s)
                driver.pump()
            case 2:
                payload = data.draw(st.binary(max_size=40))
                topic = data.draw(st.sampled_from([topic_for_edge(drawn((kind,), data)) for kind in (Ask, Answer)]))
                tokens.append(driver.receive(topic, payload))
            case _:
                message = drawn(TO_EDGE, data)
                retained = data.draw(st.booleans())
                tokens.append(driver.receive(topic_for_edge(message), message, retained=retained))
        assert [buffer for buffer in edge_buffers(edge, bounds) if buffer[1] > buffer[2]] == []
    edge.connection(True, driver.now_s)
    driver.deliveries = []
    driver.turn_to(driver.now_s + 100_000.0)
    for topic, payload, _ in driver.published:
        wire.decode_publish(topic, payload)
    ended = Counter(decision.query_id for decision in driver.decisions)
    assert edge.unfinished() == 0
    assert set(ended.values()) <= {1}
    assert max(Counter(driver.acknowledged).values(), default=1) == 1
    assert set(driver.acknowledged) <= set(tokens)


@given(data=st.data())
@settings(max_examples=examples(150))
def test_a_worker_takes_anything_an_edge_may_say(data: st.DataObject) -> None:
    rule = StopRule(LADDER, (0.9,) * len(LADDER), {AnswerType.COUNT: (0.5,) * len(LADDER)}, 0.02)
    bounds = WorkerProtocolSettings(capacity_frames=3, capacity_bytes=60_000, text_cache=2, terminal_cache=2)
    identity = WorkerIdentity("w0", "main", 7, FINGERPRINT, drawn=data.draw(st.booleans()))
    max_batches = data.draw(st.integers(1, 3))
    worker = WorkerSession(bounds, identity=identity, stop_rule=rule, max_batches=max_batches, max_batch_frames=2)
    shell = WorkerShell(worker, data)
    now_s = 0.0
    for token in range(data.draw(st.integers(1, 25))):
        now_s += data.draw(st.floats(0.0, 3.0))
        match data.draw(st.integers(0, 5)):
            case 0:
                shell.poll(now_s)
            case 1:
                shell.end_a_batch(now_s)
            case 2:
                worker.connection(data.draw(st.booleans()), now_s)
            case _:
                message = drawn(TO_WORKER, data)
                decoded = (data.draw(st.sampled_from(TOPICS[type(message)])), message)
                retained, reply = data.draw(st.booleans()), topics.reply_topic(CLIENT, CAMERA, "q2")
                topic = "/".join((topics.ROOT, decoded[0].family, *decoded[0].names))
                received = Received(topic, b"", retained, reply, b"42", token, decoded)
                shell.unacknowledged.append(token)
                worker.receive(received, now_s)
        shell.poll(now_s)
        assert shell.unacknowledged == []
        assert len(shell.batches) <= max_batches
        assert [buffer for buffer in worker_buffers(worker, bounds) if buffer[1] > buffer[2]] == []
    worker.connection(True, now_s)
    worker.drain(now_s)
    shell.poll(now_s)
    worker.unsubscribed(topics.share_filter("main"), now_s)
    shell.poll(now_s + 100_000.0)
    shell.answer_all(now_s + 100_000.0)
    shell.poll(now_s + 100_001.0)
    shell.answer_all(now_s + 100_001.0)
    assert worker.unfinished() == 0
    assert worker.drained()
    shell.poll(now_s + 100_002.0)
    shell.answer_all(now_s + 100_002.0)
    assert worker.finished()


class WorkerShell:
    """Answers what a worker wants, sooner or later, well or badly; what the worker contains is a bug."""

    def __init__(self, worker: WorkerSession, data: st.DataObject) -> None:
        self.unacknowledged: list[int] = []
        self.batches: list[RunBatch] = []
        self._under_way: list[Publish] = []
        self._worker = worker
        self._data = data

    def poll(self, now_s: float) -> None:
        for output in self._worker.poll(now_s):
            match output:
                case Publish():
                    if output.payload:
                        check_sent([output.message])
                        family = topics.parse(output.topic).family
                        assert wire.decode(family, output.payload) == output.message
                    self._under_way.append(output)
                case Acknowledge():
                    for token in output.tokens:
                        self.unacknowledged.remove(token)
                case RunBatch():
                    self.batches.append(output)
                case Contained():
                    raise output.error
        for publish in list(self._under_way):
            if self._data.draw(st.booleans()):
                self._under_way.remove(publish)
                self._worker.published(publish.token, self._data.draw(st.sampled_from(Delivery)), now_s)

    def answer_all(self, now_s: float) -> None:
        publishes, self._under_way = self._under_way, []
        for publish in publishes:
            self._worker.published(publish.token, Delivery.DELIVERED, now_s)

    def end_a_batch(self, now_s: float) -> None:
        if not self.batches:
            return
        batch = self.batches.pop(self._data.draw(st.integers(0, len(self.batches) - 1)))
        results: list[PassResult] = []
        for inference_pass in batch.passes:
            if self._data.draw(st.booleans()):
                score = self._data.draw(st.floats(0.0, 1.0))
                results.append([PassAnswer(query.query_id, "a", score) for query in inference_pass.queries])
            else:
                results.append(PassFailure(RejectReason.BITSTREAM, "x" * 500))
        self._worker.batch_done(batch.token, results[: self._data.draw(st.integers(0, len(results)))], now_s)


def _topic(family: Family, *names: str) -> Topic:
    return Topic(family, names)


TOPICS: dict[type[Message], list[Topic]] = {
    Open: [_topic(Family.OPEN, "main", CAMERA)],
    Chunk: [_topic(Family.CHUNK, "w0", CAMERA)],
    KeyFrame: [_topic(Family.KEY, "main", CAMERA)],
    Revoke: [_topic(Family.CHUNK, "w0", CAMERA)],
    Handover: [_topic(Family.HANDOVER, "w0")],
    Text: [_topic(Family.CHUNK, "w0", CAMERA)],
    Question: [_topic(Family.QUESTION, SITE, "q0")],
    Ask: [_topic(Family.ASK, CAMERA, CLIENT)],
    Status: [
        _topic(Family.STATUS, "edge", "site"),
        _topic(Family.STATUS, "worker", "w1"),
        _topic(Family.LOAD, "main", "w1"),
    ],
}
"""Where each message comes."""
