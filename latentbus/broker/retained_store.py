"""Reads what a broker retains, and clears it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import Any, Final

from broker_config.access import LEFT_RETAINED
from latentbus.broker.retained import Entry, Held, State, classify
from pipeline.bus.base import ConnectionChange, Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from schemas import topics, wire
from schemas.errors import BusError, NotAuthorizedError, RemoteError
from schemas.messages import Status
from schemas.topics import ROOT, Family

EVERYTHING: Final = f"{ROOT.partition('/')[0]}/#"
SENT_AT_ONCE: Final = 4_000
"""What Mosquitto queues for one client; what it retains beyond, it does not send, and says nothing."""


async def retained_messages(bus: MqttBus, topic_filter: str) -> list[Inbound]:
    """What a broker retains below a filter.

    Args:
        bus: a connection without subscriptions, entered.
        topic_filter: MQTT topic filter.

    Raises:
        NotAuthorizedError: this identity may not read it.
        ConnectionLostError: the connection broke.
    """
    found: list[Inbound] = []
    # At QoS 1 the receive window holds the broker back, so that no message is dropped here.
    await _while_receiving(bus, bus.subscribe(Subscription(topic_filter, qos=1)), found)
    # What is behind the window comes after acknowledgements of what is in it. The answer to a later request is behind
    # all that the acknowledgements before it brought about: an answer without any message before it is behind them all.
    while await _while_receiving(bus, bus.unsubscribe(topic_filter), found):
        pass
    return found


async def _while_receiving(bus: MqttBus, request: Coroutine[Any, Any, None], found: list[Inbound]) -> int:
    """Make a request, and take all that comes until it is answered.

    Args:
        bus: the connection.
        request: a subscription or the end of one.
        found: gets what is retained.

    Returns:
        Messages taken, retained or not.
    """
    asking = asyncio.create_task(request, name="retained")
    count = 0
    try:
        while not asking.done() or bus.statistics().incoming_messages:
            batch = await _batch(bus, asking)
            count += len(batch)
            found += [message for message in batch if message.retain and message.payload]
        await asking
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    return count


async def _batch(bus: MqttBus, asking: asyncio.Task[None]) -> list[Inbound]:
    """The messages of one batch, acknowledged; nothing when the request ended first."""
    taking = asyncio.create_task(bus.receive_batch(), name="batch")
    try:
        await asyncio.wait({taking, asking}, return_when=asyncio.FIRST_COMPLETED)
        events = taking.result() if taking.done() else []
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
    messages = [event for event in events if isinstance(event, Inbound)]
    for message in messages:
        bus.acknowledge(message)
    return messages


class RetainedStore:
    """Reads what a broker retains, and clears it.

    Args:
        bus: a connection without subscriptions, entered.
    """

    def __init__(self, bus: MqttBus) -> None:
        self._bus = bus

    async def read(self) -> list[Held]:
        """Everything that is retained below our topics, as far as this identity may read it.

        Raises:
            NotAuthorizedError: it may read nothing of it.
            ConnectionLostError: the connection broke.
        """
        try:
            return await self._retained(EVERYTHING)
        except NotAuthorizedError:
            # The admin of a secured fleet has the families where something may be left.
            found = [await self._retained(topics.family_filter(family)) for family in LEFT_RETAINED]
            return [held for family in found for held in family]

    async def listen(self, seconds: float) -> set[str]:
        """Processes that say something of themselves, as ``edge/north``.

        Args:
            seconds: how long; an edge speaks once a minute, a worker every two seconds.
        """
        heard: set[str] = set()
        filters = [topics.family_filter(family) for family in (Family.STATUS, Family.LOAD)]
        for topic_filter in filters:
            await self._bus.subscribe(Subscription(topic_filter, qos=1))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    heard |= self._speakers(await self._bus.receive_batch())
        for topic_filter in filters:
            await self._bus.unsubscribe(topic_filter)
        return heard

    async def remove(self, listed: Iterable[Entry], heard: Collection[str] | None = None) -> dict[str, str]:
        """Clear topics whose message is still the one that was listed, and still dead.

        Args:
            listed: what to clear.
            heard: what :meth:`listen` found before, if it was called.

        Returns:
            What became of each topic: empty when it was cleared, else why not.
        """
        listed = list(listed)
        held = await self.read()
        if len(held) >= SENT_AT_ONCE:
            # The broker sent no more than that, which says nothing about the others.
            seen = {one.topic for one in held}
            for entry in listed:
                if entry.held.topic not in seen:
                    held += await self._retained(entry.held.topic)
        now = {entry.held.topic: entry for entry in classify(held, heard)}
        results: dict[str, str] = {}
        for entry in listed:
            topic = entry.held.topic
            present = now.get(topic)
            if present is None:
                results[topic] = "it is gone already"
            elif present.held.digest != entry.held.digest:
                results[topic] = "it has changed since it was listed"
            elif present.state is not State.DEAD:
                results[topic] = f"by now {present.why}"
            else:
                results[topic] = await self._clear(topic)
        return results

    async def _clear(self, topic: str) -> str:
        try:
            await self._bus.publish(topic, b"", qos=1, retain=True)
        except NotAuthorizedError:
            return "this identity may not clear it"
        except BusError as error:
            return str(error)
        return ""

    async def _retained(self, topic_filter: str) -> list[Held]:
        return [Held.of(one.topic, one.payload) for one in await retained_messages(self._bus, topic_filter)]

    def _speakers(self, events: Sequence[Inbound | ConnectionChange]) -> set[str]:
        heard: set[str] = set()
        for event in events:
            if not isinstance(event, Inbound):
                continue
            self._bus.acknowledge(event)
            if event.retain or not event.payload:
                continue
            with contextlib.suppress(RemoteError):
                _, message = wire.decode_publish(event.topic, event.payload)
                if isinstance(message, Status) and message.online:
                    heard.add(f"{message.kind}/{message.id}")
        return heard
