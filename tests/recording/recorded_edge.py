"""An edge that records itself, and a worker that refines and answers what a client asks of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from edge_nodes.node import run_edge
from edge_nodes.observer import OfferedFrame
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.latent import EncodedLatent
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.node.runtime import Stop
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent
from schemas import topics, wire
from schemas.messages import Ask, Chunk
from schemas.types import FrameId
from tests.edge.support import LATENTS, ScriptedWorker

WAIT_S = 30.0


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.latents: dict[FrameId, EncodedLatent] = {}
        self.sent: list[Sent] = []
        self.ended: asyncio.Queue[Decision] = asyncio.Queue()

    def frame_offered(self, offered: OfferedFrame) -> None:
        self.latents[offered.frame] = offered.latent

    def message_sent(self, sent: Sent) -> None:
        self.sent.append(sent)

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:
        self.ended.put_nowait(decision)

    def source_changed(self, camera: str, up: bool) -> None:
        pass


def edge_settings(broker: BrokerSettings, codec_dir: Path, site: str, **more: Any) -> LatentbusSettings:
    """A site with one quiet camera, ``gate``."""
    camera = CameraSettings(source="test:1", interval_s=1.0)
    edge = EdgeSettings(site=site, codec=codec_dir, cameras={"gate": camera}, **more)
    return LatentbusSettings(broker=broker, edge=edge)


async def ask_and_answer(settings: LatentbusSettings, asks: int, *, refine: bool = True) -> Notes:
    """Run the edge, ask it one question after another, and drain it."""
    stop, notes = Stop(5.0), Notes()
    async with asyncio.timeout(WAIT_S), ScriptedWorker(settings.broker) as worker:
        client = MqttBus(settings.broker, client_id="client")
        running = asyncio.create_task(run_edge(settings, stop, observers=[notes]))
        ready = asyncio.create_task(stop.ready.wait())
        await asyncio.wait({ready, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            ready.cancel()
            running.result()
        async with client:
            await client.wait_connected(WAIT_S)
            for number in range(asks):
                ask = Ask(query_id=f"q{number}", text="Is there a car?", deadline_ms=20_000)
                await client.publish(topics.ask_topic("gate", "client"), wire.encode(ask), qos=1)
                camera, opened = await worker.next_open()
                if refine:
                    await worker.refine(camera, opened, opened.stop, LATENTS)
                    assert isinstance(await worker.next_in_inbox(), Chunk)
                await worker.answer_all(camera, opened)
                await notes.ended.get()
        stop.request()
        assert await running == 0
    return notes
