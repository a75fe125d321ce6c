"""The gateway on a secured broker, with the rights of its kind and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker
from broker_config.secured import secured_broker
from pipeline.bus.base import Subscription
from pipeline.bus.mqtt import MqttBus
from schemas import topics, wire
from schemas.messages import Question, Status
from tests.cli.stand_in import EDGE, WORKER
from tests.gateway.conftest import PATIENCE_S, gateway_of
from tests.security.conftest import make_fleet
from tests.security.test_client_rights import answer_as_worker, settings

pytestmark = pytest.mark.broker


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    return make_fleet(tmp_path / "fleet")


@pytest.fixture
def secured(fleet: FleetFolder) -> Iterator[LocalBroker]:
    with secured_broker(fleet.broker) as running:
        yield running
        running.kill()


async def test_the_rights_of_a_gateway_are_what_it_needs(
    fleet: FleetFolder, secured: LocalBroker, tmp_path: Path
) -> None:
    def bus(name: str, *filters: str) -> MqttBus:
        subscriptions = [Subscription(entry, qos=1) for entry in filters]
        return MqttBus(settings(fleet, secured, name), client_id=name, subscriptions=subscriptions)

    async def retain(sender: MqttBus, topic: str, message: Status | Question) -> None:
        await sender.publish(topic, wire.encode(message), qos=1, retain=True)

    web = settings(fleet, secured, "web")
    state = tmp_path / "state"
    async with (
        bus("north", topics.ask_filter("gate")) as edge,
        bus("w1") as worker,
        asyncio.timeout(2 * PATIENCE_S),
    ):
        await edge.wait_connected(PATIENCE_S)
        await worker.wait_connected(PATIENCE_S)
        north = EDGE.model_copy(update={"cameras": ("gate",), "pool": "main"})
        await retain(edge, topics.status_topic("edge", "north"), north)
        await retain(
            edge, topics.question_topic("north", "car"), Question(site="north", question_id="car", text="A car?")
        )
        main = WORKER.model_copy(update={"pool": "main"})
        await retain(worker, topics.status_topic("worker", "w1"), main)
        answering = asyncio.create_task(answer_as_worker(worker, edge))
        async with gateway_of(web, name="web", state_dir=state) as served:
            await served.until_ready("gate")
            assert [name for name, _ in await served.ask("gate", "a car?", id="q1")] == ["final"]
            async with served.events() as events:
                await events.until("snapshot")
                load = main.model_copy(update={"parked": 3})
                await worker.publish(topics.load_topic("main", "w1"), wire.encode(load))
                fleet_now = await events.until("fleet", lambda data: any(one["frames"] == 3 for one in data["workers"]))
            assert [(one["worker"], one["pool"]) for one in fleet_now["workers"]] == [("w1", "main")]
            assert [question.text for question in served.gateway.client.fleet.questions.values()] == ["A car?"]
            assert not [key for key in served.gateway.client.counters if key.startswith("dropped")]
        async with gateway_of(web, name="web", state_dir=state) as served:
            await served.until_ready("gate")
            (again,) = await served.ask("gate", "a car?", id="q1")
            assert (again[0], again[1]["text"]) == ("final", "yes")
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
