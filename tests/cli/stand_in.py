"""An edge and a worker in one, over a real broker: answers every ask as a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.identity import ad_hoc_query_id, owner_of
from schemas.messages import Answer, Ask, JsonMessage, QueryOutcome, Status
from schemas.types import FrameId, Outcome
from tests.bus.support import FAST

EDGE = Status(kind="edge", id="north", boot=1, online=True, pool="p", fingerprint="00000001", cameras=("gate", "yard"))
WORKER = Status(kind="worker", id="w1", boot=1, online=True, pool="p", fingerprint="00000001", capacity=8)


def answer_to(camera: str, client: str, ask: Ask, outcome: Outcome | None, text: str, latents: int) -> Answer:
    """What a worker says to a question."""
    return Answer.model_validate(
        {
            "query_id": ad_hoc_query_id(camera, client, ask.query_id),
            "owner": owner_of("client", client),
            "camera": camera,
            "frame": FrameId(1, 0),
            "attempt": 1,
            "question_id": ask.query_id,
            "worker": "w1",
            "outcome": outcome,
            "text": text,
            "score": 0.9,
            "latents": latents,
            "payload_bytes": 90,
            "looks": 1,
        }
    )


def twice(camera: str, client: str, ask: Ask) -> list[JsonMessage]:
    """A provisional answer, then the terminal one."""
    return [
        answer_to(camera, client, ask, None, "perhaps", 4),
        answer_to(camera, client, ask, Outcome.ANSWERED, f"{ask.text} yes", 32),
    ]


Script = Callable[[str, str, Ask], Sequence[JsonMessage]]
"""What is said to an ask, by camera and client."""


@dataclass
class StandIn:
    """The far side of a client.

    Attributes:
        asked: asks that came, with camera and client.
        script: what it says.
    """

    bus: MqttBus
    script: Script = twice
    asked: list[tuple[str, str, Ask]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        while True:
            for event in await self.bus.receive_batch():
                if isinstance(event, Inbound):
                    self.bus.acknowledge(event)
                    await self.hear(event)

    async def hear(self, inbound: Inbound) -> None:
        topic, ask = wire.decode_publish(inbound.topic, inbound.payload)
        assert isinstance(ask, Ask)
        camera, client = topic.names
        self.asked.append((camera, client, ask))
        async with self.changed:
            self.changed.notify_all()
        for message in self.script(camera, client, ask):
            assert inbound.response_topic is not None
            await self.say(message, inbound.response_topic)

    async def say(self, message: JsonMessage, reply: str) -> None:
        """On the reply topic, and on the public one as far as there is one."""
        await self.bus.publish(reply, wire.encode(message), qos=1)
        if isinstance(message, Answer | QueryOutcome):
            build = topics.answer_topic if isinstance(message, Answer) else topics.outcome_topic
            await self.bus.publish(build(message.camera), wire.encode(message), qos=1)

    async def wait_asked(self, count: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.asked) >= count)


@asynccontextmanager
async def standing_in(
    broker: BrokerSettings, *statuses: Status, script: Script = twice, client_id: str = "north"
) -> AsyncIterator[StandIn]:
    """A far side with these statuses retained; an edge and a worker unless given."""
    cameras = topics.family_filter(topics.Family.ASK)
    bus = MqttBus(broker, client_id=client_id, subscriptions=[Subscription(cameras, qos=1)], backoff=FAST)
    async with bus:
        await bus.wait_connected(10)
        for status in statuses or (EDGE, WORKER):
            await bus.publish(topics.status_topic(status.kind, status.id), wire.encode(status), qos=1, retain=True)
        far = StandIn(bus, script)
        task = asyncio.create_task(far.run(), name="stand-in")
        try:
            yield far
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
