"""A client that keeps every outcome: stored before it is acknowledged, and none missed while it was away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from latentbus.client import Client, Told
from pipeline.bus.base import ConnectionChange, Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.messages import Status
from schemas.types import Outcome
from tests.cli.stand_in import EDGE, StandIn, answer_to, standing_in

pytestmark = pytest.mark.broker
PATIENCE_S = 30.0


class Shelf:
    """Keeps what it is given, once it may."""

    def __init__(self, *, closed: bool = False) -> None:
        self.kept: list[str] = []
        self.given = asyncio.Event()
        self.open = asyncio.Event()
        self.changes: list[ConnectionChange] = []
        if not closed:
            self.open.set()

    async def keep(self, messages: Sequence[Told]) -> None:
        self.given.set()
        await self.open.wait()
        self.kept += [message.question_id for message in messages]

    def connection(self, change: ConnectionChange) -> None:
        self.changes.append(change)

    async def wait(self, count: int) -> list[str]:
        while len(self.kept) < count:
            self.given.clear()
            await self.given.wait()
            await asyncio.sleep(0)
        return self.kept


def gateway(broker: BrokerSettings, shelf: Shelf) -> Client:
    return Client(broker, name="web", keeper=shelf, session_expiry_s=3600, whole_fleet=True, announce=True)


async def say(far: StandIn, number: int) -> None:
    from schemas.messages import Ask

    final = answer_to("gate", "bob", Ask(query_id=f"q{number}", text="a car?"), Outcome.ANSWERED, "yes", 8)
    await far.bus.publish(topics.answer_topic("gate"), wire.encode(final), qos=1)


async def test_outcomes_of_the_time_away_come_when_it_is_back(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings) as far, asyncio.timeout(PATIENCE_S):
        first, second = Shelf(), Shelf()
        async with gateway(broker_settings, first):
            await say(far, 0)
            assert await first.wait(1) == ["q0"]
        for number in range(1, 200):
            await say(far, number)
        async with gateway(broker_settings, second):
            assert await second.wait(199) == [f"q{number}" for number in range(1, 200)]
    assert [change.session_resumed for change in first.changes if change.connected] == [False]
    assert [change.session_resumed for change in second.changes if change.connected] == [True]


async def test_what_is_not_stored_is_not_acknowledged(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings) as far, asyncio.timeout(PATIENCE_S):
        slow, next_one = Shelf(closed=True), Shelf()
        client = gateway(broker_settings, slow)
        async with client:
            await say(far, 0)
            await slow.given.wait()
            await client._bus.__aexit__(None, None, None)  # as a process that is killed: nothing is finished
        async with gateway(broker_settings, next_one):
            assert await next_one.wait(1) == ["q0"]
    assert slow.kept == []


async def test_it_says_when_it_is_online(broker_settings: BrokerSettings) -> None:
    seen: list[Status] = []
    status = Subscription(topics.status_topic("gateway", "web"), qos=1)
    async with (
        standing_in(broker_settings, EDGE),
        MqttBus(broker_settings, client_id="witness", subscriptions=[status]) as witness,
        asyncio.timeout(PATIENCE_S),
    ):
        await witness.wait_connected(PATIENCE_S)

        async def next_status() -> Status:
            while True:
                for event in await witness.receive_batch(1):
                    if isinstance(event, Inbound):
                        witness.acknowledge(event)
                        _, message = wire.decode_publish(event.topic, event.payload)
                        assert isinstance(message, Status)
                        return message

        async with gateway(broker_settings, Shelf()):
            seen.append(await next_status())
        seen.append(await next_status())
    assert [(one.kind, one.id, one.online) for one in seen] == [("gateway", "web", True), ("gateway", "web", False)]
    assert seen[0].boot == seen[1].boot
