"""Standing questions that operators set on a real broker: added, changed, moved, deleted, answered, kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker_config.launcher import LocalBroker
from edge_nodes import node
from latentbus.chaos.tcp_proxy import FaultProxy
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from schemas import topics, wire
from schemas.errors import WireError
from schemas.messages import Open, Question, Receipt, Status
from schemas.types import AnswerType
from tests.edge.running import Listener, listening, running
from tests.edge.support import ScriptedWorker

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]

CAR = QuestionSettings(text="Is there a car?", answer_type=AnswerType.YES_NO, deadline_ms=20_000, risk=0.02)
UNREADABLE = Question(site="depot", question_id="unreadable", text="?")
REPLY = "lb/v2/receipt/boss/depot/change"
Make = Callable[..., LatentbusSettings]


@pytest.fixture
def make(broker_settings: BrokerSettings, codec_dir: Path) -> Make:
    def settings(**questions: QuestionSettings) -> LatentbusSettings:
        cameras = {
            "gate": CameraSettings(source="test:1", interval_s=0.1, questions=tuple(questions)),
            "yard": CameraSettings(source="test:2", interval_s=0.1),
        }
        edge = EdgeSettings(site="depot", codec=codec_dir, cameras=cameras, questions=questions)
        return LatentbusSettings(broker=broker_settings, edge=edge)

    return settings


async def say(
    operator: Listener, question_id: str, question: Question | bytes, repeats: list[str] | None = None
) -> Receipt:
    """An operator publishes on a question's topic, and reads what became of it.

    A receipt of an earlier one may come again after the line broke; then ``repeats`` takes its id.
    """
    await operator.bus.publish(
        topics.question_topic("depot", question_id),
        question if isinstance(question, bytes) else wire.encode(question),
        qos=1,
        retain=True,
        response_topic=REPLY,
        correlation_data=b"7",
    )
    while True:
        received, receipt = await operator.next(Receipt)
        assert isinstance(receipt, Receipt)
        assert (received.correlation_data, receipt.site) == (b"7", "depot")
        if receipt.about == question_id:
            return receipt
        assert repeats is not None, f"a receipt of {receipt.about}, which nobody waits for"
        repeats.append(receipt.about)


class Kept:
    """What the broker retains for the site: read at once, then followed."""

    def __init__(self, bus: MqttBus) -> None:
        self._bus = bus
        self._payloads: dict[str, bytes] = {}

    async def until(self, right: Callable[[dict[str, Question]], bool]) -> dict[str, Question]:
        """The questions, once they are as they should be; what is no question stands there as none ever is."""
        while not right(self._questions()):
            for event in await self._bus.receive_batch():
                if isinstance(event, Inbound):
                    self._bus.acknowledge(event)
                    self._payloads[event.topic] = event.payload
                    if not event.payload:
                        del self._payloads[event.topic]
        return self._questions()

    def _questions(self) -> dict[str, Question]:
        found: dict[str, Question] = {}
        for topic, payload in self._payloads.items():
            try:
                message = wire.decode_publish(topic, payload)[1]
            except WireError:
                message = None
            found[topic.rpartition("/")[2]] = message if isinstance(message, Question) else UNREADABLE
        return found


@asynccontextmanager
async def keeping(settings: BrokerSettings) -> AsyncIterator[Kept]:
    filters = [Subscription("lb/v2/question/depot/+", qos=1)]
    async with MqttBus(settings, client_id="kept", subscriptions=filters) as bus:
        await bus.wait_connected(10)
        yield Kept(bus)


async def until_asked(worker: ScriptedWorker, camera: str, digest: bytes) -> Open:
    """The next frame of a camera that is asked exactly this question; all others are answered."""
    while True:
        source, opened = await worker.next_open()
        await worker.answer_all(source, opened)
        if source == camera and digest in [ref.digest for ref in opened.queries]:
            return opened


def question(question_id: str, text: str, **fields: object) -> Question:
    return Question.model_validate({"site": "depot", "question_id": question_id, "text": text, **fields})


async def test_a_question_lives_on_the_bus_from_its_addition_to_its_end(
    make: Make, broker_settings: BrokerSettings
) -> None:
    settings = make(car=CAR)
    own = question("car", CAR.text, answer_type=CAR.answer_type, risk=CAR.risk).content()
    async with (
        listening(broker_settings, "lb/v2/receipt/boss/+/+") as operator,
        ScriptedWorker(broker_settings) as worker,
        keeping(broker_settings) as kept,
    ):
        async with running(settings):
            _, opened = await worker.next_open()
            assert [ref.question_id for ref in opened.queries] == ["car"]
            # Added, to a camera that the settings ask nothing.
            dog = question("dog", "Where is the dog?", cameras=("yard",), answer_type=AnswerType.WORD)
            assert await say(operator, "dog", dog) == Receipt(
                site="depot", about="dog", accepted=True, reason="asked of yard"
            )
            await until_asked(worker, "yard", dog.content().digest)
            # Changed, the settings' question too.
            car = question("car", "Is there a red car?", risk=0.5)
            assert (await say(operator, "car", car)).accepted
            await until_asked(worker, "gate", car.content().digest)
            # Moved.
            moved = question("dog", "Where is the dog?", cameras=("gate",), answer_type=AnswerType.WORD)
            assert (await say(operator, "dog", moved)).reason == "asked of gate"
            opened = await until_asked(worker, "gate", moved.content().digest)
            assert {ref.question_id for ref in opened.queries} == {"car", "dog"}
        # Durable: the next process asks what was said on the bus.
        async with running(settings):
            opened = await until_asked(worker, "gate", car.content().digest)
            assert {ref.digest for ref in opened.queries} == {car.content().digest, moved.content().digest}
            # Deleted: one ends, the other one is the settings', and paused.
            assert (await say(operator, "dog", b"")).reason == "asked no more"
            assert (await say(operator, "car", b"")).reason.startswith("paused")
            paused = question("car", CAR.text, answer_type=AnswerType.YES_NO, deadline_ms=20_000, risk=0.02, cameras=())
            await kept.until(lambda questions: questions == {"car": paused})
        async with running(settings) as edge:
            await edge.watcher.until(lambda: edge.watcher.up)
            assert edge.watcher.frames == {}, "still paused"
            assert (await say(operator, "car", b"")).reason == "the settings rule again"
            frame = await until_asked(worker, "gate", own.digest)
            assert [ref.question_id for ref in frame.queries] == ["car"]
            await kept.until(lambda questions: questions["car"].set_by == "settings")


async def test_a_bad_or_impossible_question_is_refused_and_what_is_asked_is_put_back(
    make: Make, broker_settings: BrokerSettings
) -> None:
    settings = make(car=CAR)
    async with (
        listening(broker_settings, "lb/v2/receipt/boss/+/+") as operator,
        keeping(broker_settings) as kept,
        running(settings),
    ):
        elsewhere = question("car", "Is there a car?", cameras=("moon",))
        refused = await say(operator, "car", elsewhere)
        assert (refused.accepted, refused.reason) == (False, "no camera moon at this site; it has gate, yard")
        for payload in (b"{", b'{"site":"depot","question_id":"car","text":7}', b'{"v":9}'):
            assert not (await say(operator, "car", payload)).accepted
        assert not (await say(operator, "new", b"{")).accepted
        await kept.until(lambda questions: set(questions) == {"car"} and questions["car"].set_by == "settings")


async def test_the_settings_side_adds_changes_and_deletes(make: Make, broker_settings: BrokerSettings) -> None:
    async with running(make(car=CAR, bus=CAR)), keeping(broker_settings) as kept:
        await kept.until(lambda questions: set(questions) == {"bus", "car"})
    changed = QuestionSettings(text="Is there a lorry?", options=("yes", "no"), answer_type=AnswerType.CHOICE)
    async with running(make(car=changed, dog=CAR)), keeping(broker_settings) as kept:
        now = await kept.until(lambda questions: set(questions) == {"car", "dog"} and questions["car"].options != ())
    assert (now["car"].text, now["car"].options, now["dog"].text) == ("Is there a lorry?", ("yes", "no"), CAR.text)


async def test_a_broker_that_forgets_is_told_again(
    make: Make, broker: LocalBroker, broker_settings: BrokerSettings
) -> None:
    async with ScriptedWorker(broker_settings) as worker, running(make(car=CAR)):
        await worker.next_open()
        async with listening(broker_settings, "lb/v2/receipt/boss/+/+") as operator:
            red = question("car", "Is there a red car?")
            assert (await say(operator, "car", red)).accepted
        broker.kill()
        broker.restart()
        async with keeping(broker_settings) as kept:
            await kept.until(lambda questions: questions.get("car") == red)


async def test_a_deletion_reaches_an_edge_that_was_away_for_longer_than_its_session(
    make: Make, broker: LocalBroker, broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "SESSION_EXPIRY_S", 0)  # nothing is queued for it
    settings = make(car=CAR, bus=CAR)
    dog = question("dog", "Where is the dog?", cameras=("yard",))
    async with (
        asyncio.timeout(30),
        FaultProxy(lambda: (broker.host, broker.port)) as line,
        listening(broker_settings, "lb/v2/receipt/boss/+/+", "lb/v2/status/edge/depot") as operator,
        keeping(broker_settings) as kept,
        running(settings.model_copy(update={"broker": BrokerSettings(host=line.host, port=line.port)})),
    ):
        assert (await say(operator, "dog", dog)).accepted
        await kept.until(lambda questions: set(questions) == {"bus", "car", "dog"})
        line.cut()
        while True:
            _, status = await operator.next(Status)
            assert isinstance(status, Status)
            if not status.online:
                break
        for question_id in ("car", "dog"):
            await operator.bus.publish(topics.question_topic("depot", question_id), b"", qos=1, retain=True)
        line.heal()
        paused = question("car", CAR.text, answer_type=AnswerType.YES_NO, deadline_ms=20_000, risk=0.02, cameras=())
        await kept.until(lambda questions: questions.get("car") == paused)
        # Whatever else the edge put there came before these.
        repeats: list[str] = []
        for mark in ("mark-1", "mark-2"):
            assert (await say(operator, mark, question(mark, "?!", cameras=("yard",)), repeats)).accepted
        assert set(repeats) <= {"dog"}
        now = await kept.until(lambda questions: "mark-2" in questions)
        assert set(now) == {"bus", "car", "mark-1", "mark-2"}
