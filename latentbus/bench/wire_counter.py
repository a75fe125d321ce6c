"""Counts what passes between a client and a broker, below MQTT: TLS records, TCP segments and their bytes.

Segments are those that the kernel counts for the client's connection (``TCP_INFO``, tcp(7)), so this needs Linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from schemas.wire_cost import TCP_IP_BYTES

_RECORD_HEADER_BYTES: Final = 5
_APPLICATION_DATA: Final = 23
"""Content type of a TLS record that carries data (RFC 8446 section 5.1)."""
_INFO_BYTES: Final = 160
_SEGMENTS_AT: Final = 136
"""``tcpi_segs_out``, ``segs_in``, ``notsent_bytes``, ``min_rtt``, ``data_segs_in``, ``data_segs_out``: u32 each."""
_PIECE_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class WireCount:
    """What passed in one direction.

    Attributes:
        stream_bytes: bytes within TCP.
        records: TLS records that carry data; 0 without TLS.
        segments: TCP segments with data.
        bare_segments: TCP segments without: acknowledgements.
    """

    stream_bytes: int = 0
    records: int = 0
    segments: int = 0
    bare_segments: int = 0

    @property
    def wire_bytes(self) -> int:
        """Bytes on the wire of what was sent, headers of IP and TCP counted, bare acknowledgements not."""
        return self.stream_bytes + self.segments * TCP_IP_BYTES

    @property
    def all_wire_bytes(self) -> int:
        """The same with bare acknowledgements."""
        return self.wire_bytes + self.bare_segments * TCP_IP_BYTES

    def __sub__(self, before: WireCount) -> WireCount:
        return WireCount(
            self.stream_bytes - before.stream_bytes,
            self.records - before.records,
            self.segments - before.segments,
            self.bare_segments - before.bare_segments,
        )

    def __add__(self, other: WireCount) -> WireCount:
        return self - (WireCount() - other)


class WireCounter:
    """A relay before a broker; it listens on the loopback interface while it is entered.

    Args:
        host: address of the broker.
        port: its port.

    Attributes:
        port: where clients connect instead.
    """

    def __init__(self, host: str, port: int) -> None:
        self._broker = (host, port)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._gone_up = self._gone_down = WireCount()
        self._moved = asyncio.Condition()
        self.port = 0

    @property
    def up(self) -> WireCount:
        """From clients to the broker, of all connections so far."""
        return sum((link.up() for link in self._links), self._gone_up)

    @property
    def down(self) -> WireCount:
        """From the broker to clients, of all connections so far."""
        return sum((link.down() for link in self._links), self._gone_down)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None  # noqa: S101 - entered
        self._server.close()
        for link in self._links:
            link.abort()
        await self.until(lambda: not self._links)
        await self._server.wait_closed()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be true of what has passed."""
        async with self._moved:
            await self._moved.wait_for(condition)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broker_reader, broker_writer = await asyncio.open_connection(*self._broker)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, broker_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, broker_writer, link.up_records))
                group.create_task(self._pass(broker_reader, writer, link.down_records))
        finally:
            self._gone_up, self._gone_down = self._gone_up + link.up(), self._gone_down + link.down()
            self._links.discard(link)
            link.close()
            await self._tell()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, records: _Records) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE_BYTES):
                writer.write(data)
                await writer.drain()
                records.feed(data)
                await self._tell()
        writer.transport.abort()

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()


class _Link:
    """One connection of a client, and the one to the broker that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self._writers = (client, broker)
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A descriptor of its own: the counts are read when the transport may have closed the other.
        self._socket = socket.socket(fileno=socket.dup(client.get_extra_info("socket").fileno()))
        self.up_records, self.down_records = _Records(), _Records()

    def _segments(self) -> tuple[int, int, int, int]:
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        sent, received, _, _, data_received, data_sent = struct.unpack_from("=6I", info, _SEGMENTS_AT)
        return sent, received, data_received, data_sent

    def up(self) -> WireCount:
        _, received, data_received, _ = self._segments()
        records = self.up_records
        return WireCount(records.stream_bytes, records.count, data_received, received - data_received)

    def down(self) -> WireCount:
        sent, _, _, data_sent = self._segments()
        records = self.down_records
        return WireCount(records.stream_bytes, records.count, data_sent, sent - data_sent)

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def close(self) -> None:
        self.abort()
        self._socket.close()


class _Records:
    """Counts the records of a TLS stream as its bytes pass; of any other stream only the bytes."""

    def __init__(self) -> None:
        self.stream_bytes = 0
        self.count = 0
        self._header = bytearray()
        self._body_bytes = 0
        self._is_tls: bool | None = None

    def feed(self, data: bytes) -> None:
        self.stream_bytes += len(data)
        if self._is_tls is None:
            self._is_tls = 20 <= data[0] <= 24  # content types; 16 begins a CONNECT, 32 a CONNACK
        while self._is_tls and data:
            if self._body_bytes:
                taken = min(self._body_bytes, len(data))
                self._body_bytes -= taken
                data = data[taken:]
                continue
            missing = _RECORD_HEADER_BYTES - len(self._header)
            self._header += data[:missing]
            data = data[missing:]
            if len(self._header) == _RECORD_HEADER_BYTES:
                self.count += self._header[0] == _APPLICATION_DATA
                self._body_bytes = int.from_bytes(self._header[3:], "big")
                self._header.clear()
