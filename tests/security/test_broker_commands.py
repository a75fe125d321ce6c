"""``latentbus broker`` as an operator uses it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker_config.fleet_folder import FleetFolder
from broker_config.secured import secured_broker
from latentbus.cli import app
from latentbus.client.ask import Asking
from schemas.errors import ConfigError, NotAuthorizedError
from schemas.types import AnswerType
from tests.security.probe import Probe, granted

runner = CliRunner()
SITE = """
edge:
  site: north
  pool: dock
  cameras:
    gate: {source: "test:1", questions: [car]}
    yard: {source: "test:2"}
  questions: {car: {text: "a car?"}}
"""


def broker(*arguments: object, status: int = 0) -> str:
    result = runner.invoke(app, ["broker", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def made(tmp_path: Path) -> Path:
    broker("certs", tmp_path / "fleet", "--host", "127.0.0.1")
    return tmp_path / "fleet"


@pytest.mark.parametrize(
    "command",
    ["run", "certs", "add-device", "renew-device", "revoke-device", "renew-broker", "devices", "apply", "retained"],
)
def test_every_command_explains_itself(command: str) -> None:
    assert f"latentbus broker {command}" in " ".join(broker(command, "--help").split())


def test_a_site_is_taken_in_from_its_settings(made: Path, tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text(SITE)
    broker("add-device", made, "north", "--config", config)
    device = FleetFolder(made).register.devices["north"]
    assert (device.kind, device.pool, device.cameras) == ("edge", "dock", ("gate", "yard"))
    with pytest.raises(ConfigError, match="the site is north"):
        broker("add-device", made, "south", "--config", config)


def test_a_broker_on_another_port_than_its_fleet_says_so(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(port: int | None, stop: object, *, fleet: Path | None = None) -> int:
        return 0

    monkeypatch.setattr("latentbus.broker.local.serve_broker", serve)
    warning = "the settings of this fleet's devices name port 8883"
    assert f"{warning}, the broker listens on 1884" in broker("run", "--fleet", made, "--port", 1884)
    assert f"{warning}, the broker listens on a free one" in broker("run", "--fleet", made)
    assert warning not in broker("run", "--fleet", made, "--port", 8883)


def test_devices_and_their_rights_are_listed(made: Path) -> None:
    broker("add-device", made, "w-1", "--kind", "worker")
    broker("add-device", made, "alice", "--kind", "client", "--camera", "gate", "--days", 400)
    listed = broker("devices", made)
    assert re.search(r"^device +kind +expires in  pool and cameras$", listed, re.MULTILINE)
    assert re.search(r"^alice +client +(399|400) days +gate$", listed, re.MULTILINE)
    assert re.search(r"^w-1 +worker +(396|397) days +main$", listed, re.MULTILINE)
    rights = broker("devices", made, "--rights")
    assert "$share/main/lb/v2/open/main/+" in rights
    assert "lb/v2/reply/alice/gate/+" in rights


def test_a_certificate_that_runs_out_soon_is_an_exit_status(made: Path) -> None:
    broker("add-device", made, "alice", "--kind", "client", "--days", 20)
    assert re.search(r"alice +client +(19|20) days", broker("devices", made, status=1))
    broker("renew-device", made, "alice")
    broker("devices", made)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("add-device", "x"), "--kind"),
        (("add-device", "X", "--kind", "client"), "name"),
        (("add-device", "x", "--kind", "edge"), "camera"),
        (("add-device", "admin", "--kind", "client"), "in the fleet already"),
        (("renew-device", "x"), "not in this fleet"),
        (("revoke-device", "admin"), "renew it instead"),
    ],
)
def test_a_mistake_is_named(made: Path, arguments: tuple[str, ...], problem: str) -> None:
    command, *rest = arguments
    with pytest.raises(ConfigError, match=problem):
        broker(command, made, *rest)


def test_a_camera_and_a_name_have_one_owner(made: Path) -> None:
    edge = ("--kind", "edge", "--camera", "gate")
    broker("add-device", made, "north", *edge)
    with pytest.raises(ConfigError, match="camera gate belongs to site north already"):
        broker("add-device", made, "south", *edge)
    with pytest.raises(ConfigError, match="north: is in the fleet already, as edge with cameras gate"):
        broker("add-device", made, "north", "--kind", "client")
    assert set(FleetFolder(made).register.devices) == {"admin", "north"}


def test_a_register_of_version_1_is_set_aside_with_a_word(made: Path) -> None:
    path = made / "register.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    said = broker("devices", made)
    assert "register.json was of version 1: kept as register.v1.json" in said
    assert "latentbus broker apply" in said
    assert "version 1" not in broker("devices", made)


@pytest.mark.parametrize(("username", "name"), [("alice", "alice"), ("Alice Doe", None), ("a/b", None), (None, None)])
def test_replies_come_below_the_identity_where_it_can_be_a_topic(username: str | None, name: str | None) -> None:
    asking = Asking.create("gate", "a car?", AnswerType.YES_NO, deadline_s=1, client=username)
    assert asking.client == name or (name is None and re.fullmatch(r"ask-[0-9a-f]{8}", asking.client))


@pytest.mark.broker
def test_the_whole_recipe(made: Path) -> None:
    with secured_broker(made / "broker") as running:
        broker("add-device", made, "w-1", "--kind", "worker")
        dry = broker("apply", made, "--port", running.port, "--dry-run")
        assert dry.splitlines() == ["would send createRole w-1", "would send createClient w-1"]
        assert "createClient w-1" in broker("apply", made, "--port", running.port)
        assert "agree" in broker("apply", made, "--port", running.port)
        said = broker("revoke-device", made, "w-1")
        assert "certificates revoked: 1" in said
        assert broker("apply", made, "--port", running.port).split("\n")[0] == "deleteClient w-1"
        broker("add-device", made, "w-1", "--kind", "worker", "--pool", "dock")
        broker("renew-device", made, "w-1", "--revoke-older")
        broker("add-device", made, "w-1", "--kind", "worker", "--pool", "quay", "--update")
        assert FleetFolder(made).register.devices["w-1"].pool == "quay"
        running.kill()


@pytest.mark.broker
def test_the_admin_of_a_fleet_clears_what_a_dead_site_left_and_nobody_else_can(made: Path) -> None:
    broker("add-device", made, "north", "--kind", "edge", "--camera", "gate")
    broker("add-device", made, "olga", "--kind", "operator")
    left = {"lb/v2/question/north/car", "lb/v2/status/edge/north", "lb/v2/key/main/gate"}
    with secured_broker(made / "broker") as running:
        with Probe(running.port, made / "devices" / "north") as edge:
            assert granted(edge.publish(left, retain=True)) == left
        at = ("--port", running.port)
        listed = broker("retained", "--fleet", made, *at, "--json")
        assert {entry["topic"] for entry in json.loads(listed)} == left
        settings = made / "devices" / "olga" / "settings.yaml"
        with pytest.raises(NotAuthorizedError):
            broker("retained", "--config", settings, *at)
        assert "removed 3 of 3" in broker("retained", "--fleet", made, *at, "--remove", "--yes")
        assert json.loads(broker("retained", "--fleet", made, *at, "--json")) == []
        running.kill()


def test_a_camera_that_no_edge_has_is_pointed_out(made: Path) -> None:
    broker("add-device", made, "north", "--kind", "edge", "--camera", "gate")
    said = broker("add-device", made, "alice", "--kind", "client", "--camera", "gate", "--camera", "gaet")
    assert "no edge has camera gaet yet; cameras of this fleet: gate" in said
    assert "no edge" not in broker("add-device", made, "bob", "--kind", "client", "--camera", "gate")
