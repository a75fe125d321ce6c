"""The socket of an MQTT client on the event loop: paho reads and writes it, when the loop says so and without waste.

- aiomqtt's iterator starts a task a message and loses one when it is cancelled: an own ``queue_type`` hands over at
  once.
- aiomqtt may register a write callback for a socket that was closed meanwhile: here the socket is looked at when it
  runs.
- paho leaves the socket of a failed TLS handshake open: it closes itself.
- paho turns what a socket raised into a line of its log: the error of a TLS socket is kept.
- paho writes each packet by itself, which makes a TLS record and a TCP segment of it: what waits is written together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Any

import aiomqtt
from paho.mqtt.client import Client
from paho.mqtt.enums import MessageType

from pipeline.bus.mqtt_terms import LinkSettings, connect_properties, will_of

WRITE_BYTES = 16_384
"""Packets that are written in one go: what fits one TLS record."""
READ_PACKETS = 64
"""Packets read before the rest of the process gets its turn; about 2 ms."""

DISCONNECT = MessageType.DISCONNECT
_logger = logging.getLogger(__name__)


class SocketClient(aiomqtt.Client):
    """aiomqtt's client with a socket that is read and written by this module.

    Args:
        settings: see :class:`pipeline.bus.mqtt_terms.LinkSettings`.
        receive: takes each message, on the event loop; it must not raise.

    Attributes:
        paho_log: what paho and aiomqtt say about the connection.
    """

    def __init__(self, settings: LinkSettings, receive: Callable[[aiomqtt.Message], None]) -> None:
        self.paho_log = PahoLog()
        if settings.tls_context is not None:
            settings.tls_context.sslsocket_class = _ClosingSSLSocket
        super().__init__(
            settings.host,
            settings.port,
            username=settings.username,
            password=settings.password,
            logger=self.paho_log,
            identifier=settings.client_id,
            queue_type=_queue_type(receive),
            protocol=aiomqtt.ProtocolVersion.V5,
            will=will_of(settings.will),
            timeout=settings.timeout_s,
            keepalive=settings.keepalive_s,
            clean_start=settings.clean_start,
            properties=connect_properties(settings),
            tls_context=settings.tls_context,
        )
        self._progress = 0
        self._socket: Any = None
        self._written_ahead = 0
        # Private, and only to save bytes: a version of paho that does not look here writes each packet by itself.
        self._write_alone = self._client._sock_send  # noqa: SLF001
        self._client._sock_send = self._write_together  # type: ignore[method-assign]  # noqa: SLF001

    @property
    def socket_failure(self) -> OSError | None:
        """What the TLS socket raised when it ended, if anything."""
        return self._socket.failure if isinstance(self._socket, _ClosingSSLSocket) else None

    def made_progress(self) -> None:
        """A packet was read: more may lie ready."""
        self._progress += 1

    # What follows overrides callbacks of aiomqtt; their signatures are paho's.

    def _on_socket_open(self, client: Client, userdata: Any, sock: Any) -> None:  # noqa: ARG002
        self._socket = sock
        self._loop.call_soon_threadsafe(self._start, client, sock)

    def _start(self, client: Client, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._read, client, sock)
            self._misc_task = self._loop.create_task(self._misc_loop(), name=f"mqtt-keep-alive[{self.identifier}]")

    def _read(self, client: Client, sock: Any) -> None:
        # paho reads one packet a call, and a turn of the loop costs as much as the packet: go on while packets come.
        for _ in range(READ_PACKETS):
            before = self._progress
            try:
                client.loop_read()
            except Exception as error:  # noqa: BLE001 - whatever a malformed packet raises in paho ends the connection
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)
                return
            if sock.fileno() < 0:
                return
            if self._progress == before and not _decrypted(sock):
                return
        if _decrypted(sock):
            self._loop.call_soon(self._read_on, client, sock)  # what TLS holds already does not wake the loop

    def _read_on(self, client: Client, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._read(client, sock)

    def _on_socket_register_write(self, client: Client, userdata: Any, sock: Any) -> None:  # noqa: ARG002
        # Also called from the thread that connects. Writing straight away saves two epoll calls a packet; only a socket
        # that is full needs to be watched.
        self._loop.call_soon_threadsafe(self._write, client, sock)

    def _write(self, client: Client, sock: Any) -> None:
        if sock.fileno() < 0:
            return
        try:
            client.loop_write()
        except (OSError, ValueError) as error:
            if not self._disconnected.done():
                self._disconnected.set_exception(error)
            return
        if client.want_write() and sock.fileno() >= 0:
            self._loop.add_writer(sock.fileno(), self._write, client, sock)

    def _write_together(self, buf: bytes | bytearray) -> int:
        """Write a packet, or the rest of one, and behind it the packets that paho has queued.

        Returns:
            How much of ``buf`` was written. What was written of the others is told when paho comes to them.
        """
        if self._written_ahead:
            written = min(self._written_ahead, len(buf))
            self._written_ahead -= written
            return written
        together = bytearray(buf)
        leaves = buf[0] & 0xF0 == DISCONNECT
        for packet in self._client._out_packet:  # noqa: SLF001
            rest = packet["packet"][packet["pos"] :]
            if leaves or len(together) + len(rest) > WRITE_BYTES:
                break
            together += rest
            leaves = packet["command"] & 0xF0 == DISCONNECT  # nothing may follow it
        written = self._write_alone(together)
        self._written_ahead = max(0, written - len(buf))
        return min(written, len(buf))

    def _on_socket_unregister_write(self, client: Client, userdata: Any, sock: Any) -> None:  # noqa: ARG002
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())


class PahoLog(logging.Logger):
    """Keeps what paho and aiomqtt log about a connection, for the reason of its end."""

    def __init__(self) -> None:
        super().__init__(f"{__name__}.paho", logging.WARNING)
        self.last = ""

    def handle(self, record: logging.LogRecord) -> None:
        """Keep a record's text, and pass it on for debugging."""
        self.last = record.getMessage()
        _logger.debug("%s", self.last)


class _ClosingSSLSocket(ssl.SSLSocket):
    failure: OSError | None = None
    """What ended it: paho keeps no more of that than its text."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.failure = error
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.failure = error
            with contextlib.suppress(OSError):
                self.recv(1)  # why the peer closed may lie there unread
            raise

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except (OSError, ValueError):
            self.close()
            raise


def _decrypted(sock: Any) -> bool:
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def _queue_type(receive: Callable[[aiomqtt.Message], None]) -> type[asyncio.Queue[aiomqtt.Message]]:
    class Handover(asyncio.Queue[aiomqtt.Message]):
        """Hands each message over in paho's callback; nothing ever waits in it."""

        def put_nowait(self, item: aiomqtt.Message) -> None:
            receive(item)

    return Handover
