"""The proxy does to a connection what a bad network does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from latentbus.chaos.tcp_proxy import FaultProxy

PATIENCE_S = 10.0
SILENCE_S = 0.2
"""What does not come within this time on the loopback interface is held back."""


class EchoServer:
    """Sends back what it gets, and counts the ends that it sees."""

    def __init__(self) -> None:
        self.connections = 0
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except ConnectionError:
            pass
        self.ended.set()
        writer.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, proxy: FaultProxy) -> Client:
        return cls(*await asyncio.open_connection(proxy.host, proxy.port))

    async def echo(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))

    async def read_end(self) -> bytes:
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


@pytest.fixture
async def server() -> AsyncIterator[tuple[EchoServer, asyncio.Server]]:
    echo = EchoServer()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    yield echo, server
    server.close()


@pytest.fixture
def echo(server: tuple[EchoServer, asyncio.Server]) -> EchoServer:
    return server[0]


@pytest.fixture
async def proxy(server: tuple[EchoServer, asyncio.Server]) -> AsyncIterator[FaultProxy]:
    port: int = server[1].sockets[0].getsockname()[1]
    async with asyncio.timeout(PATIENCE_S), FaultProxy(lambda: ("127.0.0.1", port)) as running:
        yield running


async def silent(client: Client) -> bool:
    """Whether nothing comes, neither a byte nor the end."""
    read = asyncio.ensure_future(client.reader.read(1))
    done, _ = await asyncio.wait({read}, timeout=SILENCE_S)
    if not done:
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)
    return not done


async def test_it_passes_bytes_and_the_end(proxy: FaultProxy, echo: EchoServer) -> None:
    client = await Client.connect(proxy)
    data = bytes(range(256)) * 1000
    assert await client.echo(data) == data
    assert proxy.connections == 1
    client.writer.close()
    await echo.ended.wait()


async def test_a_cut_ends_both_sides_and_refuses_until_healed(proxy: FaultProxy, echo: EchoServer) -> None:
    client = await Client.connect(proxy)
    assert await client.echo(b"one") == b"one"
    proxy.cut()
    assert await client.read_end() == b""
    await echo.ended.wait()
    refused = await Client.connect(proxy)
    assert await refused.read_end() == b""
    assert echo.connections == 1
    proxy.heal()
    again = await Client.connect(proxy)
    assert await again.echo(b"two") == b"two"
    for each in (client, refused, again):
        each.writer.close()


async def test_a_stall_holds_everything_and_loses_nothing(proxy: FaultProxy) -> None:
    client = await Client.connect(proxy)
    assert await client.echo(b"one") == b"one"
    proxy.stall()
    client.writer.write(b"two")
    assert await silent(client)
    proxy.heal()
    assert await client.reader.readexactly(3) == b"two"
    client.writer.close()


async def test_a_stalled_connection_can_still_be_cut(proxy: FaultProxy) -> None:
    client = await Client.connect(proxy)
    assert await client.echo(b"one") == b"one"
    proxy.stall()
    client.writer.write(b"two")
    assert await silent(client)
    proxy.cut()
    assert await client.read_end() == b""
    client.writer.close()


async def test_half_open_loses_bytes_and_the_end_for_ever_but_only_of_present_connections(
    proxy: FaultProxy, echo: EchoServer
) -> None:
    client = await Client.connect(proxy)
    assert await client.echo(b"one") == b"one"
    proxy.half_open()
    assert proxy.connections == 0
    client.writer.write(b"two")
    assert await silent(client)
    proxy.heal()
    client.writer.write(b"three")
    assert await silent(client)
    client.writer.close()
    fresh = await Client.connect(proxy)
    assert await fresh.echo(b"four") == b"four"
    # By now the end of the old connection would have come through.
    assert not echo.ended.is_set()
    assert proxy.connections == 1
    fresh.writer.close()
    await echo.ended.wait()


async def test_slow_is_no_faster_than_told(proxy: FaultProxy) -> None:
    client = await Client.connect(proxy)
    assert await client.echo(b"one") == b"one"
    proxy.slow(1000)
    began_s = time.monotonic()
    # One slice of each direction, read before the rate was set, may pass at once.
    assert await client.echo(b"x" * 500) == b"x" * 500
    assert time.monotonic() - began_s > 0.4
    proxy.heal()
    client.writer.close()


async def test_without_a_broker_it_hangs_up(server: tuple[EchoServer, asyncio.Server]) -> None:
    port: int = server[1].sockets[0].getsockname()[1]
    server[1].close()
    await server[1].wait_closed()
    async with asyncio.timeout(PATIENCE_S), FaultProxy(lambda: ("127.0.0.1", port)) as proxy:
        client = await Client.connect(proxy)
        assert await client.read_end() == b""
        client.writer.close()
