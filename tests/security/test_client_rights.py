"""The Python client on a secured broker: a client that is held to some cameras asks and watches those."""

from __future__ import annotations

import asyncio

import pytest

from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker
from latentbus.client import Client
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import load_settings
from schemas import topics, wire
from schemas.errors import NotAuthorizedError
from schemas.messages import Ask, QueryOutcome
from schemas.types import Outcome
from tests.cli.stand_in import EDGE, answer_to

pytestmark = pytest.mark.broker
PATIENCE_S = 30.0


def settings(fleet: FleetFolder, broker: LocalBroker, name: str) -> BrokerSettings:
    return load_settings(fleet.device(name) / "settings.yaml").broker.model_copy(update={"port": broker.port})


async def answer_as_worker(worker: MqttBus, edge: MqttBus) -> None:
    """The edge hears the ask, a worker answers it."""
    while True:
        for event in await edge.receive_batch():
            if isinstance(event, Inbound):
                edge.acknowledge(event)
                topic, ask = wire.decode_publish(event.topic, event.payload)
                assert isinstance(ask, Ask)
                final = answer_to(topic.name("camera"), topic.name("client"), ask, Outcome.ANSWERED, "yes", 32)
                await worker.publish(event.response_topic or "", wire.encode(final), qos=1)


async def test_a_client_that_is_held_to_a_camera(settled_fleet: FleetFolder, secured: LocalBroker) -> None:
    def bus(name: str, *filters: str) -> MqttBus:
        return MqttBus(
            settings(settled_fleet, secured, name),
            client_id=name,
            subscriptions=[Subscription(entry, qos=1) for entry in filters],
        )

    async with (
        bus("north", topics.ask_filter("gate")) as edge,
        bus("w1") as worker,
        Client(settings(settled_fleet, secured, "guard"), name="guard") as guard,
        asyncio.timeout(PATIENCE_S),
    ):
        await edge.wait_connected(PATIENCE_S)
        await worker.wait_connected(PATIENCE_S)
        status = EDGE.model_copy(update={"cameras": ("gate",)})
        await edge.publish(topics.status_topic("edge", "north"), wire.encode(status), qos=1, retain=True)
        answering = asyncio.create_task(answer_as_worker(worker, edge))
        told = [message async for message in guard.ask("gate", "a car?")]
        assert [message.outcome for message in told] == [Outcome.ANSWERED]
        with pytest.raises(NotAuthorizedError, match="yard"):
            await anext(guard.ask("yard", "a car?", check=False))
        with pytest.raises(NotAuthorizedError, match=r"lb/v2/(answer|outcome)/\+"):
            await anext(guard.watch())
        # It goes on asking, and may not see the workers.
        assert [message.outcome async for message in guard.ask("gate", "a bus?")] == [Outcome.ANSWERED]
        assert "may not read the status of workers" in str(guard.cause("gate"))
        answering.cancel()
        await edge.publish(topics.status_topic("edge", "north"), b"", qos=1, retain=True)
    assert not isinstance(told[-1], QueryOutcome)
