"""Publishes a log as it was recorded: topic, payload, QoS, retain flag and MQTT 5 properties, on its own schedule."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from latentbus.replay.player import Player
from pipeline.bus.mqtt import MqttBus
from pipeline.recording.message import LoggedMessage, MqttProperties
from schemas.errors import BusError, ConnectionLostError, StateError

READ_AHEAD_MESSAGES: Final = 512
"""Read from the disk while the ones before are published; two such blocks are in memory."""
UNACKNOWLEDGED: Final = 128
"""Publishes under way at a time. MQTT keeps the order within a topic and QoS; QoS 0 may overtake QoS 1 by so many."""
YIELD_MESSAGES: Final = 32
"""After so many that were due together the loop turns to its other tasks."""
RETRIES: Final = 3
RECONNECT_WAIT_S: Final = 30.0
_NO_PROPERTIES: Final = MqttProperties()


@dataclass(slots=True)
class VerbatimCount:
    """What became of the messages.

    Attributes:
        published: left; at QoS 1 the broker has them.
        retained: those among them that stem from before the part that is played.
        lost: QoS 0 messages whose connection went away.
        repeated: QoS 1 messages that were sent again after a lost connection.
        local: messages that never were on a broker; they are not published.
        held: messages that were left out because they would replace what the broker retains, by topic.
        refused: messages that the broker, or its limits, refused, by reason.
    """

    published: int = 0
    retained: int = 0
    lost: int = 0
    repeated: int = 0
    local: int = 0
    held: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


class VerbatimReplay:
    """One publisher of logged messages.

    Args:
        bus: entered.
        player: says when.
        change: applied to each message before it is published.
        held: topics on which the broker retains something that is to stay.

    Attributes:
        count: what became of the messages.
    """

    def __init__(
        self,
        bus: MqttBus,
        player: Player,
        change: Callable[[LoggedMessage], LoggedMessage] = lambda message: message,
        *,
        held: frozenset[str] = frozenset(),
    ) -> None:
        self.count = VerbatimCount()
        self._bus = bus
        self._player = player
        self._change = change
        self._held = held
        self._slots = asyncio.Semaphore(UNACKNOWLEDGED)

    async def retain(self, messages: Iterable[LoggedMessage]) -> None:
        """Publish at once what the broker retained when the part that is played begins, and wait until it has it.

        Raises:
            ConnectionLostError: the broker did not come back.
        """
        published = self.count.published
        async with asyncio.TaskGroup() as publishes:
            for message in messages:
                await self._begin(publishes, message)
        self.count.retained += self.count.published - published

    async def play(self, messages: Iterator[LoggedMessage]) -> None:
        """Publish messages when they are due, until they or the play have ended.

        Raises:
            ConnectionLostError: the broker did not come back.
            RecordingError: the log is damaged here.
        """
        since_yield = 0
        async with asyncio.TaskGroup() as publishes, aclosing(_read_ahead(messages)) as ahead:
            async for message in ahead:
                if await self._player.turn(message.time_ns) is None:
                    break
                if message.topic.startswith("$"):
                    self.count.local += 1
                    continue
                await self._begin(publishes, message)
                since_yield += 1
                if since_yield >= YIELD_MESSAGES:
                    since_yield = 0
                    await asyncio.sleep(0)

    async def _begin(self, publishes: asyncio.TaskGroup, message: LoggedMessage) -> None:
        changed = self._change(message)
        if changed.retain and changed.topic in self._held:
            self.count.held[changed.topic] += 1
            return
        await self._slots.acquire()
        publishes.create_task(self._publish(changed), name="publish")

    async def _publish(self, message: LoggedMessage) -> None:
        try:
            for tries_left in reversed(range(RETRIES if message.qos else 1)):
                try:
                    await self._send(message)
                    self.count.published += 1
                    return
                except ConnectionLostError:
                    # It may have arrived: at QoS 1 once more is allowed, at QoS 0 it is not.
                    await self._bus.wait_connected(RECONNECT_WAIT_S)
                    if not message.qos:
                        self.count.lost += 1
                    elif not tries_left:
                        raise
                    else:
                        self.count.repeated += 1
        except ConnectionLostError:
            raise
        except (BusError, StateError) as error:
            self.count.refused[f"{type(error).__name__}: {error}"[:200]] += 1
        finally:
            self._slots.release()

    async def _send(self, message: LoggedMessage) -> None:
        properties = message.properties or _NO_PROPERTIES
        await self._bus.publish(
            message.topic,
            message.payload,
            qos=1 if message.qos else 0,
            retain=message.retain,
            response_topic=properties.response_topic,
            correlation_data=properties.correlation_data,
            expiry_s=properties.expiry_s,
            content_type=properties.content_type,
            payload_format=properties.payload_format,
            user_properties=properties.user,
        )


async def _read_ahead(messages: Iterator[LoggedMessage]) -> AsyncGenerator[LoggedMessage, None]:
    """The same messages, read from the disk in another thread, a block ahead."""

    def block() -> list[LoggedMessage]:
        return list(islice(messages, READ_AHEAD_MESSAGES))

    reading = asyncio.create_task(asyncio.to_thread(block), name="read ahead")
    try:
        while found := await reading:
            reading = asyncio.create_task(asyncio.to_thread(block), name="read ahead")
            for message in found:
                yield message
    finally:
        # A thread cannot be stopped; leaving it behind would let the file be closed under it.
        await asyncio.gather(reading, return_exceptions=True)
