"""The connection of an edge or worker process to the broker, as its own log hears it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

from pipeline.bus.base import Bus, Subscription, Will
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings

if TYPE_CHECKING:
    from pipeline.node.node_log import NodeLog

NodeKind: TypeAlias = Literal["edge", "worker"]


def client_id(kind: NodeKind, name: str) -> str:
    """MQTT client identifier of a process: kind and name, ``edge-north`` for example."""
    return f"{kind}-{name}"


@asynccontextmanager
async def node_bus(
    broker: BrokerSettings,
    kind: NodeKind,
    name: str,
    *,
    subscriptions: Sequence[Subscription],
    will: Will,
    log: NodeLog | None,
    receive_maximum: int = 128,
    session_expiry_s: int = 0,
    topic_aliases: bool = False,
) -> AsyncIterator[Bus]:
    """A bus that connects in the background while the context lasts.

    Args:
        broker: where to.
        kind: kind of the process.
        name: of the process: site or worker.
        subscriptions: what it receives.
        will: its last will.
        log: hears what passes; None for no log.
        receive_maximum: QoS 1 messages that the broker may deliver before one is acknowledged.
        session_expiry_s: how long the broker keeps the session of a broken connection, which is resumed; 0 begins a
            new one each time.
        topic_aliases: spell topics by alias where the broker grants it.

    Raises:
        ConfigError: the TLS files cannot be loaded.
    """
    connection = MqttBus(
        broker,
        client_id=client_id(kind, name),
        subscriptions=subscriptions,
        will=will,
        receive_maximum=receive_maximum,
        clean_start=session_expiry_s == 0,
        session_expiry_s=session_expiry_s,
        topic_aliases=topic_aliases,
    )
    async with connection:
        yield connection if log is None else log.tap(connection)
