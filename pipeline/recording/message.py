"""One MQTT message as a log keeps it: everything that the broker delivered, and when."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.bus.base import MqttProperties
from schemas.wire_cost import publish_property_bytes, publish_wire_bytes

__all__ = ["Gap", "LoggedMessage", "MqttProperties", "wire_bytes"]


@dataclass(frozen=True, slots=True)
class LoggedMessage:
    """One message of a log.

    Attributes:
        time_ns: when it was received, nanoseconds since 1970 on the recorder's wall clock, never decreasing in a log.
        topic: MQTT topic, or a topic below ``$local/`` for what never was on the broker.
        payload: its bytes, verbatim.
        qos: QoS of the delivery to the recorder.
        retain: retain flag as published.
        properties: MQTT 5 properties; None when it had none.
        sequence: running number within the log, from 0, modulo 2**32; gaps are messages that the recorder had to drop.
    """

    time_ns: int
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: MqttProperties | None = None
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """A place in a log where messages are, or may be, missing.

    Attributes:
        time_ns: when recording went on.
        first_sequence: sequence number of the first message that is missing.
        count: messages that were dropped; 0 when nobody can know, as after a lost connection.
        reason: why, in words.
    """

    time_ns: int
    first_sequence: int
    count: int
    reason: str


def wire_bytes(logged: LoggedMessage) -> int:
    """Bytes on the wire of a logged publish, charged as on a TLS connection.

    A log does not know how a message was encrypted; an edge charges its uplink in the same way. Nor does it know what
    left together and which topics had aliases: each message counts by itself, with its topic written out.
    """
    properties = logged.properties
    return publish_wire_bytes(
        logged.topic, len(logged.payload), logged.qos, property_bytes=_property_bytes(properties) if properties else 0
    )


def _property_bytes(properties: MqttProperties) -> int:
    # MQTT 5, section 3.3.2.3: the payload format takes two bytes, a user property five and its two strings.
    return (
        publish_property_bytes(
            response_topic=properties.response_topic,
            correlation_data=properties.correlation_data,
            expiry_s=properties.expiry_s,
            content_type=properties.content_type,
        )
        + (2 if properties.payload_format is not None else 0)
        + sum(5 + len(name.encode()) + len(value.encode()) for name, value in properties.user)
    )
