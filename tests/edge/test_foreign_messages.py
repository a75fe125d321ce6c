"""Messages that are meant for somebody else: an edge learns nothing from them, and says what is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edge_nodes.first_prefix import FirstPrefix
from edge_nodes.pool_problems import PoolProblems
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.logs import OncePerKind
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.protocol.load_shedding import LoadShedding
from schemas.messages import Busy, Open
from schemas.types import FrameId
from tests.edge.running import listening, running
from tests.edge.support import ScriptedWorker

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]


def settings_of(broker: BrokerSettings, codec_dir: Path) -> LatentbusSettings:
    edge = EdgeSettings(
        site="depot",
        codec=codec_dir,
        cameras={"gate": CameraSettings(source="test:1", interval_s=0.1, questions=("car",))},
        questions={"car": QuestionSettings(text="Is there a car?", deadline_ms=20_000)},
    )
    return LatentbusSettings(broker=broker, edge=edge)


def of_another_site(opened: Open) -> Open:
    """A frame of a camera of the same name at another site, with a question of the same id."""
    return opened.model_copy(update={"frame": FrameId(opened.frame.boot ^ 1, opened.frame.sequence), "site": "harbour"})


async def test_an_edge_learns_nothing_from_the_answers_and_the_busy_of_another_site(
    broker_settings: BrokerSettings, codec_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[tuple[str, FrameId]] = []

    def noted(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def spy(self: Any, *args: Any) -> Any:
            learned.append((name, args[1] if name == "busy" else args[0].frame))
            return method(self, *args)

        monkeypatch.setattr(owner, name, spy)

    noted(FirstPrefix, "answered")
    noted(PoolProblems, "answer")
    noted(LoadShedding, "busy")
    async with (
        asyncio.timeout(30),
        ScriptedWorker(broker_settings) as worker,
        running(settings_of(broker_settings, codec_dir)) as edge,
    ):
        camera, opened = await worker.next_open()
        theirs = of_another_site(opened)
        busy = Busy(worker=worker.name, frame=theirs.frame, attempt=1, retry_after_ms=100)
        await worker.control(camera, busy)
        await worker.answer_all(camera, theirs, "no")
        # Its own word, which comes after those.
        await worker.control(camera, busy.model_copy(update={"frame": opened.frame, "attempt": opened.attempt}))
        await worker.answer_all(camera, opened)
        await edge.watcher.until(lambda: any(end.frame == opened.frame for end in edge.watcher.ended))
    assert {name for name, frame in learned if frame == opened.frame} == {"answered", "answer", "busy"}
    assert theirs.frame not in {frame for _, frame in learned}


async def test_an_edge_says_that_a_peer_speaks_an_older_version(
    broker_settings: BrokerSettings, codec_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    report = OncePerKind.report

    def noted(self: OncePerKind, kind: str, problem: str, **context: Any) -> None:
        report(self, kind, problem, **context)
        told.put_nowait((kind, problem))

    monkeypatch.setattr(OncePerKind, "report", noted)
    old = b'{"v":1,"kind":"worker","id":"w-9","boot":1,"online":true,"pool":"main"}'
    async with asyncio.timeout(30), listening(broker_settings) as peer:
        await peer.bus.publish("lb/v1/status/worker/w-9", old, qos=1, retain=True)
        async with running(settings_of(broker_settings, codec_dir)):
            kind, problem = await told.get()
    assert kind == "topic/version"
    assert problem == ("status: wire version 1 of the peer, this process speaks 2: update the older side, the peer")
