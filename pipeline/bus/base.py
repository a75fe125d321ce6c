"""What the bus hands to the processes and takes from them; nothing here knows a broker.

A process holds one :class:`Bus`. It reads :class:`Inbound` messages and :class:`ConnectionChange` events from one
ordered stream, acknowledges what it admitted, and publishes. Everything is bounded, see :class:`QueueLimits`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.protocol.ports import Qos as Qos
from pipeline.protocol.ports import Subscription as Subscription
from pipeline.protocol.ports import Will as Will

MAX_OUTGOING_MESSAGES = 16_384
"""A quarter of the MQTT packet identifiers, so that none is given out again while it is in use."""


@dataclass(frozen=True, slots=True)
class MqttProperties:
    """MQTT 5 properties of a publish (MQTT 5.0 section 3.3.2.3), those that a publisher sets.

    Attributes:
        payload_format: 1 when the payload is UTF-8, None when not given.
        expiry_s: message expiry interval that was left on delivery.
        content_type: MIME type of the payload.
        response_topic: where the reply goes.
        correlation_data: what the reply brings back.
        user: user properties, in order.
    """

    payload_format: int | None = None
    expiry_s: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message from the broker.

    Attributes:
        topic: topic it was published to.
        payload: its bytes, not validated.
        qos: QoS of the delivery; 1 must be acknowledged, see :meth:`Bus.acknowledge`.
        retain: the broker had it retained before this client subscribed.
        response_topic: where the sender wants the reply.
        correlation_data: what the sender wants back with the reply.
        generation: connection that delivered it.
        packet_id: MQTT packet identifier within that connection; 0 for QoS 0.
        received_s: arrival on this process' monotonic clock, in seconds.
        properties: every MQTT 5 property, if the bus was asked for them and there are any.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    response_topic: str | None
    correlation_data: bytes | None
    generation: int
    packet_id: int
    received_s: float
    properties: MqttProperties | None = None


@dataclass(frozen=True, slots=True)
class ConnectionChange:
    """The connection came up or went down, in its place among the messages.

    Attributes:
        connected: up, with every subscription granted; or down.
        generation: the connection; later ones have larger numbers, with gaps for attempts that failed.
        reason: what happened, in words, with the likely cause where one is known.
        session_resumed: the broker kept the session: it sends unacknowledged messages again.
        reason_code: MQTT 5 reason code of the broker's DISCONNECT (142: another process uses the client id); None when
            it gave none.
        topic_aliases: aliases that the broker grants on this connection; 0 also where the bus does not use them.
        certificate_end_s: when the broker's certificate ends, in seconds since 1970; None without TLS.
    """

    connected: bool
    generation: int
    reason: str
    session_resumed: bool = False
    reason_code: int | None = None
    topic_aliases: int = 0
    certificate_end_s: float | None = None


@dataclass(frozen=True, slots=True)
class BrokerAbilities:
    """What a broker says of itself as it lets a client in (MQTT 5.0 section 3.2.2.3).

    Attributes:
        receive_maximum: QoS 1 publishes that it takes before it has acknowledged one.
        maximum_qos: highest QoS that it takes.
        retain: whether it retains messages.
        packet_bytes: largest packet that it takes; None where it names no limit.
        topic_aliases: topics that a client may spell by number.
        wildcards: whether filters may have wildcards.
        shared_subscriptions: whether it has share groups.
    """

    receive_maximum: int = 65_535
    maximum_qos: int = 2
    retain: bool = True
    packet_bytes: int | None = None
    topic_aliases: int = 0
    wildcards: bool = True
    shared_subscriptions: bool = True


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What the broker said to a publish.

    Attributes:
        no_subscribers: nobody receives it (MQTT 5 reason code 16). A hint only: brokers need not tell, QoS 0 has no
            answer, and one wildcard subscriber, a recorder for example, hides it.
    """

    no_subscribers: bool = False


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of every buffer between the process and the broker, with the memory they cap.

    Attributes:
        incoming_messages: messages waiting for :meth:`Bus.receive_batch`.
        incoming_bytes: their topics and payloads.
        outgoing_messages: publishes handed to the client and not yet done, for QoS 0 and 1 each; further ones wait.
        outgoing_bytes: their packets, for QoS 0 and 1 each.
        packet_bytes: largest packet to send, and to accept (told to the broker, which drops larger ones for this
            client). Between the largest message of the wire schema and the 128 KB of the strictest public broker (AWS
            IoT Core).
    """

    incoming_messages: int = 8_192
    incoming_bytes: int = 33_554_432
    outgoing_messages: int = 1_024
    outgoing_bytes: int = 4_194_304
    packet_bytes: int = 131_072

    def __post_init__(self) -> None:
        smallest = min(self.incoming_messages, self.outgoing_messages, self.packet_bytes)
        if smallest < 1 or self.outgoing_messages > MAX_OUTGOING_MESSAGES:
            raise ValueError(f"queue limits must be at least 1, outgoing_messages at most {MAX_OUTGOING_MESSAGES}")
        if 2 * self.packet_bytes > min(self.incoming_bytes, self.outgoing_bytes):
            raise ValueError("incoming_bytes and outgoing_bytes must hold two packets of packet_bytes")


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """Counters since the start of a bus, and the state of its buffers now.

    Attributes:
        connected: connected with every subscription granted.
        generation: number of the newest connection attempt.
        connections: connections that became ready.
        connection_failures: attempts that did not.
        received_messages: messages received and queued.
        received_bytes: their topics and payloads.
        acknowledged_messages: QoS 1 messages whose acknowledgement was sent.
        stale_acknowledgements: acknowledgements not sent because their connection is gone or they were sent before.
        dropped_qos0_messages: QoS 0 messages dropped because the incoming queue was full.
        dropped_qos1_messages: QoS 1 messages dropped (and acknowledged) because the broker overran the receive window.
        discarded_messages: messages of a connection that broke before it was ready.
        published_messages: publishes that left (QoS 0) or were acknowledged as a success (QoS 1).
        published_bytes: bytes of their MQTT packets.
        no_subscriber_publishes: of these, with reason code 16.
        refused_publishes: publishes that the broker refused.
        failed_publishes: publishes with unknown fate: connection lost or time over.
        incoming_messages: messages in the incoming queue now.
        incoming_bytes: their topics and payloads.
        unacknowledged_messages: QoS 1 messages received on this connection and not yet acknowledged.
        outgoing_messages: publishes handed to the client and not yet done.
        outgoing_bytes: their packets.
        waiting_publishes: publishes that wait for room.
    """

    connected: bool
    generation: int
    connections: int
    connection_failures: int
    received_messages: int
    received_bytes: int
    acknowledged_messages: int
    stale_acknowledgements: int
    dropped_qos0_messages: int
    dropped_qos1_messages: int
    discarded_messages: int
    published_messages: int
    published_bytes: int
    no_subscriber_publishes: int
    refused_publishes: int
    failed_publishes: int
    incoming_messages: int
    incoming_bytes: int
    unacknowledged_messages: int
    outgoing_messages: int
    outgoing_bytes: int
    waiting_publishes: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has passed since the start of a bus, by family of the topic.

    Bytes are those of the MQTT packets: topic, properties and payload, without TLS and TCP.

    Attributes:
        sent_messages: publishes that left.
        sent_bytes: their packets.
        received_messages: messages that came and were queued.
        received_bytes: their packets, with the topic spelled out.
        reason_codes: MQTT 5 reason codes of the broker other than success, by ``puback``, ``connack`` or
            ``disconnect``.
    """

    sent_messages: Counter[str] = field(default_factory=Counter)
    sent_bytes: Counter[str] = field(default_factory=Counter)
    received_messages: Counter[str] = field(default_factory=Counter)
    received_bytes: Counter[str] = field(default_factory=Counter)
    reason_codes: Counter[tuple[str, str]] = field(default_factory=Counter)


class Bus(Protocol):
    """What a process needs of its connection; :class:`pipeline.bus.mqtt.MqttBus` is the one for MQTT 5."""

    @property
    def traffic(self) -> Traffic:
        """What has passed, live."""

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait until the connection is up and every subscription granted."""

    async def receive_batch(self, max_count: int = 256) -> list[Inbound | ConnectionChange]:
        """Wait for at least one event, then take up to ``max_count``, in order. Cancelling it loses nothing."""

    def acknowledge(self, inbound: Inbound) -> bool:
        """Release a QoS 1 message; each must be acknowledged, whatever became of it."""

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
        """Publish; QoS 0 returns when the packet is in the socket, QoS 1 when the broker has answered."""

    async def subscribe(self, subscription: Subscription, timeout_s: float = 10.0) -> None:
        """Add a subscription, kept across reconnects."""

    async def unsubscribe(self, topic_filter: str, timeout_s: float = 10.0) -> None:
        """Remove a subscription."""

    def statistics(self) -> BusStatistics:
        """Counters since the start, and the state of the buffers now."""
