"""The production configuration, really started: only its paths and ports are changed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

import broker_config
from broker_config.launcher import find_mosquitto
from broker_config.limits import LIMITS, MAX_PACKET_BYTES
from pipeline.bus.mqtt import MqttBus
from pipeline.settings import BrokerSettings, TlsSettings
from schemas.errors import NotAuthorizedError
from schemas.limits import MAX_BINARY_BYTES, MAX_JSON_BYTES
from schemas.topics import control_topic, open_topic, status_topic
from tests.bus.broker_files import PASSWORD, certificates, password_file
from tests.bus.support import FAST, WAIT_S, connected, connection_problem, take

pytestmark = pytest.mark.broker
FOLDER = Path(broker_config.__file__).parent
CONF = (FOLDER / "mosquitto.conf").read_text()


def options() -> dict[str, str]:
    lines = [line for line in CONF.splitlines() if line and not line.startswith("#")]
    return dict(line.split(maxsplit=1) for line in lines)


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Production:
    """A Mosquitto with the committed file; ``fleet`` and ``local`` are its two ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet, self.local = free_ports(2)
        certificates(folder / "certs", "server", "yard", "w-1", "stranger")
        (folder / "config").mkdir()
        (folder / "data").mkdir()
        password_file(folder / "config" / "passwords", "operator")
        (folder / "config" / "acl").write_text((FOLDER / "acl").read_text())
        text = CONF.replace("/mosquitto/", f"{folder}/")
        text = text.replace("listener 8883", f"listener {self.fleet} 127.0.0.1")
        text = text.replace("listener 1883 ", f"listener {self.local} ")
        if os.geteuid() == 0:
            text += "user root\n"
        (folder / "mosquitto.conf").write_text(text)
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [find_mosquitto(), "-c", str(folder / "mosquitto.conf")], stderr=self.log, stdin=subprocess.DEVNULL
        )

    def wait_ready(self) -> None:
        until = time.monotonic() + 10
        for port in (self.fleet, self.local):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.01)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def device(self, name: str | None) -> BrokerSettings:
        certs = self.folder / "certs"
        pair = (None, None) if name is None else (certs / f"{name}.crt", certs / f"{name}.key")
        tls = TlsSettings(ca_file=certs / "ca.crt", cert_file=pair[0], key_file=pair[1])
        return BrokerSettings(port=self.fleet, tls=tls)


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    running = Production(tmp_path_factory.mktemp("production"))
    try:
        running.wait_ready()
        yield running
    finally:
        running.close()


async def test_a_device_is_known_by_its_certificate_and_bound_to_its_topics(production: Production) -> None:
    async with (
        connected(production.device("w-1"), "w-1", open_topic("main", "gate")) as worker,
        connected(production.device("yard"), "yard", control_topic("gate")) as edge,
    ):
        await edge.publish(open_topic("main", "gate"), b"frame", qos=1)
        assert [m.payload for m in await take(worker, 1)] == [b"frame"]
        await worker.publish(control_topic("gate"), b"accept", qos=1)
        assert [m.payload for m in await take(edge, 1)] == [b"accept"]
        for bus, topic in [
            (edge, open_topic("main", "other-camera")),
            (edge, control_topic("gate")),
            (edge, status_topic("worker", "w-1")),
            (worker, open_topic("main", "gate")),
            (worker, status_topic("worker", "w-2")),
        ]:
            with pytest.raises(NotAuthorizedError):
                await bus.publish(topic, b"", qos=1)


async def test_a_certificate_alone_gives_no_topics(production: Production) -> None:
    async with connected(production.device("stranger"), "stranger") as bus:
        with pytest.raises(NotAuthorizedError):
            await bus.publish(open_topic("main", "gate"), b"", qos=1)


async def test_without_a_certificate_nobody_gets_in(production: Production) -> None:
    async with MqttBus(production.device(None), client_id="a", backoff=FAST) as bus:
        assert await connection_problem(bus)


async def test_the_local_listener_wants_a_password(production: Production) -> None:
    async with MqttBus(BrokerSettings(port=production.local), client_id="a", backoff=FAST) as bus:
        with pytest.raises(NotAuthorizedError):
            await bus.wait_connected(WAIT_S)
    operator = BrokerSettings(port=production.local, username="operator", password=SecretStr(PASSWORD))
    async with connected(operator, "a", "lb/v1/#") as bus:
        await bus.publish("lb/v1/question/people", b"", qos=1)
        await take(bus, 1)


def test_no_listener_lets_strangers_in_and_each_has_its_own_rules() -> None:
    assert options()["per_listener_settings"] == "true"
    assert CONF.index("per_listener_settings true") < CONF.index("\nlistener ")
    listeners = re.split(r"^listener ", CONF, flags=re.MULTILINE)[1:]
    assert len(listeners) == 2
    for listener in listeners:
        assert "allow_anonymous false" in listener


def test_limits_are_those_of_private_brokers() -> None:
    committed = options()
    assert {option: committed.get(option) for option in LIMITS} == LIMITS


def test_every_limit_is_above_what_the_wire_schema_needs() -> None:
    assert 5 * max(MAX_BINARY_BYTES, MAX_JSON_BYTES) <= MAX_PACKET_BYTES
