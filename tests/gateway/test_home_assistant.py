"""The gateway tells Home Assistant over a real broker, open and secured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker_config.devices import Device, DeviceKind
from broker_config.fleet_folder import FleetFolder
from broker_config.secured import secured_broker
from latentbus.gateway.service import Gateway
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import load_settings
from schemas import topics, wire
from schemas.home_assistant import availability_topic, config_topic, state_topic
from schemas.messages import Question
from schemas.types import AnswerType
from tests.cli.stand_in import EDGE, WORKER, standing_in
from tests.cli.test_watch import say, standing
from tests.gateway.conftest import gateway_of

pytestmark = pytest.mark.broker
PATIENCE_S = 60.0
CAR = Question(site="north", question_id="car", text="A car?", answer_type=AnswerType.YES_NO, cameras=("gate",))


@asynccontextmanager
async def reading(broker: BrokerSettings) -> AsyncIterator[House]:
    """A stand-in for Home Assistant, which keeps what is retained for it."""
    bus = MqttBus(broker, client_id="house", subscriptions=[Subscription("homeassistant/#", qos=1)])
    async with bus:
        await bus.wait_connected(10)
        yield House(bus)


class House:
    def __init__(self, bus: MqttBus) -> None:
        self._bus = bus
        self.retained: dict[str, bytes] = {}

    async def until(self, topic: str, condition: Any) -> None:
        """Read until what is retained on a topic meets a condition; b"" where nothing is."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self.retained.get(topic, b"")):
                for event in await self._bus.receive_batch():
                    if isinstance(event, Inbound):
                        self._bus.acknowledge(event)
                        self.retained[event.topic] = event.payload


async def asked(bus: MqttBus, question: Question | None) -> None:
    payload = b"" if question is None else wire.encode(question)
    await bus.publish(topics.question_topic("north", "car"), payload, qos=1, retain=True)


def quick(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway.home_assistant is not None
    gateway.home_assistant.look_s = 0.02
    monkeypatch.setattr(gateway.home_assistant.discovery, "_patience_s", 0.1)


async def test_from_a_question_to_an_entity_and_back(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with standing_in(broker_settings, EDGE, WORKER) as far, reading(broker_settings) as house:
        await asked(far.bus, CAR)
        async with gateway_of(broker_settings, home_assistant={}) as web:
            quick(web.gateway, monkeypatch)
            await house.until(config_topic("gate"), lambda payload: b"car binary_sensor" in payload)
            assert house.retained[availability_topic("gate")] == b"online"
            await say(far, standing(1))
            await house.until(state_topic("gate", "car"), lambda payload: b'"state":"yes"' in payload)
            shown = json.loads(house.retained[state_topic("gate", "car")])
            assert (shown["latents"], shown["bytes"], shown["confidence"]) == (9, 41, 0.9)
        # Another process, for which the question is gone.
        await asked(far.bus, None)
        async with gateway_of(broker_settings, home_assistant={}) as web:
            quick(web.gateway, monkeypatch)
            await house.until(config_topic("gate"), lambda payload: b"uniq_id" not in payload)
            assert json.loads(house.retained[config_topic("gate")])["cmps"] == {
                "car binary_sensor": {"p": "binary_sensor"}
            }
            await house.until(state_topic("gate", "car"), lambda payload: payload == b"")
        async with gateway_of(broker_settings, home_assistant={"enabled": False}) as web:
            quick(web.gateway, monkeypatch)
            for topic in (config_topic("gate"), availability_topic("gate"), availability_topic("yard")):
                await house.until(topic, lambda payload: payload == b"")
    assert not any(house.retained.values())


async def test_unless_switched_on_nothing_is_said(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings, EDGE, WORKER), reading(broker_settings) as house:
        async with gateway_of(broker_settings) as web:
            assert web.gateway.home_assistant is None
            await web.until_ready("gate")
        await house._bus.publish("homeassistant/mark", b"x", qos=1)
        await house.until("homeassistant/mark", lambda payload: payload == b"x")
    assert set(house.retained) == {"homeassistant/mark"}


async def test_on_a_secured_broker(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FleetFolder.create(tmp_path / "fleet", ["127.0.0.1"])
    for device in (
        Device(name="north", kind=DeviceKind.EDGE, pool="p", cameras=("gate", "yard")),
        Device(name="w1", kind=DeviceKind.WORKER, pool="p"),
        Device(name="web", kind=DeviceKind.GATEWAY),
        Device(name="house", kind=DeviceKind.HOME_ASSISTANT),
    ):
        fleet.add(device)

    def settings_of(name: str, port: int) -> BrokerSettings:
        return load_settings(fleet.device(name) / "settings.yaml").broker.model_copy(update={"port": port})

    with secured_broker(fleet.broker) as running:
        edge, web_settings = settings_of("north", running.port), settings_of("web", running.port)
        async with (
            MqttBus(edge, client_id="north") as north,
            reading(settings_of("house", running.port)) as house,
        ):
            await north.wait_connected(10)
            await north.publish(topics.status_topic("edge", "north"), wire.encode(EDGE), qos=1, retain=True)
            await asked(north, CAR)
            async with gateway_of(web_settings, name="web", home_assistant={}) as web:
                quick(web.gateway, monkeypatch)
                await house.until(config_topic("gate"), lambda payload: b"car binary_sensor" in payload)
                await house.until(availability_topic("gate"), lambda payload: payload == b"online")
            async with gateway_of(web_settings, name="web", home_assistant={"enabled": False}) as web:
                quick(web.gateway, monkeypatch)
                await house.until(config_topic("gate"), lambda payload: payload == b"")
        running.kill()
