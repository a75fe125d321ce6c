"""Bytes that MQTT 5 messages cost on a warm connection, headers of every layer counted.

On a 64 kbps uplink the headers of a small publish weigh as much as its payload, so whoever plans or charges the uplink
counts these. What is counted: the MQTT packet (exact, MQTT 5.0 section 3.3), one TLS 1.3 record and one TCP segment
around each started kilobyte and a half, over IPv4. Not counted, because it is not the sender's or depends on the link:
the peer's bare TCP acknowledgements, link-layer framing, retransmissions, the TLS and MQTT handshakes, pings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

TCP_IP_BYTES: Final = 52
"""IPv4 header 20, TCP header 20, TCP time stamps 12 (on by default in Linux). IPv6 adds 20."""

TLS_RECORD_BYTES: Final = 22
"""TLS 1.3: record header 5, content type 1, AEAD tag 16 (RFC 8446 section 5.2)."""

TCP_SEGMENT_PAYLOAD_BYTES: Final = 1_448
"""Ethernet's MTU of 1,500 less :data:`TCP_IP_BYTES`."""

TLS_RECORD_PAYLOAD_BYTES: Final = 16_384
"""Largest plaintext of a record (RFC 8446 section 5.1)."""

PUBACK_BYTES: Final = 4
"""Fixed header 2, packet identifier 2; reason code 0 is left out (MQTT 5.0 section 3.4.2.1)."""

TOPIC_ALIAS_BYTES: Final = 3
"""Property of a publish: identifier 1, value 2 (MQTT 5.0 section 3.3.2.3.4)."""

_MAX_REMAINING_LENGTH: Final = 268_435_455


def variable_byte_integer_bytes(value: int) -> int:
    """Bytes of a variable byte integer (MQTT 5.0 section 1.5.5).

    Raises:
        ValueError: it has no encoding.
    """
    if not 0 <= value <= _MAX_REMAINING_LENGTH:
        raise ValueError(f"{value} is no variable byte integer (0 to {_MAX_REMAINING_LENGTH})")
    return 1 if value < 128 else 2 if value < 16_384 else 3 if value < 2_097_152 else 4


def publish_property_bytes(
    *,
    response_topic: str | None = None,
    correlation_data: bytes | None = None,
    expiry_s: int | None = None,
    content_type: str | None = None,
    payload_format: int | None = None,
    user_properties: Sequence[tuple[str, str]] = (),
    topic_alias: int | None = None,
) -> int:
    """Bytes of a publish's properties, their length field not counted (MQTT 5.0 section 3.3.2.3)."""
    size_bytes = 0
    if expiry_s is not None:
        size_bytes += 1 + 4
    if response_topic is not None:
        size_bytes += 1 + 2 + len(response_topic.encode())
    if correlation_data is not None:
        size_bytes += 1 + 2 + len(correlation_data)
    if content_type is not None:
        size_bytes += 1 + 2 + len(content_type.encode())
    if payload_format is not None:
        size_bytes += 1 + 1
    for name, value in user_properties:
        size_bytes += 1 + 2 + len(name.encode()) + 2 + len(value.encode())
    if topic_alias is not None:
        size_bytes += TOPIC_ALIAS_BYTES
    return size_bytes


def publish_packet_bytes(topic: str, payload_bytes: int, qos: int, *, property_bytes: int = 0) -> int:
    """Exact size of an MQTT 5 PUBLISH packet.

    Args:
        topic: topic name as it is spelled; empty where an alias stands for it.
        payload_bytes: size of the payload.
        qos: 0, or 1 with a packet identifier.
        property_bytes: see :func:`publish_property_bytes`.
    """
    variable_header_bytes = 2 + len(topic.encode()) + (2 if qos else 0)
    remaining_bytes = (
        variable_header_bytes + variable_byte_integer_bytes(property_bytes) + property_bytes + payload_bytes
    )
    return 1 + variable_byte_integer_bytes(remaining_bytes) + remaining_bytes


def transport_wire_bytes(packet_bytes: int, *, tls: bool = True) -> int:
    """Bytes on the wire of what is written in one go: one MQTT packet or several, which share records and segments."""
    records = -(-packet_bytes // TLS_RECORD_PAYLOAD_BYTES) if tls else 0
    stream_bytes = packet_bytes + records * TLS_RECORD_BYTES
    segments = -(-stream_bytes // TCP_SEGMENT_PAYLOAD_BYTES)
    return stream_bytes + segments * TCP_IP_BYTES


def publish_wire_bytes(topic: str, payload_bytes: int, qos: int, *, tls: bool = True, property_bytes: int = 0) -> int:
    """Bytes on the wire of one publish that leaves alone, in the direction of the publish.

    Args:
        topic: topic name.
        payload_bytes: size of the payload.
        qos: 0 or 1.
        tls: the connection is encrypted.
        property_bytes: see :func:`publish_property_bytes`.
    """
    return transport_wire_bytes(publish_packet_bytes(topic, payload_bytes, qos, property_bytes=property_bytes), tls=tls)


def known_topic_wire_bytes(payload_bytes: int, qos: int, *, tls: bool = True) -> int:
    """Bytes on the wire of one publish whose topic the broker knows by an alias, as it does from the third one on.

    Args:
        payload_bytes: size of the payload.
        qos: 0 or 1.
        tls: the connection is encrypted.
    """
    return publish_wire_bytes("", payload_bytes, qos, tls=tls, property_bytes=TOPIC_ALIAS_BYTES)


def puback_wire_bytes(tls: bool = True) -> int:
    """Bytes on the wire of one PUBACK; flows against the publish that it acknowledges."""
    return transport_wire_bytes(PUBACK_BYTES, tls=tls)


def refine_overhead_wire_bytes(
    control_topic: str, control_payload_bytes: int, chunk_header_bytes: int, *, tls: bool = True
) -> int:
    """Bytes that one refinement costs the uplink beyond the latents it brings, request and chunk at QoS 0.

    Asking for more is worth it only when the latents saved on other frames weigh more than this. A shared radio link
    carries both directions, so the request counts as well; each segment also draws one bare TCP acknowledgement from
    its receiver.

    Args:
        control_topic: topic of the refine request.
        control_payload_bytes: size of the request.
        chunk_header_bytes: bytes of the chunk message that are no latents; its topic is known by an alias.
        tls: the connection is encrypted.
    """
    return (
        publish_wire_bytes(control_topic, control_payload_bytes, 0, tls=tls)
        + known_topic_wire_bytes(chunk_header_bytes, 0, tls=tls)
        + 2 * TCP_IP_BYTES
    )
