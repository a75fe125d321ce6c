"""Bringing the rules of a running broker in line with the register of the fleet."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from broker_config.dynamic_security import (
    REQUEST_TOPIC,
    RESPONSE_TOPIC,
    Command,
    Rules,
    list_request,
    requests,
    rights_in,
)
from pipeline.bus.base import ConnectionChange, QueueLimits, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import get_logger
from schemas.errors import BusError, ConnectionLostError

CONNECT_TIMEOUT_S: Final = 10.0
RESPONSE_TIMEOUT_S: Final = 10.0
ATTEMPTS: Final = 3
"""A change of the admin's own rights makes the broker hang up; what is left is sent again."""
_LIMITS: Final = QueueLimits(packet_bytes=2_000_000)
"""One page of roles is longer than any message of the fleet."""

_log = get_logger(__name__)


class RulesRefusedError(BusError):
    """The dynamic-security plug-in did not do what it was asked.

    Attributes:
        command: name of the command.
        problem: the plug-in's words.
    """

    def __init__(self, command: str, problem: str) -> None:
        super().__init__(f"the broker refused {command}: {problem}")
        self.command = command
        self.problem = problem


async def bring_in_line(broker: BrokerSettings, wanted: Rules, *, dry_run: bool = False) -> list[Command]:
    """Change a running broker's rules to those of the register. Devices that lose or change rights are disconnected.

    Args:
        broker: where it is, with the admin's certificate.
        wanted: rules of the register.
        dry_run: only find out what would change.

    Returns:
        What was changed, or would be; nothing when the rules agree already.

    Raises:
        ConnectionLostError: the broker cannot be reached, or does not respond.
        NotAuthorizedError: this certificate is not the admin's.
        RulesRefusedError: the plug-in refused a command.
    """
    done: list[Command] = []
    bus = MqttBus(
        broker,
        client_id=f"rules-{secrets.token_hex(4)}",
        subscriptions=[Subscription(RESPONSE_TOPIC, qos=1)],
        queue_limits=_LIMITS,
    )
    async with bus:
        plugin = _Plugin(bus)
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                commands = wanted.commands_from(await plugin.rules())
                if not commands or dry_run:
                    return done + commands
                for request in requests(commands):
                    await plugin.call(request)
                    done += json.loads(request)["commands"]
            except ConnectionLostError as error:
                if not attempts_left:
                    raise
                _log.info("connecting again", problem=str(error))
            else:
                return done
    raise AssertionError("the last attempt returns or raises")


class _Plugin:
    """Requests to the dynamic-security plug-in and their responses, one at a time."""

    def __init__(self, bus: MqttBus) -> None:
        self._bus = bus

    async def rules(self) -> Rules:
        """What the broker has now."""
        roles = {role["rolename"]: rights_in(role) for role in await self._list("listRoles", "roles")}
        clients = {
            client["username"]: frozenset(role["rolename"] for role in client.get("roles", []))
            for client in await self._list("listClients", "clients")
        }
        (defaults,) = await self.call(json.dumps({"commands": [{"command": "getDefaultACLAccess"}]}).encode())
        return Rules(roles, clients, {acl["acltype"]: acl["allow"] for acl in defaults["data"]["acls"]})

    async def _list(self, command: str, key: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            (response,) = await self.call(list_request(command, len(found)))
            page = response["data"][key]
            found += page
            if not page or len(found) >= response["data"]["totalCount"]:
                return found

    async def call(self, request: bytes) -> Sequence[Mapping[str, Any]]:
        """Send a request and wait for its responses."""
        token = secrets.token_hex(8)
        commands = [{**command, "correlationData": token} for command in json.loads(request)["commands"]]
        await self._bus.wait_connected(CONNECT_TIMEOUT_S)
        await self._bus.publish(
            REQUEST_TOPIC, json.dumps({"commands": commands}, separators=(",", ":")).encode(), qos=1
        )
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT_S):
                responses = await self._responses(token)
        except TimeoutError:
            raise ConnectionLostError("the broker's dynamic-security plug-in does not respond") from None
        for response in responses:
            if "error" in response:
                raise RulesRefusedError(response["command"], response["error"])
        return responses

    async def _responses(self, token: str) -> list[Mapping[str, Any]]:
        while True:
            for event in await self._bus.receive_batch():
                if isinstance(event, ConnectionChange):
                    if not event.connected:
                        raise ConnectionLostError(event.reason)
                    continue
                self._bus.acknowledge(event)
                responses = json.loads(event.payload)["responses"]
                if all(response.get("correlationData") == token for response in responses):
                    return list(responses)
