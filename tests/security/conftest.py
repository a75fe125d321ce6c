"""A fleet with one device of each kind, and a secured broker for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_config.devices import Device, DeviceKind
from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker
from broker_config.secured import secured_broker

DEVICES = (
    Device(name="north", kind=DeviceKind.EDGE, pool="main", cameras=("gate",)),
    Device(name="south", kind=DeviceKind.EDGE, pool="main", cameras=("yard",)),
    Device(name="w1", kind=DeviceKind.WORKER, pool="main"),
    Device(name="w2", kind=DeviceKind.WORKER, pool="other"),
    Device(name="alice", kind=DeviceKind.CLIENT),
    Device(name="guard", kind=DeviceKind.CLIENT, cameras=("gate",)),
    Device(name="screen", kind=DeviceKind.DASHBOARD),
    Device(name="web", kind=DeviceKind.GATEWAY),
    Device(name="house", kind=DeviceKind.HOME_ASSISTANT),
    Device(name="olga", kind=DeviceKind.OPERATOR),
    Device(name="tape", kind=DeviceKind.RECORDER),
)


def make_fleet(path: Path) -> FleetFolder:
    fleet = FleetFolder.create(path, ["127.0.0.1", "localhost"])
    for device in DEVICES:
        fleet.add(device)
    return fleet


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """A fleet that a test may change."""
    return make_fleet(tmp_path / "fleet")


@pytest.fixture(scope="module")
def settled_fleet(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    """A fleet that no test changes."""
    return make_fleet(tmp_path_factory.mktemp("fleet") / "fleet")


@pytest.fixture(scope="module")
def secured(settled_fleet: FleetFolder) -> Iterator[LocalBroker]:
    """A running broker of :func:`settled_fleet`."""
    with secured_broker(settled_fleet.broker) as running:
        yield running
        running.kill()
