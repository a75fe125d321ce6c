"""Mosquitto's dynamic-security plug-in: its file, and the requests that bring a running broker to the same state.

Mosquitto before 2.1 knows no ``%u`` in these rules, so each device has a role of its own, named like it. An access file
(``acl_file``) knows ``%u`` but cannot protect a share group: it lets anybody join.

Source: https://mosquitto.org/documentation/dynamic-security/.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from broker_config.access import rights_of
from broker_config.devices import Device, fleet_cameras
from schemas.errors import BrokerStartError

PLUGIN: Final = "mosquitto_dynamic_security.so"
PLUGIN_ENVIRONMENT_VARIABLE: Final = "LATENTBUS_DYNAMIC_SECURITY"
"""Path of the plug-in, when it is in none of the usual folders."""
_FOLDERS = ("lib", "lib64", "lib/*", "lib/mosquitto", "lib64/mosquitto")
_PREFIXES = ("/usr", "/usr/local", "/opt/homebrew", "/opt/homebrew/opt/mosquitto", "/opt/local")

REQUEST_TOPIC: Final = "$CONTROL/dynamic-security/v1"
RESPONSE_TOPIC: Final = "$CONTROL/dynamic-security/v1/response"
PAGE_SIZE: Final = 8
"""Roles or clients listed in one response. The role of an edge with 128 cameras is some 100 kB of JSON; most have a
hundredth of that."""
REQUEST_BYTES: Final = 16_384
"""Commands in one request, far under the broker's limit of a packet."""
ROLE_RIGHTS: Final = 120
"""Rights that one command gives; an edge with many cameras gets the rest of its role in further commands."""

DEFAULT_ACCESS: Final = {
    "publishClientSend": False,
    "publishClientReceive": False,
    "subscribe": False,
    "unsubscribe": True,
}

Command = dict[str, Any]


def find_plugin(binary: Path | None = None) -> Path:
    """The plug-in of the installed Mosquitto.

    Args:
        binary: the broker; a plug-in beside it (``PREFIX/sbin/mosquitto`` and ``PREFIX/lib``) goes first.

    Raises:
        BrokerStartError: there is none.
    """
    if named := os.environ.get(PLUGIN_ENVIRONMENT_VARIABLE):
        if not Path(named).is_file():
            raise BrokerStartError(f"{PLUGIN_ENVIRONMENT_VARIABLE}={named} is no file")
        return Path(named)
    prefixes = [] if binary is None else [binary.resolve().parent.parent]
    for prefix in [*prefixes, *map(Path, _PREFIXES)]:
        for folder in _FOLDERS:
            if found := next(prefix.glob(f"{folder}/{PLUGIN}"), None):
                return found
    raise BrokerStartError(
        f"{PLUGIN} is not installed; it comes with Mosquitto 2.0 and later. "
        f"Set {PLUGIN_ENVIRONMENT_VARIABLE} to its path if it is in an unusual place"
    )


@dataclass(frozen=True, slots=True)
class Rules:
    """Clients and roles of the plug-in.

    Attributes:
        roles: rights by role name, each as ``(acltype, topic)``.
        clients: role names by client.
        default_access: what is allowed to everybody.
    """

    roles: Mapping[str, frozenset[tuple[str, str]]] = field(default_factory=dict)
    clients: Mapping[str, frozenset[str]] = field(default_factory=dict)
    default_access: Mapping[str, bool] = field(default_factory=lambda: dict(DEFAULT_ACCESS))

    @classmethod
    def of(cls, devices: Iterable[Device]) -> Rules:
        """The rules for these devices: one role and one client each, all else denied."""
        members = list(devices)
        cameras = fleet_cameras(members)
        rights = {device.name: rights_of(device, cameras) for device in members}
        return cls(
            {name: frozenset((right.access, right.topic) for right in given) for name, given in rights.items()},
            {device.name: frozenset({device.name}) for device in members},
        )

    def document(self) -> str:
        """The plug-in's configuration file.

        No client has a password: nobody gets in but by a certificate.
        """
        content = {
            "defaultACLAccess": dict(self.default_access),
            "clients": [_client(name, roles) for name, roles in sorted(self.clients.items())],
            "groups": [],
            "roles": [_role(name, rights) for name, rights in sorted(self.roles.items())],
        }
        return json.dumps(content, indent=1) + "\n"

    def commands_from(self, present: Rules) -> list[Command]:
        """Requests that turn the rules of a running broker into these, and nothing where they agree already.

        Rights are taken away before any are given. A client whose role changes is disconnected and comes back by
        itself: otherwise it would keep subscriptions that it may not make any more, such as a seat in a share group,
        whose messages would then be dealt to it and vanish.

        Args:
            present: what the broker has.
        """
        commands: list[Command] = [
            *(
                {"command": "deleteClient", "username": name}
                for name in sorted(set(present.clients) - set(self.clients))
            ),
            *({"command": "deleteRole", "rolename": name} for name in sorted(set(present.roles) - set(self.roles))),
        ]
        if dict(present.default_access) != dict(self.default_access):
            defaults = [{"acltype": name, "allow": allow} for name, allow in self.default_access.items()]
            commands.append({"command": "setDefaultACLAccess", "acls": defaults})
        for name, rights in sorted(self.roles.items()):
            if present.roles.get(name) != rights:
                commands += _role_commands("modifyRole" if name in present.roles else "createRole", name, rights)
                # Mosquitto does so by itself for a client that is changed, but not for a role.
                commands += _disconnect(
                    client for client in sorted(self.clients) if name in present.clients.get(client, ())
                )
        for name, roles in sorted(self.clients.items()):
            if name not in present.clients:
                commands.append({"command": "createClient", **_client(name, roles)})
            elif present.clients[name] != roles:
                commands.append({"command": "modifyClient", **_client(name, roles)})
        return commands


def requests(commands: Iterable[Command]) -> list[bytes]:
    """The commands as payloads for :data:`REQUEST_TOPIC`, in order, none much larger than it must be."""
    payloads: list[bytes] = []
    page: list[Command] = []
    size_bytes = 0
    for command in commands:
        command_bytes = len(json.dumps(command))
        if page and size_bytes + command_bytes > REQUEST_BYTES:
            payloads.append(_request(page))
            page, size_bytes = [], 0
        page.append(command)
        size_bytes += command_bytes
    return [*payloads, _request(page)] if page else payloads


def list_request(what: str, offset: int) -> bytes:
    """A request for one page of the clients or roles.

    Args:
        what: ``listClients`` or ``listRoles``.
        offset: entries before the page.
    """
    return _request([{"command": what, "verbose": True, "count": PAGE_SIZE, "offset": offset}])


def rights_in(role: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """The rights of a role as the plug-in lists it; a denial counts as a right of its own, so that it is noticed."""
    return frozenset(
        (acl["acltype"] if acl["allow"] else f"deny {acl['acltype']}", acl["topic"]) for acl in role.get("acls", [])
    )


def _request(commands: list[Command]) -> bytes:
    return json.dumps({"commands": commands}, separators=(",", ":")).encode()


def _role_commands(command: str, name: str, rights: Iterable[tuple[str, str]]) -> list[Command]:
    ordered = sorted(rights)
    first = {"command": command, **_role(name, ordered[:ROLE_RIGHTS])}
    return [first, *({"command": "addRoleACL", "rolename": name, **_acl(*right)} for right in ordered[ROLE_RIGHTS:])]


def _disconnect(clients: Iterable[str]) -> list[Command]:
    return [{"command": word, "username": client} for client in clients for word in ("disableClient", "enableClient")]


def _role(name: str, rights: Iterable[tuple[str, str]]) -> Command:
    return {"rolename": name, "acls": [_acl(*right) for right in sorted(rights)]}


def _acl(kind: str, topic: str) -> Command:
    return {"acltype": kind, "topic": topic, "priority": 0, "allow": True}


def _client(name: str, roles: Iterable[str]) -> Command:
    return {"username": name, "roles": [{"rolename": role, "priority": -1} for role in sorted(roles)]}
