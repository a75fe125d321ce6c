"""An edge process that loses its link: frames are kept on disk, and sent as history when the link is back."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_nodes import session_settings
from edge_nodes.frame_file import FrameFile
from edge_nodes.machine_clock import MachineClock
from latentbus.chaos.tcp_proxy import FaultProxy
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings, StoreSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.protocol import store_settings
from pipeline.protocol.store_requests import PutFrame, StoreRequest, StoreResult
from pipeline.protocol.store_settings import StorePolicy
from schemas.messages import Open
from schemas.types import UNKNOWN_AGE, AnswerType, Outcome
from tests.edge.running import Running, running
from tests.edge.support import ScriptedWorker, write_codec

ANSWERS_S = 40.0


class Stored:
    """Says when frames are on disk."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def put(self) -> None:
        self.count += 1
        self._loop.call_soon_threadsafe(self._changed.set)

    async def more(self) -> None:
        """Wait for another one."""
        before = self.count
        while self.count == before:
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link counts as lost at once, and every frame is kept."""
    settings = functools.partial(store_settings.StoreSettings, offline_after_s=0.1, newest_every_s=0.0, retry_s=0.5)
    monkeypatch.setattr(session_settings, "StoreSettings", settings)


@pytest.fixture
async def stored(monkeypatch: pytest.MonkeyPatch) -> Stored:
    seen = Stored()
    perform = FrameFile.perform

    def watched(self: FrameFile, request: StoreRequest) -> StoreResult:
        result = perform(self, request)
        if isinstance(request, PutFrame):
            seen.put()
        return result

    monkeypatch.setattr(FrameFile, "perform", watched)
    return seen


class Fleet:
    """A broker, a link that can be cut, and the settings of an edge behind it."""

    def __init__(self, link: FaultProxy, broker: BrokerSettings, folder: Path, policy: StorePolicy) -> None:
        self.link = link
        self._broker = broker
        self._edge = EdgeSettings(
            site="depot",
            codec=write_codec(folder / "codec"),
            key_frames=False,
            cameras={"gate": CameraSettings(source="test:1", interval_s=0.1, questions=("car",))},
            questions={"car": QuestionSettings(text="Is there a car?", answer_type=AnswerType.YES_NO)},
            state_dir=folder / "state",
            store=StoreSettings(policy=policy, nth=1),
        )

    @asynccontextmanager
    async def edge(self) -> AsyncIterator[Running]:
        through = self._broker.model_copy(update={"host": self.link.host, "port": self.link.port})
        async with running(LatentbusSettings(broker=through, edge=self._edge)) as edge:
            yield edge


@asynccontextmanager
async def fleet(broker: BrokerSettings, folder: Path, policy: StorePolicy) -> AsyncIterator[Fleet]:
    async with FaultProxy(lambda: (broker.host, broker.port)) as link:
        yield Fleet(link, broker, folder, policy)


async def next_history(worker: ScriptedWorker) -> Open:
    """The next open of a stored frame; live ones are answered on the way."""
    while True:
        camera, opened = await worker.next_open()
        if opened.age_ms is not None:
            return opened
        await worker.answer_all(camera, opened)


@pytest.mark.usefixtures("quick")
async def test_frames_of_a_lost_link_are_sent_as_history_when_it_is_back(
    broker_settings: BrokerSettings, tmp_path: Path, stored: Stored
) -> None:
    async with (
        asyncio.timeout(ANSWERS_S),
        fleet(broker_settings, tmp_path, StorePolicy.EVERY_NTH) as site,
        ScriptedWorker(broker_settings) as worker,
        site.edge() as edge,
    ):
        camera, opened = await worker.next_open()
        assert opened.age_ms is None
        await worker.answer_all(camera, opened)
        site.link.cut()
        for _ in range(3):
            await stored.more()
        site.link.heal()
        ages = []
        for _ in range(2):
            history = await next_history(worker)
            assert isinstance(history.age_ms, int)
            ages.append(history.age_ms)
            assert [ref.question_id for ref in history.queries] == ["car"]
            assert history.queries[0].remaining_ms > 50_000, "nobody waits for it"
            await worker.answer_all("gate", history)
        await edge.watcher.until(lambda: sum(decision.history for decision in edge.watcher.ended) >= 2)
        told = [decision for decision in edge.watcher.ended if decision.history]
        assert {decision.outcome for decision in told} == {Outcome.ANSWERED}
        assert ages[0] > 0
        assert await edge.end() == 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("power_cut", [False, True])
async def test_stored_frames_outlive_the_process_and_of_a_power_cut_nobody_knows_their_age(
    broker_settings: BrokerSettings, tmp_path: Path, stored: Stored, power_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        asyncio.timeout(ANSWERS_S),
        fleet(broker_settings, tmp_path, StorePolicy.NEWEST) as site,
        ScriptedWorker(broker_settings) as worker,
    ):
        async with site.edge() as edge:
            camera, opened = await worker.next_open()
            await worker.answer_all(camera, opened)
            site.link.cut()
            await stored.more()
            await stored.more()
            await edge.crash()
        if power_cut:
            monkeypatch.setattr(MachineClock, "of_this_machine", lambda: MachineClock("another time"))
        site.link.heal()
        async with site.edge() as edge:
            history = await next_history(worker)
            assert (history.age_ms == UNKNOWN_AGE) is power_cut
            await worker.answer_all("gate", history)
            await edge.watcher.until(lambda: any(decision.history for decision in edge.watcher.ended))


async def test_with_the_policy_off_there_is_no_file(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    async with (
        asyncio.timeout(ANSWERS_S),
        fleet(broker_settings, tmp_path, StorePolicy.OFF) as site,
        ScriptedWorker(broker_settings) as worker,
        site.edge(),
    ):
        camera, opened = await worker.next_open()
        await worker.answer_all(camera, opened)
    assert [path.name for path in (tmp_path / "state").iterdir() if path.name.startswith("frames")] == []
