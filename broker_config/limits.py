"""Mosquitto's limits, each with its reason.

``mosquitto.conf`` and every private broker have the same ones; a test compares.
"""

from __future__ import annotations

from typing import Final

from schemas.limits import MAX_BINARY_BYTES, MAX_JSON_BYTES
from schemas.topics import MAX_TOPIC_BYTES

MAX_PACKET_BYTES: Final = 32_768
"""A client that sends more is disconnected. A third above the largest wire message, twice the largest one of a client,
so that a foreign client with a mistake meets a typed error before it meets a closed connection. Not more: Mosquitto's
bound of the bytes that wait for a client counts payloads alone, so user properties are bounded by this number and the
one of the messages: 139 MB for a client that reads nothing."""

MAX_CONNECTIONS: Final = 4_096
"""Connections to the listener."""

LIMITS: Final[dict[str, str]] = {
    "max_packet_size": str(MAX_PACKET_BYTES),
    # Un-acknowledged QoS 1 messages per client, each way; also the Receive Maximum that clients are told. The default
    # of 20 caps an edge at 20 opens a round trip. Workers bound their side with their own Receive Maximum.
    "max_inflight_messages": "256",
    # Waiting per client behind these, in messages and bytes. Beyond, Mosquitto drops silently; the edge opens a frame
    # again when its lease ends. Enough for a pool's burst of 4,000 opens of 1 to 4 KB, and a bound of 16 MB per slow
    # client.
    "max_queued_messages": "4000",
    "max_queued_bytes": "16777216",
    # Sessions of clients that never come back are forgotten after a day, with the messages queued for them.
    "persistent_client_expiration": "1d",
    # Connections, those that have shown no certificate yet included; each costs some 40 kB. The rule per address
    # (broker_config/firewall.py) keeps one address from taking them all.
    "max_connections": str(MAX_CONNECTIONS),
    # A client that is dead is noticed within 1.5 times this, whatever it asked for; settings allow as much.
    "max_keepalive": "3600",
    # Nothing here uses QoS 2, whose exchanges hold messages in the broker until the client goes on.
    "max_qos": "1",
    # Topics that a client may give a number, to save the bytes of their names: three for each of 20 cameras. Each may
    # hold as much memory as the largest packet.
    "max_topic_alias": "64",
    # A small answer must not wait for the acknowledgement of the packet before it.
    "set_tcp_nodelay": "true",
}
"""Options and values, as they stand in a configuration file."""

HEADROOM_BYTES: Final = 4_096
"""Headers and properties of the largest message: response topic, correlation data, whatever a client adds."""

if max(MAX_BINARY_BYTES, MAX_JSON_BYTES) + MAX_TOPIC_BYTES + HEADROOM_BYTES > MAX_PACKET_BYTES:
    raise AssertionError("the broker's packet limit leaves no room above the largest message of the wire schema")
