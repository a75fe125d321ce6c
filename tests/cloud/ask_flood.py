"""A client that publishes small asks at QoS 0 as fast as it is told to, in a thread and without an MQTT library."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

from schemas import topics, wire
from schemas.messages import Ask

CLIENT = "eve"
_BURST = 100
_WAIT_S = 20.0


@dataclass
class Flood:
    """What was sent.

    Attributes:
        sent: asks that the broker's socket has taken.
        seconds: time that it took so far.
    """

    sent: int = 0
    seconds: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)


def _packet(kind: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([kind]) + bytes(encoded) + body


def _text(text: str) -> bytes:
    return struct.pack("!H", len(text)) + text.encode()


def ask_packet(camera: str, number: int) -> bytes:
    """A PUBLISH at QoS 0 of an ask that was not asked before."""
    ask = Ask(query_id=f"q{number}", text="Is there a car?")
    return _packet(0x30, _text(topics.ask_topic(camera, CLIENT)) + b"\x00" + wire.encode(ask))


def _send(port: int, camera: str, rate_hz: float, flood: Flood) -> None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_WAIT_S) as connection:
        connection.sendall(
            _packet(0x10, _text("MQTT") + b"\x05\x02" + struct.pack("!H", 600) + b"\x00" + _text(CLIENT))
        )
        assert connection.recv(1) == b"\x20"
        started = monotonic()
        while not flood.over.is_set():
            connection.sendall(b"".join(ask_packet(camera, flood.sent + number) for number in range(_BURST)))
            flood.sent += _BURST
            flood.seconds = monotonic() - started
            flood.over.wait(max(0.0, flood.sent / rate_hz - flood.seconds))


@contextlib.contextmanager
def ask_flood(port: int, *, camera: str, rate_hz: float) -> Iterator[Flood]:
    """A flood that lasts as long as the context."""
    flood = Flood()
    thread = threading.Thread(target=_send, args=(port, camera, rate_hz, flood), name="ask flood")
    thread.start()
    try:
        yield flood
    finally:
        flood.over.set()
        thread.join(_WAIT_S)
