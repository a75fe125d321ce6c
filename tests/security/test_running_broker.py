"""Changes of the fleet while its broker runs: new devices, revocation, renewed certificates."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from broker_config.devices import Device, DeviceKind
from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker
from broker_config.secured import secured_broker
from latentbus.broker.rules import RulesRefusedError, _Plugin, bring_in_line
from pipeline.bus.base import Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import load_settings
from schemas.errors import NotAuthorizedError
from tests.security.probe import NOT_AUTHORIZED, WAIT_S, Probe, granted
from tests.security.test_intruders import gets_in

pytestmark = pytest.mark.broker


@pytest.fixture
def running(fleet: FleetFolder) -> Iterator[LocalBroker]:
    with secured_broker(fleet.broker) as broker:
        yield broker
        broker.kill()


def settings_of(fleet: FleetFolder, broker: LocalBroker, name: str = "admin") -> BrokerSettings:
    return load_settings(fleet.device(name) / "settings.yaml").broker.model_copy(update={"port": broker.port})


def reload(broker: LocalBroker) -> None:
    """SIGHUP, and wait until the broker has read its files: it says so, and answers nobody before it has done it."""
    before = broker.log_path.read_text().count("Reloading config")
    os.kill(broker.pid, signal.SIGHUP)
    until_s = time.monotonic() + WAIT_S
    while broker.log_path.read_text().count("Reloading config") == before:
        assert time.monotonic() < until_s
        # Each connection wakes the broker's loop, which looks for signals once a turn.
        with socket.create_connection(("127.0.0.1", broker.port)):
            pass


async def test_the_file_and_the_running_broker_agree_at_first(fleet: FleetFolder, running: LocalBroker) -> None:
    assert await bring_in_line(settings_of(fleet, running), fleet.rules()) == []


async def test_a_device_is_taken_in_without_a_restart(fleet: FleetFolder, running: LocalBroker) -> None:
    cameras = tuple(f"camera-{number}" for number in range(128))
    fleet.add(Device(name="west", kind=DeviceKind.EDGE, pool="main", cameras=cameras))
    with Probe(running.port, fleet.device("west")) as early:
        assert early.publish(["lb/v2/open/main/camera-127"]) == {"lb/v2/open/main/camera-127": NOT_AUTHORIZED}
    planned = await bring_in_line(settings_of(fleet, running), fleet.rules(), dry_run=True)
    done = await bring_in_line(settings_of(fleet, running), fleet.rules())
    assert [command["command"] for command in done] == [command["command"] for command in planned]
    assert {command.get("rolename", command.get("username")) for command in done} == {
        "west", "alice", "olga", "web",
    }, "who may ask any camera may ask the new ones; nobody else is disconnected"  # fmt: skip
    with Probe(running.port, fleet.device("alice")) as alice:
        asks = [f"lb/v2/ask/{camera}/alice" for camera in (cameras[127], "invented")]
        assert granted(alice.publish(asks)) == {asks[0]}
    with Probe(running.port, fleet.device("west")) as edge:
        topics = {f"lb/v2/open/main/{camera}" for camera in (cameras[0], cameras[127])}
        assert granted(edge.publish([*topics, "lb/v2/open/main/gate"])) == topics
    # The broker has written its own file, and it says the same.
    running.restart()
    assert await bring_in_line(settings_of(fleet, running), fleet.rules()) == []
    with Probe(running.port, fleet.device("west")) as edge:
        assert granted(edge.publish(topics)) == topics


async def test_a_revoked_device_is_out_at_once_and_its_certificate_opens_nothing(
    fleet: FleetFolder, running: LocalBroker, tmp_path: Path
) -> None:
    stolen = tmp_path / "north"
    shutil.copytree(fleet.device("north"), stolen)
    with Probe(running.port, stolen) as thief:
        thief.subscribe(["lb/v2/control/gate"])
        fleet.remove("north")
        await bring_in_line(settings_of(fleet, running), fleet.rules())
        thief.wait(lambda: thief.disconnected)
    with Probe(running.port, stolen) as thief:
        assert set(thief.publish(["lb/v2/open/main/gate"]).values()) == {NOT_AUTHORIZED}
        assert set(thief.subscribe(["lb/v2/control/gate"]).values()) == {NOT_AUTHORIZED}
    # A new device of the same name must not lend its rights to the old certificate.
    fleet.add(Device(name="north", kind=DeviceKind.EDGE, pool="main", cameras=("gate",)))
    await bring_in_line(settings_of(fleet, running), fleet.rules())
    reload(running)
    assert not gets_in(running.port, stolen)
    with Probe(running.port, fleet.device("north")) as honest:
        assert granted(honest.publish(["lb/v2/open/main/gate"]))


def test_a_stolen_key_is_replaced_under_the_same_name(fleet: FleetFolder, running: LocalBroker, tmp_path: Path) -> None:
    stolen = tmp_path / "w1"
    shutil.copytree(fleet.device("w1"), stolen)
    with Probe(running.port, stolen) as thief:
        fleet.renew("w1")
        fleet.revoke_older("w1")
        reload(running)
        with Probe(running.port, fleet.device("w1")) as honest:
            thief.wait(lambda: thief.disconnected)  # a name has one connection
            assert granted(honest.publish(["lb/v2/status/worker/w1"]))
            assert not gets_in(running.port, stolen)
            assert not honest.disconnected


async def test_rights_that_were_taken_away_end_for_who_is_connected(fleet: FleetFolder, running: LocalBroker) -> None:
    with Probe(running.port, fleet.device("guard")) as guard:
        assert granted(guard.subscribe(["lb/v2/answer/gate"]))
        fleet.update(Device(name="guard", kind=DeviceKind.CLIENT, cameras=("yard",)))
        await bring_in_line(settings_of(fleet, running), fleet.rules())
        guard.wait(lambda: guard.disconnected)
    with Probe(running.port, fleet.device("guard")) as guard:
        assert granted(guard.subscribe(["lb/v2/answer/gate", "lb/v2/answer/yard"])) == {"lb/v2/answer/yard"}


async def test_what_others_changed_in_the_rules_is_put_right(fleet: FleetFolder, running: LocalBroker) -> None:
    settings = settings_of(fleet, running)
    async with MqttBus(
        settings, client_id="a", subscriptions=[Subscription("$CONTROL/dynamic-security/v1/response")]
    ) as bus:
        plugin = _Plugin(bus)
        await plugin.call(
            b'{"commands":[{"command":"createRole","rolename":"back-door",'
            b'"acls":[{"acltype":"subscribePattern","topic":"#","allow":true}]},'
            b'{"command":"addClientRole","username":"alice","rolename":"back-door"},'
            b'{"command":"setDefaultACLAccess","acls":[{"acltype":"publishClientSend","allow":true}]}]}'
        )
        with pytest.raises(RulesRefusedError, match=r"deleteRole.*not found"):
            await plugin.call(b'{"commands":[{"command":"deleteRole","rolename":"nobody"}]}')
    done = await bring_in_line(settings, fleet.rules())
    assert [command["command"] for command in done] == ["deleteRole", "setDefaultACLAccess", "modifyClient"]
    assert await bring_in_line(settings, fleet.rules()) == []
    with Probe(running.port, fleet.device("alice")) as alice:
        assert granted(alice.subscribe(["#"])) == granted(alice.publish(["lb/v2/answer/gate"])) == set()


async def test_only_the_admin_changes_the_rules(fleet: FleetFolder, running: LocalBroker) -> None:
    for name in ("olga", "web", "w1"):
        with pytest.raises(NotAuthorizedError):
            await bring_in_line(settings_of(fleet, running, name), fleet.rules())


def test_the_broker_takes_up_its_new_certificate(fleet: FleetFolder, running: LocalBroker) -> None:
    folder = fleet.device("w1")
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "device.crt", folder / "device.key")

    def presented() -> int:
        with (
            socket.create_connection(("127.0.0.1", running.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            der = secure.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number

    before = presented()
    fleet.renew_broker(["127.0.0.1", "broker.example"])
    reload(running)
    assert presented() != before
    assert fleet.register.hosts == ("127.0.0.1", "broker.example")
