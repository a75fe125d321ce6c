"""A worker around an engine whose answers are known, and an edge that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from broker_config.launcher import LocalBroker
from cloud_workers.node import WorkerNode
from cloud_workers.pass_engine import PassDone, PassResult
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.metrics import Metrics
from pipeline.node.runtime import Stop
from pipeline.protocol.effects import InferencePass, PassAnswer
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_session import WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from schemas import topics, wire
from schemas.errors import WireError
from schemas.identity import QuestionContent
from schemas.messages import Answer, Chunk, Handover, Message, Open, Status, Text
from schemas.topics import Family
from schemas.types import FrameId
from tests.protocol.questions import SITE, ask_message, content, published, ref

FINGERPRINT = b"tiny"
LADDER = (3, 5, 8)
RULE = StopRule(LADDER, (0.9, 0.6, 0.0), {}, 0.02)
WAIT_S = 20.0
CLIENT = "phone"
WHO = "Who is there?"
WHO_1 = content("who-1", WHO, ad_hoc=True, client=CLIENT)
WHO_1_QUERY = WHO_1.query_id("gate", FrameId(1, 1))
CAR = content("car", "Is there a car?")

M = TypeVar("M", bound=Message)


class ScriptedEngine:
    """Answers ``seen N`` with a score of N eighths; holds its breath while its gate is shut."""

    def __init__(self, max_concurrent_batches: int = 1) -> None:
        self.max_concurrent_batches = max_concurrent_batches
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.batches: list[list[InferencePass]] = []

    async def run(self, passes: Sequence[InferencePass]) -> list[PassResult]:
        self.batches.append(list(passes))
        self.entered.set()
        async with asyncio.timeout(WAIT_S):
            await self.gate.wait()
        return [
            PassDone(
                inference_pass,
                tuple(
                    PassAnswer(query.query_id, f"seen {inference_pass.stop}", inference_pass.stop / LADDER[-1])
                    for query in inference_pass.queries
                ),
            )
            for inference_pass in passes
        ]


@dataclass
class RunningWorker:
    """A worker in this loop."""

    node: WorkerNode
    bus: MqttBus
    engine: ScriptedEngine
    stop: Stop
    metrics: Metrics
    task: asyncio.Task[int]
    session: WorkerSession

    def sample(self, name: str, **labels: str) -> float:
        """A metric now."""
        return self.metrics.registry.get_sample_value(f"latentbus_{name}", labels) or 0.0


@contextlib.asynccontextmanager
async def running_worker(
    broker: LocalBroker,
    name: str = "w-1",
    *,
    capacity_frames: int = 64,
    drain_timeout_s: float = 10.0,
    await_ready: bool = True,
    protocol: WorkerProtocolSettings | None = None,
    drawn: bool = False,
    engine: ScriptedEngine | None = None,
) -> AsyncIterator[RunningWorker]:
    """A worker, ready; cancelled at the end unless the test has stopped it."""
    session = WorkerSession(
        protocol or WorkerProtocolSettings(capacity_frames=capacity_frames),
        identity=WorkerIdentity(name, "main", 7, FINGERPRINT, drawn=drawn),
        stop_rule=RULE,
        max_batch_frames=4,
    )
    bus = MqttBus(
        BrokerSettings(host=broker.host, port=broker.port),
        client_id=name,
        subscriptions=session.subscriptions(),
        will=session.will(),
    )
    engine, stop, metrics = engine or ScriptedEngine(), Stop(drain_timeout_s), Metrics()
    async with bus:
        node = WorkerNode(session, bus, engine, metrics)
        task = asyncio.create_task(node.run(stop), name=name)
        try:
            if await_ready:
                async with asyncio.timeout(WAIT_S):
                    await stop.ready.wait()
            yield RunningWorker(node, bus, engine, stop, metrics, task, session)
        finally:
            engine.gate.set()
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()


class ScriptedEdge:
    """Publishes what it is told and remembers what it hears; an async context manager."""

    def __init__(self, broker: LocalBroker) -> None:
        families = (Family.CONTROL, Family.ANSWER, Family.STATUS, Family.LOAD, Family.REPLY)
        self.bus = MqttBus(
            BrokerSettings(host=broker.host, port=broker.port),
            client_id="edge",
            subscriptions=[Subscription(topics.family_filter(family), qos=1) for family in families],
        )
        self.heard: list[tuple[Inbound, Message]] = []

    async def __aenter__(self) -> Self:
        await self.bus.__aenter__()
        await self.bus.wait_connected(WAIT_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bus.__aexit__(None, None, None)

    async def expect(
        self, kind: type[M], match: Callable[[M], bool] = lambda _: True, topic: str | None = None
    ) -> tuple[Inbound, M]:
        """The first message of a kind that matches, heard already or still to come; it is taken out."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for index, (inbound, message) in enumerate(self.heard):
                    if isinstance(message, kind) and topic in (None, inbound.topic) and match(message):
                        del self.heard[index]
                        return inbound, message
                for event in await self.bus.receive_batch():
                    if isinstance(event, Inbound):
                        self.bus.acknowledge(event)
                        with contextlib.suppress(WireError):  # what a test itself publishes
                            message = wire.decode(topics.parse(event.topic).family, event.payload)
                            self.heard.append((event, message))

    async def question(self, question_id: str = "car", text: str = "Is there a car?") -> None:
        """Set a standing question."""
        message = published(content(question_id, text))
        await self.bus.publish(topics.question_topic(SITE, question_id), wire.encode(message), qos=1, retain=True)

    async def ask(self, query_id: str, camera: str = "gate", **properties: object) -> None:
        """Ask an ad-hoc question as a client does."""
        message = ask_message(content(query_id, WHO, ad_hoc=True, client=CLIENT))
        await self.bus.publish(topics.ask_topic(camera, CLIENT), wire.encode(message), qos=1, **properties)  # type: ignore[arg-type]

    async def open(
        self,
        sequence: int,
        *,
        camera: str = "gate",
        fingerprint: bytes = FINGERPRINT,
        question: QuestionContent = CAR,
        remaining_ms: int = 15_000,
    ) -> bool:
        """Open a frame with its first three latents.

        Returns:
            Whether anybody is there to get it.
        """
        message = Open(
            frame=FrameId(1, sequence),
            attempt=1,
            site=SITE,
            fingerprint=fingerprint,
            queries=(ref(question, remaining_ms),),
            stop=LADDER[0],
            payload=b"payload",
        )
        done = await self.bus.publish(topics.open_topic("main", camera), wire.encode(message), qos=1)
        return not done.no_subscribers

    async def chunk(self, worker: str, sequence: int, start: int, stop: int, *, camera: str = "gate") -> None:
        """Send further latents."""
        message = Chunk(
            camera=camera, frame=FrameId(1, sequence), attempt=1, start=start, stop=stop, payload=b"more payload"
        )
        await self.bus.publish(topics.chunk_topic(worker, camera), wire.encode(message))

    async def text(self, worker: str, question: QuestionContent, *, camera: str = "gate") -> None:
        """Send the text of a question."""
        message = Text(
            camera=camera,
            owner=question.owner,
            question_id=question.question_id,
            text=question.text,
            answer_type=question.answer_type,
            options=question.options,
            risk=question.risk,
        )
        await self.bus.publish(topics.chunk_topic(worker, camera), wire.encode(message))

    async def hand_over(self, worker: str, sequence: int, *, camera: str = "gate") -> None:
        """Pass a frame to a worker as its peer would."""
        message = Handover(
            camera=camera,
            hops=1,
            frame=FrameId(1, sequence),
            attempt=1,
            site=SITE,
            fingerprint=FINGERPRINT,
            queries=(ref(CAR, 15_000),),
            stop=LADDER[0],
            payload=b"payload",
        )
        await self.bus.publish(topics.handover_topic(worker), wire.encode(message), qos=1)

    async def answer(self, sequence: int, *, final: bool = True) -> Answer:
        """The next answer about a frame."""

        def match(answer: Answer) -> bool:
            return answer.frame.sequence == sequence and (answer.outcome is not None) == final

        return (await self.expect(Answer, match))[1]

    async def status(self, match: Callable[[Status], bool]) -> Status:
        """The next status that matches."""
        return (await self.expect(Status, match))[1]
