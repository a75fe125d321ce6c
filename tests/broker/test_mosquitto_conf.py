"""The production configuration, really started: only its paths and port are changed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import broker_config
from broker_config.devices import Device, DeviceKind
from broker_config.dynamic_security import find_plugin
from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker, find_mosquitto
from broker_config.limits import LIMITS, MAX_PACKET_BYTES
from broker_config.secured import secured_listener
from latentbus.fleet.usage import resident_bytes
from pipeline.bus.base import Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import load_settings
from schemas.errors import NotAuthorizedError
from schemas.limits import MAX_BINARY_BYTES, MAX_JSON_BYTES
from schemas.topics import control_topic, open_topic, share_filter, status_topic
from tests.bus.support import FAST, WAIT_S, connected, connection_problem, take

pytestmark = pytest.mark.broker
FOLDER = Path(broker_config.__file__).parent
CONF = (FOLDER / "mosquitto.conf").read_text()
IMAGE_PLUGIN = Path("/usr/lib/mosquitto_dynamic_security.so")


def options() -> dict[str, str]:
    lines = [line for line in CONF.splitlines() if line and not line.startswith("#")]
    return dict(line.split(maxsplit=1) for line in lines)


class Production:
    """A Mosquitto with the committed file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.fleet = FleetFolder.create(folder / "operator", ["127.0.0.1"], port=self.port)
        self.fleet.add(Device(name="yard", kind=DeviceKind.EDGE, pool="main", cameras=("gate",)))
        self.fleet.add(Device(name="w-1", kind=DeviceKind.WORKER, pool="main"))
        (folder / "data").mkdir()
        text = CONF.replace("/mosquitto/fleet", str(self.fleet.broker)).replace("/mosquitto/", f"{folder}/")
        text = text.replace(str(IMAGE_PLUGIN), str(find_plugin(find_mosquitto())))
        text = text.replace("listener 8883", f"listener {self.port} 127.0.0.1")
        if os.geteuid() == 0:
            text += "user root\n"
        (folder / "mosquitto.conf").write_text(text)
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [find_mosquitto(), "-c", str(folder / "mosquitto.conf")], stderr=self.log, stdin=subprocess.DEVNULL
        )

    def wait_ready(self) -> None:
        until = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.01)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def device(self, name: str) -> BrokerSettings:
        return load_settings(self.fleet.device(name) / "settings.yaml").broker


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    running = Production(tmp_path_factory.mktemp("production"))
    try:
        running.wait_ready()
        yield running
    finally:
        running.close()


async def test_devices_work_with_the_files_that_they_were_handed(production: Production) -> None:
    async with (
        connected(production.device("w-1"), "w-1", share_filter("main")) as worker,
        connected(production.device("yard"), "yard", control_topic("gate")) as edge,
    ):
        await edge.publish(open_topic("main", "gate"), b"frame", qos=1)
        assert [m.payload for m in await take(worker, 1)] == [b"frame"]
        await worker.publish(control_topic("gate"), b"accept", qos=1)
        assert [m.payload for m in await take(edge, 1)] == [b"accept"]
        for bus, topic in [
            (edge, open_topic("main", "other-camera")),
            (edge, control_topic("gate")),
            (worker, open_topic("main", "gate")),
            (worker, status_topic("worker", "w-2")),
        ]:
            with pytest.raises(NotAuthorizedError):
                await bus.publish(topic, b"", qos=1)


async def test_without_a_certificate_nobody_gets_in(production: Production) -> None:
    tls = production.device("yard").tls
    assert tls is not None
    for settings in (
        BrokerSettings(port=production.port),
        BrokerSettings(port=production.port, tls=tls.model_copy(update={"cert_file": None, "key_file": None})),
    ):
        async with MqttBus(settings, client_id="a", backoff=FAST, connect_timeout_s=2.0) as bus:
            assert await connection_problem(bus)


def test_there_is_one_listener_and_it_is_the_one_that_the_security_tests_try() -> None:
    assert len(re.findall(r"^listener ", CONF, flags=re.MULTILINE)) == 1
    assert options()["allow_anonymous"] == "false"
    for line in secured_listener(Path("/mosquitto/fleet"), IMAGE_PLUGIN):
        assert f"\n{line}\n" in CONF
    assert not options().keys() & {"acl_file", "password_file", "bridge", "connection"}


def test_limits_are_those_of_private_brokers() -> None:
    committed = options()
    assert {option: committed.get(option) for option in LIMITS} == LIMITS


def test_no_memory_limit_stands_beside_the_plug_in() -> None:
    # See test_memory_limit.py.
    assert "plugin" in options()
    assert "memory_limit" not in options()


def test_every_limit_is_above_what_the_wire_schema_needs() -> None:
    assert 1.3 * MAX_BINARY_BYTES <= MAX_PACKET_BYTES
    # What a client may send is half of it at most: a mistake meets a typed error before a closed connection.
    assert 2 * MAX_JSON_BYTES <= MAX_PACKET_BYTES


def test_what_waits_for_one_client_is_bounded_whatever_stands_in_its_properties() -> None:
    waiting = int(LIMITS["max_queued_messages"]) + int(LIMITS["max_inflight_messages"])
    assert waiting * MAX_PACKET_BYTES < 140_000_000


async def test_properties_that_wait_are_bounded_by_the_number_of_messages_alone() -> None:
    waiting, ballast = 300, [("x", "y" * (MAX_PACKET_BYTES - 1_000))]
    async with LocalBroker(options={"max_queued_messages": str(waiting), "max_queued_bytes": "10000"}) as broker:
        settings = BrokerSettings(port=broker.port)
        silent = MqttBus(settings, client_id="silent", subscriptions=[Subscription("t", qos=1)], receive_maximum=1)
        async with silent, MqttBus(settings, client_id="sender") as sender:
            await silent.wait_connected(WAIT_S)
            await sender.wait_connected(WAIT_S)
            before = resident_bytes(broker.pid)
            for _ in range(3 * waiting):
                await sender.publish("t", b"", qos=1, user_properties=ballast)
            grown = resident_bytes(broker.pid) - before
        broker.kill()
    # Far over the bound in bytes, which counts payloads; and not much over the one in messages.
    assert 0.5 * waiting * MAX_PACKET_BYTES < grown < 1.5 * (waiting + 256) * MAX_PACKET_BYTES
