"""Buffers between the MQTT client and the process, bounded in messages and bytes.

- :class:`InboundBuffer`: what arrived, connection changes among it in order, drained in batches by one reader.
- :class:`AcknowledgeWindow`: which QoS 1 messages of a connection are still to be acknowledged, in the order of their
  arrival.
- :class:`SendWindow`: how much may be on its way out; publishers beyond it wait in line.

Everything runs on one event loop and is not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from pipeline.bus.base import ConnectionChange, Inbound
from schemas.errors import ConnectionLostError, StateError

QOS0_SHARE = 0.75
"""Part of the incoming queue that QoS 0 may fill."""


def _size_bytes(message: Inbound) -> int:
    return len(message.topic) + len(message.payload)


class InboundBuffer:
    """What arrived, in order, for one reader.

    A new connection is *held* from its first packet on until its subscriptions are granted: its messages wait behind
    the change to *connected*, so that a reader that sees a message may answer it. If the connection breaks before, they
    are discarded; the broker sends again what it had not seen acknowledged.

    A message that does not fit is not queued; the caller counts and, for QoS 1, acknowledges it. The last quarter is
    for QoS 1 alone, so that a flood at QoS 0 pushes nothing out that a broker believes delivered. Connection changes
    always fit: an up and the down that follows it without a message are merged, so there are at most two for each
    message.

    Args:
        max_messages: messages that may wait.
        max_bytes: bytes of topics and payloads that may wait.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._events: deque[Inbound | ConnectionChange] = deque()
        self._held: deque[Inbound] | None = None
        self._messages = 0
        self._bytes = 0
        self._reader: asyncio.Future[None] | None = None
        self._closed: BaseException | None = None

    @property
    def messages(self) -> int:
        """Messages waiting, held ones included."""
        return self._messages

    @property
    def size_bytes(self) -> int:
        """Bytes of topics and payloads waiting."""
        return self._bytes

    def put(self, message: Inbound) -> bool:
        """Queue a message; false when it does not fit."""
        size_bytes = _size_bytes(message)
        share = 1.0 if message.qos else QOS0_SHARE
        if self._messages + 1 > share * self._max_messages or self._bytes + size_bytes > share * self._max_bytes:
            return False
        self._messages += 1
        self._bytes += size_bytes
        if self._held is not None:
            self._held.append(message)
        else:
            self._events.append(message)
            self._wake()
        return True

    def hold(self) -> None:
        """Keep the messages from here on until :meth:`release` or :meth:`discard`."""
        if self._held is None:
            self._held = deque()

    def release(self, change: ConnectionChange) -> None:
        """The new connection is ready: queue the change, then what was held."""
        self._put_change(change)
        held, self._held = self._held or deque(), None
        self._events.extend(held)
        self._wake()

    def discard(self) -> int:
        """The new connection broke before it was ready: forget what was held, and say how many messages that was."""
        held, self._held = self._held or deque(), None
        self._messages -= len(held)
        self._bytes -= sum(map(_size_bytes, held))
        return len(held)

    def lost(self, change: ConnectionChange) -> None:
        """The connection is gone; what it delivered stays queued before this change."""
        self._put_change(change)
        self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """Let the reader take what is left, then raise ``error`` (default: the bus is closed)."""
        if self._closed is None:
            self._closed = error or ConnectionLostError("the bus is closed")
            self._wake()

    async def take(self, max_count: int) -> list[Inbound | ConnectionChange]:
        """Wait for at least one event and take up to ``max_count`` in order.

        Nothing is taken before the wait is over, so a cancelled take loses nothing.

        Raises:
            StateError: another task is waiting already.
            ConnectionLostError: the bus is closed and everything was taken.
        """
        if max_count < 1:
            raise StateError(f"a batch of {max_count} events")
        while not self._events:
            if self._closed is not None:
                raise self._closed
            if self._reader is not None:
                raise StateError("two tasks read from one bus: the order of its events would be lost")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        batch: list[Inbound | ConnectionChange] = []
        while self._events and len(batch) < max_count:
            event = self._events.popleft()
            if isinstance(event, Inbound):
                self._messages -= 1
                self._bytes -= _size_bytes(event)
            batch.append(event)
        return batch

    def _put_change(self, change: ConnectionChange) -> None:
        # A reader that slept through "up" needs to hear neither that nor the "down" that undoes it.
        if not change.connected and len(self._events) >= 2:
            up, down = self._events[-1], self._events[-2]
            if (
                isinstance(up, ConnectionChange)
                and up.connected
                and isinstance(down, ConnectionChange)
                and not down.connected
            ):
                self._events.pop()
                return
        self._events.append(change)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class AcknowledgeWindow:
    """Order of acknowledgements of one connection.

    MQTT 5 wants them in the order in which the messages came [MQTT-4.6.0-2]; the process settles them in any order. One
    that is settled early waits for those before it.
    """

    def __init__(self) -> None:
        self._settled: OrderedDict[int, bool] = OrderedDict()

    def __len__(self) -> int:
        return len(self._settled)

    def received(self, packet_id: int) -> None:
        """A QoS 1 message arrived."""
        self._settled.setdefault(packet_id, False)

    def settle(self, packet_id: int) -> list[int] | None:
        """The process is done with a message.

        Returns:
            The packet identifiers to acknowledge now, in order; None when this one is not waiting to be settled
            (settled before).
        """
        if self._settled.get(packet_id, True):
            return None
        self._settled[packet_id] = True
        due: list[int] = []
        while self._settled:
            first = next(iter(self._settled))
            if not self._settled[first]:
                break
            del self._settled[first]
            due.append(first)
        return due


class SendWindow:
    """Room for messages on their way out; those who wait for it are served in line.

    Args:
        max_messages: messages that may be on their way.
        max_bytes: bytes that may be on their way. A single message larger than this passes alone.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._closed = False
        self.messages = 0
        self.size_bytes = 0

    @property
    def waiting(self) -> int:
        """Publishers in line."""
        return len(self._waiting)

    def limit(self, max_messages: int) -> None:
        """Change how many messages may be on their way."""
        self._max_messages = max_messages
        self._admit()

    async def acquire(self, size_bytes: int) -> None:
        """Take room for one message.

        It is given back with :meth:`release` when the message is done, whoever still waits for it.

        Raises:
            ConnectionLostError: the connection went away meanwhile; nothing was sent.
        """
        if self._closed:
            raise ConnectionLostError("the connection is gone; nothing was sent")
        if not self._waiting and self._fits(size_bytes):
            self._take(size_bytes)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size_bytes))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(size_bytes)  # the turn came and the cancellation at the same moment
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[0] is not turn)
                self._admit()
            raise

    def release(self, size_bytes: int) -> None:
        """Give back the room of one message."""
        self.messages -= 1
        self.size_bytes -= size_bytes
        self._admit()

    def close(self) -> None:
        """The connection is gone: whoever waits gets :class:`ConnectionLostError`."""
        self._closed = True
        for turn, _ in self._waiting:
            if not turn.done():
                turn.set_exception(ConnectionLostError("the connection went away before this was sent"))
        self._waiting.clear()

    def _fits(self, size_bytes: int) -> bool:
        return self.messages == 0 or (
            self.messages < self._max_messages and self.size_bytes + size_bytes <= self._max_bytes
        )

    def _take(self, size_bytes: int) -> None:
        self.messages += 1
        self.size_bytes += size_bytes

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][1]):
            turn, size_bytes = self._waiting.popleft()
            if not turn.done():
                self._take(size_bytes)
                turn.set_result(None)
