"""What Mosquitto's ``memory_limit`` does, and why no configuration of ours has it.

docs/security.md says what is shown here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker_config.devices import Device, DeviceKind
from broker_config.dynamic_security import (
    REQUEST_TOPIC,
    RESPONSE_TOPIC,
    find_plugin,
    list_request,
)
from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker, find_mosquitto
from broker_config.limits import LIMITS
from broker_config.secured import secured_listener
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import load_settings
from schemas.errors import BusError, ConnectionLostError
from tests.bus.support import FAST
from tests.mosquitto import mosquitto_version

pytestmark = pytest.mark.broker
WAIT_S = 20.0
LIMIT_BYTES = 8 * 1024 * 1024
BIG_BYTES = 30_000
HEAP_TOPIC = "$SYS/broker/heap/current"


@pytest.fixture
def known_mosquitto() -> None:
    """The versions of which docs/security.md speaks."""
    if mosquitto_version(find_mosquitto()) >= (2, 1, 0):
        pytest.skip("Mosquitto 2.1 has another count of its memory")


def test_no_configuration_has_it() -> None:
    assert "memory_limit" not in LIMITS


@asynccontextmanager
async def connected(broker: BrokerSettings, name: str, *filters: str) -> AsyncIterator[MqttBus]:
    bus = MqttBus(broker, client_id=name, subscriptions=[Subscription(entry, qos=1) for entry in filters], backoff=FAST)
    async with bus:
        await bus.wait_connected(WAIT_S)
        yield bus


async def gets_in(broker: BrokerSettings, name: str) -> bool:
    """Whether a connection comes to stand and can publish."""
    async with MqttBus(broker, client_id=name, backoff=FAST) as bus:
        try:
            await bus.wait_connected(2.0)
            await bus.publish("small", b"x", qos=1, timeout_s=2.0)
        except BusError:
            return False
    return True


async def fill(broker: BrokerSettings, size_bytes: int, prefix: str) -> int:
    """Retained messages until the broker throws the publisher out; how many it took."""
    async with connected(broker, f"filler-{prefix}") as bus:
        for number in range(200_000):
            try:
                await bus.publish(f"{prefix}/{number}", bytes(size_bytes), qos=1, retain=True, timeout_s=5.0)
            except ConnectionLostError:
                return number
    raise AssertionError("the limit was never reached")


@pytest.mark.usefixtures("known_mosquitto")
async def test_without_the_plug_in_it_bounds_what_is_retained_and_ends_in_a_lock_out() -> None:
    async with LocalBroker(options={"memory_limit": str(LIMIT_BYTES)}) as running:
        broker = BrokerSettings(port=running.port)
        async with connected(broker, "bystander", "small") as bystander:
            taken = await fill(broker, BIG_BYTES, "big")
            assert LIMIT_BYTES / BIG_BYTES * 0.8 < taken <= LIMIT_BYTES / BIG_BYTES
            assert await gets_in(broker, "newcomer"), "there is room for a small one still"
            await fill(broker, 10, "small")
            # Who is inside stays; nobody comes in any more, not even to clear what fills it.
            await bystander.publish("small", b"x", qos=1)
            assert not await gets_in(broker, "clearer")
        running.kill()


class Rules:
    """The admin's connection to the plug-in of a secured broker that counts its memory once a second."""

    def __init__(self, bus: MqttBus) -> None:
        self.bus = bus
        self.heap_bytes: list[int] = []

    async def read_rules(self) -> int:
        """One request that changes nothing; length of its response in bytes."""
        await self.bus.publish(REQUEST_TOPIC, list_request("listRoles", 0), qos=1)
        return await self._next(RESPONSE_TOPIC)

    async def read_for_ever(self) -> None:
        """Until the connection breaks."""
        while True:
            await self.read_rules()

    async def heap_now(self) -> int:
        """What the broker takes its memory to be, counted after this call."""
        before = len(self.heap_bytes)
        while len(self.heap_bytes) <= before:
            await self._next(HEAP_TOPIC)
        return self.heap_bytes[-1]

    async def _next(self, topic: str) -> int:
        async with asyncio.timeout(WAIT_S):
            while True:
                for event in await self.bus.receive_batch(1):
                    if not isinstance(event, Inbound):
                        if not event.connected:
                            raise ConnectionLostError(event.reason)
                        continue
                    self.bus.acknowledge(event)
                    if event.topic == HEAP_TOPIC and not event.retain:
                        self.heap_bytes.append(int(event.payload))
                    if event.topic == topic:
                        return len(event.payload)


@asynccontextmanager
async def secured(tmp_path: Path, **options: str) -> AsyncIterator[tuple[LocalBroker, FleetFolder, Rules]]:
    fleet = FleetFolder.create(tmp_path / "fleet", ["127.0.0.1"])
    cameras = tuple(f"camera-{number}" for number in range(60))
    fleet.add(Device(name="north", kind=DeviceKind.EDGE, pool="main", cameras=cameras))
    rules = json.loads((fleet.broker / "dynamic-security.json").read_text())
    for role in rules["roles"]:
        if role["rolename"] == "admin":
            for access in ("publishClientReceive", "subscribePattern"):
                role["acls"].append({"acltype": access, "topic": HEAP_TOPIC, "priority": 0, "allow": True})
    (fleet.broker / "dynamic-security.json").write_text(json.dumps(rules))
    lines = secured_listener(fleet.broker.absolute(), find_plugin(find_mosquitto()))
    async with LocalBroker(anonymous=False, options={"sys_interval": "1", **options}, listener_lines=lines) as running:
        async with connected(settings(fleet, running, "admin"), "admin", HEAP_TOPIC, RESPONSE_TOPIC) as bus:
            yield running, fleet, Rules(bus)
        running.kill()


def settings(fleet: FleetFolder, broker: LocalBroker, name: str) -> BrokerSettings:
    found = load_settings(fleet.device(name) / "settings.yaml").broker
    return found.model_copy(update={"port": broker.port})


@pytest.mark.usefixtures("known_mosquitto")
async def test_with_the_plug_in_each_of_its_responses_is_taken_off_the_count(tmp_path: Path) -> None:
    async with secured(tmp_path) as (_, _, rules):
        before = await rules.heap_now()
        response = await rules.read_rules()
        # An unsigned count: under zero it is as large as can be.
        lost = (before - await rules.heap_now()) % 2**64
        assert 0.9 * response < lost < 1.1 * response + 10_000


@pytest.mark.usefixtures("known_mosquitto")
async def test_so_with_a_limit_reading_the_rules_locks_everybody_out(tmp_path: Path) -> None:
    async with secured(tmp_path, memory_limit="67108864") as (running, fleet, rules):
        with pytest.raises((ConnectionLostError, TimeoutError)):
            await rules.read_for_ever()
        assert not await gets_in(settings(fleet, running, "north"), "north")
