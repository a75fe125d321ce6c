"""An edge process in a test: started, watched, ended or crashed, and somebody who listens to the public topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

from edge_nodes.node import run_edge
from edge_nodes.observer import OfferedFrame
from edge_nodes.sources import CapturedFrame
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.latent import EncodedLatent
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.node.runtime import Stop
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent
from schemas import topics, wire
from schemas.messages import Ask, Message
from schemas.types import FrameId

_NUMBERS = count(1)


class Watcher:
    """An observer that waits for what the test waits for."""

    def __init__(self) -> None:
        self.frames: dict[tuple[str, FrameId], tuple[CapturedFrame, EncodedLatent]] = {}
        self.sent: list[Sent] = []
        self.ended: list[Decision] = []
        self.up: dict[str, bool] = {}
        self._changed = asyncio.Event()

    def frame_offered(self, offered: OfferedFrame) -> None:
        self.frames[offered.captured.camera, offered.frame] = offered.captured, offered.latent
        self._changed.set()

    def message_sent(self, sent: Sent) -> None:
        self.sent.append(sent)
        self._changed.set()

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:
        self.ended.append(decision)
        self._changed.set()

    def source_changed(self, camera: str, up: bool) -> None:
        self.up[camera] = up
        self._changed.set()

    async def until(self, true: Callable[[], object]) -> None:
        while not true():
            self._changed.clear()
            await self._changed.wait()


class Listener:
    """Anybody who reads the public topics, and may publish."""

    def __init__(self, settings: BrokerSettings, *filters: str) -> None:
        self.bus = MqttBus(
            settings,
            client_id=f"listener-{next(_NUMBERS)}",
            subscriptions=[Subscription(entry, qos=1) for entry in filters],
        )
        self._read: list[tuple[Inbound, Message]] = []

    async def next(self, *kinds: type[Message]) -> tuple[Inbound, Message]:
        while True:
            for number, (inbound, message) in enumerate(self._read):
                if isinstance(message, kinds):
                    del self._read[number]
                    return inbound, message
            for event in await self.bus.receive_batch():
                if isinstance(event, Inbound):
                    self.bus.acknowledge(event)
                    if event.payload:
                        message = wire.decode(topics.parse(event.topic).family, event.payload)
                        self._read.append((event, message))

    async def ask(self, camera: str, ask: Ask, *, client: str = "me", reply: str | None = None) -> None:
        await self.bus.publish(
            topics.ask_topic(camera, client), wire.encode(ask), qos=1, response_topic=reply, correlation_data=b"c"
        )


@asynccontextmanager
async def listening(settings: BrokerSettings, *filters: str) -> AsyncIterator[Listener]:
    listener = Listener(settings, *filters)
    async with listener.bus:
        await listener.bus.wait_connected(10)
        yield listener


class Running:
    def __init__(self, settings: LatentbusSettings, drain_timeout_s: float) -> None:
        self.stop = Stop(drain_timeout_s)
        self.watcher = Watcher()
        self.task = asyncio.create_task(run_edge(settings, self.stop, observers=[self.watcher]))

    async def ready(self) -> None:
        waiting = asyncio.create_task(self.stop.ready.wait())
        await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.task.done():
            self.task.result()

    async def end(self) -> int:
        self.stop.request()
        return await self.task

    async def crash(self) -> None:
        """As a killed process: nothing is drained, nothing is said."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def running(settings: LatentbusSettings, *, drain_timeout_s: float = 5.0) -> AsyncIterator[Running]:
    edge = Running(settings, drain_timeout_s)
    try:
        await edge.ready()
        yield edge
    finally:
        if not edge.task.done():
            await edge.crash()
