"""A camera of the network that can be killed and stalled: an MJPEG stream on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import io
from types import TracebackType
from typing import Final, Self

import numpy as np
from PIL import Image

_HOST: Final = "127.0.0.1"
_FRAMES_HZ: Final = 5.0
_SIDE_PX: Final = 320
_PICTURES: Final = 32
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\nConnection: close\r\n\r\n"
)


class FlakyCamera:
    """Sends a picture every fifth of a second to whoever connects. An async context manager.

    Args:
        seed: of its pictures.
    """

    def __init__(self, seed: int) -> None:
        self._pictures = [_picture(seed, number) for number in range(_PICTURES)]
        self._server: asyncio.Server | None = None
        self._port = 0
        self._clients: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def source(self) -> str:
        """Its address."""
        return f"http://{_HOST}:{self._port}/stream.mjpg"

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.revive()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close everything."""
        await self.kill()

    async def kill(self) -> None:
        """End every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def revive(self) -> None:
        """Listen again, on the same port."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, _HOST, self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    def stall(self) -> None:
        """Send nothing more, and keep every connection."""
        self._flowing.clear()

    def resume(self) -> None:
        """Send again."""
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name=f"camera[{self._port}]")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(_HEAD)
                number = 0
                while True:
                    await self._flowing.wait()
                    part = self._pictures[number % _PICTURES]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n".encode()
                    writer.write(head + part + b"\r\n")
                    await writer.drain()
                    number += 1
                    await asyncio.sleep(1 / _FRAMES_HZ)
            finally:
                writer.transport.abort()


def _picture(seed: int, number: int) -> bytes:
    """A JPEG of a block that moves over a wall of noise."""
    draw = np.random.default_rng(seed)
    wall = draw.integers(60, 120, (_SIDE_PX // 16, _SIDE_PX // 16, 3), dtype=np.uint8)
    pixels = wall.repeat(16, axis=0).repeat(16, axis=1)
    left = number * (_SIDE_PX - 80) // _PICTURES
    pixels[120:200, left : left + 80] = (200, 40 + number, 40)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return out.getvalue()
