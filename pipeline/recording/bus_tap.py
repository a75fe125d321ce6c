"""A bus that is listened to: everything that a process sends and receives goes into its own log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.bus.base import (
    Bus,
    BusStatistics,
    ConnectionChange,
    Inbound,
    MqttProperties,
    PublishResult,
    Qos,
    Subscription,
    Traffic,
)
from schemas.topics import carries_pixels


class Tap(Protocol):
    """Takes what passes by; it must neither wait nor raise."""

    def offer(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: MqttProperties | None = None,
        received_s: float | None = None,
    ) -> bool:
        """Take a message; false when it is dropped. ``received_s`` is on the monotonic clock, now unless given."""


class TappedBus:
    """A :class:`~pipeline.bus.base.Bus` that shows each message to a tap and changes nothing.

    A message counts as received when the process takes it, and as sent when the process hands it to a working
    connection. One that is lost with the connection stands in the log all the same: nobody knows whether it arrived.
    Sent again, it stands there again.

    Args:
        bus: the connection.
        tap: who listens.
    """

    def __init__(self, bus: Bus, tap: Tap) -> None:
        self._bus = bus
        self._tap = tap
        self._connected = False

    @property
    def traffic(self) -> Traffic:
        """See :class:`~pipeline.bus.base.Bus`."""
        return self._bus.traffic

    async def wait_connected(self, timeout_s: float) -> None:
        """See :class:`~pipeline.bus.base.Bus`."""
        await self._bus.wait_connected(timeout_s)
        self._connected = True

    async def receive_batch(self, max_count: int = 256) -> list[Inbound | ConnectionChange]:
        """See :class:`~pipeline.bus.base.Bus`."""
        events = await self._bus.receive_batch(max_count)
        for event in events:
            if isinstance(event, Inbound):
                if carries_pixels(event.topic):
                    continue
                self._tap.offer(
                    event.topic,
                    event.payload,
                    qos=event.qos,
                    retain=event.retain,
                    properties=event.properties
                    or _given(response_topic=event.response_topic, correlation_data=event.correlation_data),
                    received_s=event.received_s,
                )
            else:
                self._connected = event.connected
        return events

    def acknowledge(self, inbound: Inbound) -> bool:
        """See :class:`~pipeline.bus.base.Bus`."""
        return self._bus.acknowledge(inbound)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 0,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        content_type: str | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
        timeout_s: float = 10.0,
    ) -> PublishResult:
        """See :class:`~pipeline.bus.base.Bus`."""
        if self._connected and not carries_pixels(topic):
            properties = _given(response_topic, correlation_data, expiry_s, content_type, user_properties)
            self._tap.offer(topic, payload, qos=qos, retain=retain, properties=properties)
        return await self._bus.publish(
            topic,
            payload,
            qos=qos,
            retain=retain,
            response_topic=response_topic,
            correlation_data=correlation_data,
            expiry_s=expiry_s,
            content_type=content_type,
            user_properties=user_properties,
            timeout_s=timeout_s,
        )

    async def subscribe(self, subscription: Subscription, timeout_s: float = 10.0) -> None:
        """See :class:`~pipeline.bus.base.Bus`."""
        await self._bus.subscribe(subscription, timeout_s)

    async def unsubscribe(self, topic_filter: str, timeout_s: float = 10.0) -> None:
        """See :class:`~pipeline.bus.base.Bus`."""
        await self._bus.unsubscribe(topic_filter, timeout_s)

    def statistics(self) -> BusStatistics:
        """See :class:`~pipeline.bus.base.Bus`."""
        return self._bus.statistics()


def _given(
    response_topic: str | None = None,
    correlation_data: bytes | None = None,
    expiry_s: int | None = None,
    content_type: str | None = None,
    user_properties: Sequence[tuple[str, str]] = (),
) -> MqttProperties | None:
    """Properties of a message, None when it has none."""
    properties = MqttProperties(
        response_topic=response_topic,
        correlation_data=correlation_data,
        expiry_s=expiry_s,
        content_type=content_type,
        user=tuple(user_properties),
    )
    return None if properties == _NOTHING else properties


_NOTHING = MqttProperties()
