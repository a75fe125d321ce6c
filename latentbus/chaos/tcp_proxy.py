"""A TCP proxy that breaks what goes through it: cut, stalled, half open, slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

_HOST: Final = "127.0.0.1"
_READ_BYTES: Final = 16_384
_SLOW_SLICES_PER_S: Final = 10


class FaultProxy:
    """Stands between one process and the broker, on a port of its own.

    An async context manager. In good order it passes every byte on; the end of one side ends the other.

    Args:
        upstream: host and port to connect to, asked for each connection.

    Attributes:
        host: address to connect to.
        port: port to connect to, once entered.
    """

    host = _HOST

    def __init__(self, upstream: Callable[[], tuple[str, int]]) -> None:
        self.port = 0
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._bytes_per_s: float | None = None

    @property
    def connections(self) -> int:
        """Connections that are open on both sides; half-open ones do not count."""
        return sum(not link.dark for link in self._links)

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, _HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._serving)

    def cut(self) -> None:
        """Tear down every connection, and refuse new ones until :meth:`heal`."""
        self._refusing = True
        for link in self._links:
            link.abort()

    def stall(self) -> None:
        """Hold every byte back until :meth:`heal`."""
        self._flowing.clear()

    def half_open(self) -> None:
        """Lose every byte of the present connections for ever, and their ends too; new connections work."""
        for link in self._links:
            link.dark = True

    def slow(self, bytes_per_s: float) -> None:
        """Pass this much in each direction and no more, until :meth:`heal`."""
        self._bytes_per_s = bytes_per_s

    def heal(self) -> None:
        """End every fault but :meth:`half_open`, which only a new connection ends."""
        self._refusing = False
        self._flowing.set()
        self._bytes_per_s = None

    async def forward(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one direction of a connection on until it ends."""
        with contextlib.suppress(OSError):
            while data := await reader.read(self._slice_bytes()):
                await self._flowing.wait()
                if link.dark:
                    continue
                if self._bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self._bytes_per_s)
                writer.write(data)
                await writer.drain()

    def _slice_bytes(self) -> int:
        if self._bytes_per_s is None:
            return _READ_BYTES
        return max(1, round(self._bytes_per_s / _SLOW_SLICES_PER_S))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name=f"proxy[{self.port}]")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._refusing:
                return
            try:
                broker_reader, broker_writer = await asyncio.open_connection(*self._upstream())
            except OSError:  # the broker is down
                return
            link = _Link()
            self._links.add(link)
            try:
                if not self._refusing:
                    await link.run(self.forward(link, reader, broker_writer), self.forward(link, broker_reader, writer))
            finally:
                self._links.discard(link)
                broker_writer.transport.abort()
        finally:
            writer.transport.abort()


class _Link:
    """One connection through the proxy.

    Attributes:
        dark: half open: no byte and no end of one side reaches the other.
    """

    def __init__(self) -> None:
        self.dark = False
        self._pumps: list[asyncio.Task[None]] = []

    async def run(self, *directions: Coroutine[Any, Any, None]) -> None:
        """Pass bytes until one side ends; of a dark connection, until both have."""
        self._pumps = [asyncio.create_task(direction, name="proxy direction") for direction in directions]
        pending = set(self._pumps)
        try:
            while pending:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if not self.dark:
                    return
        finally:
            self.abort()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    def abort(self) -> None:
        """End it now."""
        for pump in self._pumps:
            pump.cancel()
