"""What the bus tests share: a relay that sees and disturbs MQTT packets, and short ways to use a bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import pytest

from broker_config.launcher import LocalBroker
from pipeline.bus.backoff import Backoff
from pipeline.bus.base import ConnectionChange, Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from schemas.errors import ConnectionLostError

FAST = Backoff(initial_s=0.02, maximum_s=0.1)
WAIT_S = 30.0
"""Only a test that fails waits so long; a busy machine needs some of it."""

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, DISCONNECT = 1, 2, 3, 4, 8, 14
Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Packet:
    """An MQTT packet as it was on the wire: flags are those of the first byte, the size counts the header."""

    direction: Direction
    kind: int
    flags: int
    body: bytes
    size_bytes: int

    @property
    def packet_id(self) -> int:
        """Packet identifier of a PUBLISH at QoS 1 or a PUBACK."""
        start = 2 + int.from_bytes(self.body[:2], "big") if self.kind == PUBLISH else 0
        return int.from_bytes(self.body[start : start + 2], "big")


class Relay:
    """A TCP relay before a broker: counts bytes, records packets, drops some, cuts the line.

    ``drop`` is asked for each packet, ``replace`` may return other bytes for it. With ``parse=False`` (for TLS) only
    bytes are counted.
    """

    def __init__(self, broker: LocalBroker, *, parse: bool = True) -> None:
        self._broker = broker
        self._parse = parse
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()
        self.packets: list[Packet] = []
        self.stream_bytes = {"up": 0, "down": 0}
        self.drop: Callable[[Packet], bool] = lambda packet: False
        self.replace: Callable[[Packet], bytes | None] = lambda packet: None

    @property
    def settings(self) -> BrokerSettings:
        assert self._server is not None
        return BrokerSettings(host="127.0.0.1", port=self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        async with self._changed:
            await self._changed.wait_for(lambda: not self._writers)

    def cut(self) -> None:
        """Break every connection, as a power cut does."""
        for writer in self._writers:
            writer.transport.abort()

    def seen(self, direction: Direction, kind: int) -> list[Packet]:
        return [packet for packet in self.packets if (packet.direction, packet.kind) == (direction, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be true about what was seen."""
        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(condition)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._broker.host, self._broker.port)
        pair = {writer, up_writer}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump("up", reader, up_writer))
                group.create_task(self._pump("down", up_reader, writer))
        finally:
            for end in pair:
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()
            async with self._changed:
                self._writers -= pair
                self._changed.notify_all()

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                packet, data = await self._next(direction, reader)
                if not data:
                    break
                self.stream_bytes[direction] += len(data)
                if packet is not None:
                    self.packets.append(packet)
                if packet is None or not self.drop(packet):
                    other = None if packet is None else self.replace(packet)
                    writer.write(data if other is None else other)
                    await writer.drain()
                async with self._changed:
                    self._changed.notify_all()
        writer.transport.abort()

    async def _next(self, direction: Direction, reader: asyncio.StreamReader) -> tuple[Packet | None, bytes]:
        if not self._parse:
            return None, await reader.read(65_536)
        head = await reader.readexactly(1)
        length, shift = 0, 0
        while True:
            byte = await reader.readexactly(1)
            head += byte
            length |= (byte[0] & 127) << shift
            shift += 7
            if byte[0] < 128:
                break
        body = await reader.readexactly(length)
        return Packet(direction, head[0] >> 4, head[0] & 15, body, len(head) + length), head + body


@contextlib.asynccontextmanager
async def connected(settings: BrokerSettings, client_id: str, *filters: str, **more: Any) -> AsyncIterator[MqttBus]:
    """A connected bus whose first event, the connection, is taken already."""
    subscriptions = [Subscription(entry, 1) for entry in filters]
    more.setdefault("backoff", FAST)
    async with MqttBus(settings, client_id=client_id, subscriptions=subscriptions, **more) as bus:
        await bus.wait_connected(WAIT_S)
        [change] = await bus.receive_batch(1)
        assert isinstance(change, ConnectionChange)
        yield bus


async def take(bus: MqttBus, count: int) -> list[Inbound]:
    """Take exactly ``count`` messages, skipping connection changes."""
    got: list[Inbound] = []
    async with asyncio.timeout(WAIT_S):
        while len(got) < count:
            got += [event for event in await bus.receive_batch(1) if isinstance(event, Inbound)]
    return got


async def take_change(bus: MqttBus) -> ConnectionChange:
    """Take the next connection change, skipping messages."""
    async with asyncio.timeout(WAIT_S):
        while True:
            [event] = await bus.receive_batch(1)
            if isinstance(event, ConnectionChange):
                return event


async def connection_problem(bus: MqttBus) -> str:
    """What a bus that cannot connect says about it, after its first attempt."""
    async with asyncio.timeout(WAIT_S):
        while not bus.statistics().connection_failures:
            with contextlib.suppress(ConnectionLostError):
                await bus.wait_connected(0.02)
    with pytest.raises(ConnectionLostError) as caught:
        await bus.wait_connected(0.02)
    return str(caught.value)


async def drain_until(bus: MqttBus, topic: str) -> list[Inbound]:
    """Messages up to one on ``topic``, which a test publishes last as a mark; all are acknowledged."""
    got: list[Inbound] = []
    async with asyncio.timeout(WAIT_S):
        while True:
            for event in await bus.receive_batch(1):
                if isinstance(event, Inbound):
                    bus.acknowledge(event)
                    if event.topic == topic:
                        return got
                    got.append(event)
