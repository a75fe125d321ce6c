"""Wake mode: one frame of each camera, its answers, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edge_nodes.node import run_edge
from edge_nodes.once import EXIT_INCOMPLETE
from pipeline.bus.base import Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings, UplinkBudgetSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.node.runtime import Stop
from pipeline.protocol.calendar_periods import Days
from pipeline.protocol.uplink_budget import PeriodSpending, StoreSpending
from schemas import topics, wire
from schemas.messages import Ask, Question, Status
from schemas.types import Outcome
from tests.edge.running import Watcher, listening
from tests.edge.support import ScriptedWorker, grey, write_video

pytestmark = pytest.mark.broker

CAR = QuestionSettings(text="Is there a car?", deadline_ms=20_000)
Make = Callable[..., LatentbusSettings]
LIMIT_S = 60.0
"""Only a test that fails waits so long."""


@pytest.fixture
def make(broker_settings: BrokerSettings, codec_dir: Path, tmp_path: Path) -> Make:
    video = write_video(tmp_path / "gate.mp4", [grey(60 + 5 * number) for number in range(20)], fps=20)

    def settings(*, cameras: dict[str, CameraSettings] | None = None, **edge: Any) -> LatentbusSettings:
        four = {
            "gate": CameraSettings(source=str(video), interval_s=900, questions=("car",)),
            "yard": CameraSettings(source="test:1", interval_s=900, questions=("car",)),
            "dock": CameraSettings(source="test:2", interval_s=900, questions=("car",)),
            "quiet": CameraSettings(source="test:3", interval_s=900),
        }
        values: dict[str, Any] = {
            "site": "depot",
            "codec": codec_dir,
            "cameras": cameras or four,
            "questions": {"car": CAR},
            "state_dir": tmp_path / "state",
            **edge,
        }
        return LatentbusSettings(broker=broker_settings, edge=EdgeSettings.model_validate(values))

    return settings


async def answer_everything(worker: ScriptedWorker) -> None:
    while True:
        camera, opened = await worker.next_open()
        await worker.answer_all(camera, opened)


async def once(settings: LatentbusSettings, limit_s: float = LIMIT_S) -> tuple[int, Watcher]:
    watcher = Watcher()
    async with asyncio.timeout(LIMIT_S):
        status = await run_edge(settings, Stop(5.0), observers=[watcher], once_limit_s=limit_s)
    return status, watcher


async def with_worker(settings: BrokerSettings, work: Awaitable[tuple[int, Watcher]]) -> tuple[int, Watcher]:
    async with ScriptedWorker(settings) as worker:
        answering = asyncio.create_task(answer_everything(worker))
        try:
            return await work
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def test_one_frame_of_each_camera_is_answered_and_the_process_ends(
    make: Make, broker_settings: BrokerSettings
) -> None:
    async with listening(broker_settings, topics.status_topic("edge", "depot")) as listener:
        status, watcher = await with_worker(broker_settings, once(make()))
        assert status == 0
        assert sorted((end.camera, end.outcome) for end in watcher.ended) == [
            (camera, Outcome.ANSWERED) for camera in ("dock", "gate", "yard")
        ]
        said = [(await listener.next(Status))[1] for _ in range(2)]
        assert [message.online for message in said if isinstance(message, Status)] == [True, False]


async def test_a_question_that_an_operator_has_left_at_the_broker_is_asked(
    make: Make, broker_settings: BrokerSettings
) -> None:
    """The only question of these cameras is retained; the slot must not be over before it is known."""
    cameras = {"yard": CameraSettings(source="test:1", interval_s=900)}
    question = Question(
        site="depot", question_id="fire", text="Is there a fire?", deadline_ms=20_000, cameras=("yard",)
    )
    async with MqttBus(broker_settings, client_id="ops", subscriptions=[Subscription("x")]) as bus:
        await bus.wait_connected(10)
        topic = topics.question_topic("depot", "fire")
        await bus.publish(topic, wire.encode(question), qos=1, retain=True)
    status, watcher = await with_worker(broker_settings, once(make(cameras=cameras, questions={})))
    assert status == 0
    assert [(end.question.question_id, end.outcome) for end in watcher.ended] == [("fire", Outcome.ANSWERED)]


async def test_an_ad_hoc_question_of_an_earlier_waking_is_answered(make: Make, broker_settings: BrokerSettings) -> None:
    """It is on disk; nobody asks standing questions here."""
    cameras = {"yard": CameraSettings(source="test:1", interval_s=900)}
    settings = make(cameras=cameras, questions={})
    stop = Stop(5.0)
    earlier = asyncio.create_task(run_edge(settings, stop))
    await stop.ready.wait()
    async with listening(broker_settings, topics.answer_topic("yard")) as listener:
        await listener.ask("yard", Ask(query_id="q1", text="Is the gate open?", deadline_ms=60_000))
        async with ScriptedWorker(broker_settings) as worker:
            await worker.next_open()
            earlier.cancel()  # as a power cut
            await asyncio.gather(earlier, return_exceptions=True)
        status, watcher = await with_worker(broker_settings, once(settings))
    assert status == 0
    assert [(end.question.question_id, end.outcome) for end in watcher.ended] == [("q1", Outcome.ANSWERED)]


async def test_without_a_worker_it_ends_in_time_and_says_so(make: Make) -> None:
    status, watcher = await once(make(), limit_s=1.0)
    assert status == EXIT_INCOMPLETE
    assert {end.outcome for end in watcher.ended} <= {Outcome.FAILED}
    assert len(watcher.ended) == 3


async def test_a_camera_that_does_not_open_is_named_and_the_others_are_answered(
    make: Make, broker_settings: BrokerSettings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cameras = {
        "gone": CameraSettings(source=str(tmp_path / "gone.mp4"), interval_s=900, questions=("car",)),
        "yard": CameraSettings(source="test:1", interval_s=900, questions=("car",)),
    }
    status, watcher = await with_worker(broker_settings, once(make(cameras=cameras), limit_s=3.0))
    assert status == EXIT_INCOMPLETE
    assert [(end.camera, end.outcome) for end in watcher.ended] == [("yard", Outcome.ANSWERED)]
    assert "without_frame=['gone']" in capsys.readouterr().out


async def test_a_broker_that_is_not_there_ends_it_in_time(make: Make) -> None:
    settings = make()
    away = settings.broker.model_copy(update={"port": 1})
    status, _ = await once(settings.model_copy(update={"broker": away}), limit_s=1.0)
    assert status == EXIT_INCOMPLETE


async def test_a_site_that_has_spent_its_budget_asks_nothing_and_ends_well(
    make: Make, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    from edge_nodes.uplink_spending import SpendingFile
    from pipeline.node.clock import wall_clock

    today = Days().number(wall_clock()[0])
    file = SpendingFile(tmp_path / "state" / "uplink-depot.json")
    for spent_bytes in (910_000, 999_999):
        file.write(StoreSpending({"day": PeriodSpending(today, spent_bytes)}))
        settings = make(uplink_budget=UplinkBudgetSettings(day_mb=1))
        status, watcher = await with_worker(broker_settings, once(settings))
        assert status == 0
        assert watcher.ended == []
