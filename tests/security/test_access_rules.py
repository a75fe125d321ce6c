"""The rules as they are worked out from the table of topics, and the requests that bring a broker to them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from broker_config.access import Access, Right, rights_of
from broker_config.devices import Device, DeviceKind
from broker_config.dynamic_security import (
    PLUGIN,
    PLUGIN_ENVIRONMENT_VARIABLE,
    ROLE_RIGHTS,
    Command,
    Rules,
    find_plugin,
    requests,
)
from broker_config.limits import MAX_PACKET_BYTES
from schemas.errors import BrokerStartError, StateError
from schemas.topics import ROUTES, Family, Role

EDGE = Device(name="north", kind=DeviceKind.EDGE, pool="main", cameras=("gate",))
WORKER = Device(name="w1", kind=DeviceKind.WORKER, pool="main")
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True)


def test_a_new_topic_family_needs_no_care(monkeypatch: pytest.MonkeyPatch) -> None:
    new = replace(
        ROUTES[Family.LOAD], levels=("worker", "camera"), senders=(Role.EDGE,), receivers=(Role.WORKER, Role.CLIENT)
    )
    monkeypatch.setitem(ROUTES, Family.LOAD, new)
    assert Right(Access.PUBLISH, "lb/v2/load/+/gate") in rights_of(EDGE)
    assert Right(Access.SUBSCRIBE, "lb/v2/load/w1/+") in rights_of(WORKER)
    assert not [right for right in rights_of(WORKER) if right.access is Access.PUBLISH and "/load/" in right.topic]


def test_a_new_topic_level_must_be_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUTES, Family.LOAD, replace(ROUTES[Family.LOAD], levels=("planet",)))
    with pytest.raises(StateError, match="planet"):
        rights_of(WORKER)


@given(st.lists(names, min_size=2, max_size=6, unique=True))
def test_two_sites_share_no_topic_of_a_camera(cameras: list[str]) -> None:
    half = len(cameras) // 2
    sites = [
        Device(name=name, kind=DeviceKind.EDGE, pool="main", cameras=tuple(own))
        for name, own in (("a", cameras[:half]), ("b", cameras[half:]))
    ]
    one, other = ({right for right in rights_of(site) if right.topic != "lb/v2/status/worker/+"} for site in sites)
    assert not one & other


@given(names, names)
def test_a_client_asks_and_is_answered_below_its_own_name_alone(name: str, other: str) -> None:
    for kind in (DeviceKind.CLIENT, DeviceKind.GATEWAY, DeviceKind.OPERATOR):
        devices = [EDGE, Device(name=name, kind=kind)]
        assert asks(devices, name) == {f"lb/v2/ask/gate/{name}"}
        reads = {topic for access, topic in Rules.of(devices).roles[name] if access != Access.PUBLISH}
        assert {topic for topic in reads if "/ask/" in topic or "/reply/" in topic} == {f"lb/v2/reply/{name}/+/+"}
    assert f"lb/v2/question/{name}/+" in {right.topic for right in rights_of(EDGE.model_copy(update={"name": name}))}
    if other != "north":
        assert not [right for right in rights_of(EDGE) if right.topic.startswith(f"lb/v2/question/{other}/")]


def test_an_operator_sets_the_questions_of_every_site_and_no_other_client_any() -> None:
    for kind in DeviceKind:
        if kind in {DeviceKind.EDGE, DeviceKind.WORKER, DeviceKind.ADMIN}:
            continue
        rights = rights_of(Device(name="x", kind=kind), ["gate"])
        sets = {right.topic for right in rights if right.access is Access.PUBLISH and "/question/" in right.topic}
        assert sets == ({"lb/v2/question/+/+"} if kind is DeviceKind.OPERATOR else set()), kind
        says = {right.topic for right in rights if right.access is Access.PUBLISH and "/config/" in right.topic}
        assert says == ({"lb/v2/config/+"} if kind is DeviceKind.OPERATOR else set()), kind


def asks(devices: list[Device], name: str) -> set[str]:
    rights = Rules.of(devices).roles[name]
    return {topic for access, topic in rights if access == Access.PUBLISH and "/ask/" in topic}


@pytest.mark.parametrize("kind", [DeviceKind.CLIENT, DeviceKind.GATEWAY, DeviceKind.OPERATOR])
def test_nobody_can_invent_a_camera_to_ask(kind: DeviceKind) -> None:
    asker = Device(name="x", kind=kind)
    assert asks([asker, WORKER], "x") == set()
    first = asks([asker, EDGE, WORKER], "x")
    assert len(first) == 1
    assert not [topic for topic in first if "+" in topic.split("/")[3] or "gate" not in topic.split("/")]
    yard = Device(name="south", kind=DeviceKind.EDGE, pool="main", cameras=("yard", "dock"))
    assert len(asks([asker, EDGE, yard], "x")) == 3, "an edge that is added can be asked"


def test_a_client_is_held_to_its_cameras_and_to_those_that_exist() -> None:
    guard = Device(name="x", kind=DeviceKind.CLIENT, cameras=("gate", "nowhere"))
    assert asks([guard, EDGE], "x") == asks([Device(name="x", kind=DeviceKind.CLIENT), EDGE], "x")


@given(st.sampled_from([EDGE, WORKER]), st.sampled_from(list(DeviceKind)))
def test_only_the_admin_touches_the_rules_and_only_workers_sit_in_the_share_group(
    device: Device, kind: DeviceKind
) -> None:
    subject = device if kind in {DeviceKind.EDGE, DeviceKind.WORKER} else Device(name="x", kind=kind)
    rights = rights_of(subject)
    assert any(right.topic.startswith("$CONTROL") for right in rights) == (subject.kind is DeviceKind.ADMIN)
    assert any(right.topic.startswith("$share") for right in rights) == (subject.kind is DeviceKind.WORKER)
    assert not any(right.topic.startswith(("#", "+")) for right in rights)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kind": "edge", "pool": "main"}, "without a camera"),
        ({"kind": "edge", "cameras": ["gate"]}, "pool"),
        ({"kind": "edge", "pool": "main", "cameras": ["gate", "gate"]}, "named twice: camera gate"),
        ({"kind": "client", "pool": "main"}, "pool"),
        ({"kind": "worker", "pool": "main", "cameras": ["gate"]}, "only an edge has cameras"),
        ({"kind": "edge", "pool": "main", "cameras": ["gate"], "questions": ["car"]}, "Extra inputs"),
        ({"kind": "client", "cameras": ["+"]}, "pattern"),
        ({"kind": "client", "name": "a/b"}, "pattern"),
        ({"kind": "client", "name": "#"}, "pattern"),
    ],
)
def test_a_device_that_makes_no_sense_is_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Device.model_validate({"name": "x", **fields})


def test_the_document_denies_what_it_does_not_grant() -> None:
    document = json.loads(Rules.of([EDGE, WORKER]).document())
    assert document["defaultACLAccess"] == {
        "publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": True,
    }  # fmt: skip
    assert all(acl["allow"] for role in document["roles"] for acl in role["acls"])
    assert not [client for client in document["clients"] if "password" in client]


def apply(commands: list[Command], rules: Rules) -> Rules:
    """What the plug-in makes of commands."""
    roles, clients = dict(rules.roles), dict(rules.clients)
    for command in commands:
        rights = frozenset((acl["acltype"], acl["topic"]) for acl in command.get("acls", ()))
        members = frozenset(role["rolename"] for role in command.get("roles", ()))
        match command["command"]:
            case "createRole" | "modifyRole" as change:
                assert (command["rolename"] in roles) == (change == "modifyRole")
                roles[command["rolename"]] = rights
            case "addRoleACL":
                roles[command["rolename"]] |= {(command["acltype"], command["topic"])}
            case "deleteRole":
                del roles[command["rolename"]]
            case "createClient" | "modifyClient" as change:
                assert (command["username"] in clients) == (change == "modifyClient")
                clients[command["username"]] = members
            case "deleteClient":
                del clients[command["username"]]
            case "disableClient" | "enableClient":
                assert command["username"] in clients
            case unknown:
                raise AssertionError(unknown)
    return Rules(roles, clients)


@st.composite
def fleets(draw: st.DrawFn) -> list[Device]:
    found = []
    for name in draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True)):
        kind = draw(st.sampled_from([DeviceKind.EDGE, DeviceKind.WORKER, DeviceKind.DASHBOARD]))
        count = draw(st.sampled_from([1, 2, 128])) if kind is DeviceKind.EDGE else 0
        found.append(
            Device(
                name=name,
                kind=kind,
                pool=None if kind is DeviceKind.DASHBOARD else draw(st.sampled_from(["main", "other"])),
                cameras=tuple(f"{name}-{number}" for number in range(count)),
            )
        )
    return found


@given(fleets(), fleets())
def test_the_commands_lead_from_any_rules_to_any_others(before: list[Device], after: list[Device]) -> None:
    present, wanted = Rules.of(before), Rules.of(after)
    commands = wanted.commands_from(present)
    assert apply(commands, present) == wanted
    assert wanted.commands_from(wanted) == []
    disabled = [command["username"] for command in commands if command["command"] == "disableClient"]
    assert disabled == [command["username"] for command in commands if command["command"] == "enableClient"]
    changed = {name for name, rights in wanted.roles.items() if present.roles.get(name, rights) != rights}
    assert set(disabled) == changed
    kinds = [command["command"].startswith("delete") for command in commands]
    assert kinds == sorted(kinds, reverse=True), "rights are taken before any are given"


def test_the_largest_site_fits_the_broker_s_packets() -> None:
    cameras = tuple(f"{number:032d}" for number in range(128))
    site = Device(name="x" * 32, kind=DeviceKind.EDGE, pool="p" * 32, cameras=cameras)
    commands = Rules.of([site]).commands_from(Rules())
    payloads = requests(commands)
    assert len(rights_of(site)) > ROLE_RIGHTS
    assert max(map(len, payloads)) < MAX_PACKET_BYTES
    assert [command for payload in payloads for command in json.loads(payload)["commands"]] == commands


def test_the_plug_in_is_found_beside_the_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PLUGIN_ENVIRONMENT_VARIABLE, raising=False)
    binary = tmp_path / "sbin" / "mosquitto"
    plugin = tmp_path / "lib" / "riscv64-linux-gnu" / PLUGIN
    for path in (binary, plugin):
        path.parent.mkdir(parents=True)
        path.touch()
    assert find_plugin(binary) == plugin
    monkeypatch.setenv(PLUGIN_ENVIRONMENT_VARIABLE, str(binary))
    assert find_plugin() == binary
    monkeypatch.setenv(PLUGIN_ENVIRONMENT_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(BrokerStartError, match=PLUGIN_ENVIRONMENT_VARIABLE):
        find_plugin()
