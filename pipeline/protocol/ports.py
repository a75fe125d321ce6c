"""What crosses the border between a protocol machine and its shell: plain data, no callable, no future, no socket.

The shell gives :class:`Received` messages and the time to a machine and carries out what ``poll(now_s)`` returns, in
order. docs/shell-contract.md says what machines do, what they never do, and what every shell must do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from pipeline.protocol.effects import InferencePass, PassAnswer
from schemas import wire
from schemas.messages import Message, RejectReason
from schemas.topics import Topic
from schemas.trace_context import trace_properties
from schemas.types import FrameId

Qos = Literal[0, 1]
"""At most once and at least once. QoS 2 costs two more packets on the thin link and still needs idempotent
receivers."""


# ---- about the connection -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter to receive; kept across reconnects.

    Attributes:
        filter: MQTT topic filter, ``$share/{group}/...`` for a share of it.
        qos: highest QoS to receive with.
        no_local: do not receive what this client publishes itself; a protocol error on a share.
        retained: receive retained messages at subscription.
        retain_as_published: see the retain flag that the publisher set; else it says that a message was retained
            before the subscription.
    """

    filter: str
    qos: Qos = 0
    no_local: bool = False
    retained: bool = True
    retain_as_published: bool = False


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when this client vanishes without saying goodbye.

    Attributes:
        topic: status topic of the process.
        payload: its *offline* status. Carries the boot id: a will may arrive after the next birth of the same process.
        qos: QoS of that publish.
        retain: retain it, as the birth is.
        delay_s: time the broker waits for this client to come back first, in whole seconds. A broker ends the delay
            with the session, so it has an effect only with a session expiry at least as long.
        expiry_s: time after which the broker forgets it, in whole seconds; None never.
        correlation_data: the bus puts the number of the connection there, as decimal digits. A process that finds its
            last will retained knows by it that the broker remembers everything from before the end of that connection.
    """

    topic: str
    payload: bytes
    qos: Qos = 1
    retain: bool = True
    delay_s: int = 0
    expiry_s: int | None = None
    correlation_data: bytes | None = None


# ---- into a machine -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A publish as it came.

    Attributes:
        topic: topic name.
        payload: its bytes, not validated.
        retained: the broker had it before this process subscribed.
        response_topic: MQTT 5 ResponseTopic.
        correlation_data: MQTT 5 CorrelationData.
        token: the shell's name for a QoS 1 message; the machine gives it back once in an :class:`Acknowledge`. None for
            QoS 0.
        decoded: topic and message, where the shell has objects and no bytes (the simulator).
    """

    topic: str
    payload: bytes = field(default=b"", repr=False)
    retained: bool = False
    response_topic: str | None = None
    correlation_data: bytes | None = None
    token: int | None = None
    decoded: tuple[Topic, Message | None] | None = None

    def decode(self) -> tuple[Topic, Message | None]:
        """Topic and message, see :func:`schemas.wire.decode_publish`.

        Raises:
            RemoteError: it is none of ours.
        """
        return wire.decode_publish(self.topic, self.payload) if self.decoded is None else self.decoded


class Delivery(StrEnum):
    """What became of a :class:`Publish`."""

    DELIVERED = "delivered"
    """QoS 1: the broker has acknowledged it. QoS 0: the connection has taken it."""
    NO_SUBSCRIBERS = "no subscribers"
    """The broker has acknowledged it, and said that nobody subscribes (PUBACK reason 16)."""
    CONNECTION_LOST = "connection lost"
    """The connection broke before the broker's word; perhaps the broker has it all the same."""
    REFUSED = "refused"
    """The broker or the client library will not have it, however often it is tried."""

    @property
    def arrived(self) -> bool:
        """Whether the broker has it."""
        return self in (Delivery.DELIVERED, Delivery.NO_SUBSCRIBERS)


@dataclass(frozen=True, slots=True)
class PassFailure:
    """What became of a pass that has no answers; the others of its batch are not touched.

    Attributes:
        reason: BITSTREAM where its latents do not decode, MODEL where the model failed on them.
        problem: what was raised, in words.
    """

    reason: RejectReason
    problem: str


PassResult = Sequence[PassAnswer] | PassFailure
"""The answers of a pass, or why it has none."""


# ---- out of a machine -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish this now. The shell answers each one once with ``published(token, delivery, now_s)``.

    Attributes:
        topic: topic name.
        message: what it says; of a deletion, what was retained there.
        payload: its bytes; empty deletes what the broker retains.
        qos: MQTT quality of service.
        token: names this publish; no other one of the machine has it.
        label: kind of message, for counters and logs.
        retain: MQTT retain flag.
        response_topic: MQTT 5 ResponseTopic.
        correlation_data: MQTT 5 CorrelationData.
        expiry_s: MQTT 5 message expiry interval.
        content_type: MQTT 5 ContentType.
        user_properties: MQTT 5 user properties, names and values.
    """

    topic: str
    message: Message
    payload: bytes = field(repr=False)
    qos: Qos
    token: int
    label: str
    retain: bool = False
    response_topic: str | None = None
    correlation_data: bytes | None = None
    expiry_s: int | None = None
    content_type: str | None = None
    user_properties: tuple[tuple[str, str], ...] = ()

    def traced(self) -> Publish:
        """The same with the W3C Trace Context of its question."""
        return replace(self, user_properties=trace_properties(self.topic, self.message))


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Acknowledge received messages to the broker, all of them in one go.

    Attributes:
        tokens: as the shell gave them with the messages, in the order of arrival.
    """

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Leave a topic filter, for later connections as well. The shell answers once with ``unsubscribed(filter, now_s)``.

    The answer comes after what the broker sent before it knew, also when the broker has not answered in time.

    Attributes:
        filter: as it was subscribed to.
    """

    filter: str


@dataclass(frozen=True, slots=True)
class RunBatch:
    """Let the model answer these passes. The shell answers once with ``batch_done(token, results, now_s)``.

    Attributes:
        token: names this batch; no other one of the machine has it.
        passes: what to read and to answer, at least one.
    """

    token: int
    passes: tuple[InferencePass, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """Something leaves on the uplink: what observers count. Comes before its :class:`Publish`.

    Attributes:
        camera: camera that it is about, None for what concerns the process.
        label: kind of message; ``puback`` for acknowledgements.
        frame: frame that it is about.
        latent_bytes: coded latents in it.
        wire_bytes: bytes on the wire with all headers.
        at_s: when, on the machine's monotonic clock.
        traffic_class: line that it waited in, None when it left without waiting.
        waited_s: how long.
    """

    camera: str | None
    label: str
    frame: FrameId | None
    latent_bytes: int
    wire_bytes: int
    at_s: float
    traffic_class: str | None = None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A peer's message that the machine has accepted, for policies outside of it that learn from them.

    Attributes:
        topic: where it came.
        message: what it says.
    """

    topic: Topic
    message: Message


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a peer, an operator or a client did wrong: counted by kind, logged when it is new.

    Attributes:
        kind: for counters.
        text: what, where and the fix.
        about: what distinguishes it from others of its kind, for the log alone.
        error: the error, if it was one.
        logged: False where it is counted alone.
        context: fields of the log line.
    """

    kind: str
    text: str
    about: str = ""
    error: Exception | None = None
    logged: bool = True
    context: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the log.

    Attributes:
        level: how bad it is.
        event: what happened.
        context: fields of the line.
    """

    level: Literal["info", "warning", "error"]
    event: str
    context: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contained:
    """A bug of ours ended one message or frame: counted by kind, its first traceback is logged.

    Attributes:
        where: what was being done, for example ``receive/open``.
        error: what was raised.
    """

    where: str
    error: Exception
