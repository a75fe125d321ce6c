"""How MQTT messages stand in an MCAP file; docs/recording.md has it in words.

A payload is a message of its channel, verbatim. QoS and retain flag are the channel's, so a generic viewer sees nothing
but topics and payloads. What MQTT has and MCAP has no place for stands in records on topics below ``$local/``.
"""

from __future__ import annotations

import base64
import binascii
import json
from enum import StrEnum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from pipeline.recording.message import Gap, MqttProperties
from schemas.errors import WireError
from schemas.export import JSON_SCHEMA_DIALECT, json_schema
from schemas.messages import BinaryMessage
from schemas.topics import ROUTES, Family, parse

PROFILE = "latentbus"
"""Profile in the header of the file: says that the rules of this module hold."""
FORMAT_VERSION = 1
"""A reader opens its own version and every older one."""
LOG_METADATA = "latentbus"
"""Name of the metadata record that describes the log: format version, software, start, filters, redaction."""
FINGERPRINT_METADATA = "fingerprints"
"""Name of the metadata record with the fingerprint of every process that was seen."""

LOCAL_ROOT = "$local/"
"""Topics below it never were on the broker; MQTT keeps ``$`` topics out of ``#``."""
PROPERTIES_TOPIC = f"{LOCAL_ROOT}mqtt/properties"
"""MQTT 5 properties of the message that follows, which has the same sequence number."""
GAP_TOPIC = f"{LOCAL_ROOT}recorder/gap"
"""Messages that the recorder had to drop."""
LATENT_ROOT = f"{LOCAL_ROOT}latent/"
"""Whole latents that an edge stored, one topic a camera."""
BOOKKEEPING_TOPICS = frozenset({PROPERTIES_TOPIC, GAP_TOPIC})
"""Topics that a reader understands itself and does not give out."""

SEQUENCE_MODULUS = 2**32
"""MCAP has 32 bits for a sequence number."""


class Compression(StrEnum):
    """Compression of the chunks."""

    LZ4 = "lz4"
    ZSTD = "zstd"
    NONE = "none"


class SchemaText(NamedTuple):
    """A schema record of MCAP."""

    name: str
    encoding: str
    data: bytes


class ChannelFormat(NamedTuple):
    """What a channel says about its messages; no schema for topics that are not ours."""

    message_encoding: str
    schema: SchemaText | None


def channel_format(topic: str) -> ChannelFormat:
    """How the payloads of a topic are encoded.

    Args:
        topic: any MQTT topic.
    """
    if topic.startswith(LOCAL_ROOT):
        return _local_format(topic)
    try:
        family = parse(topic).family
    except WireError:
        return ChannelFormat("", None)
    return _family_format(family)


def software_version() -> str:
    """Version of Latentbus that writes a log."""
    try:
        return version("latentbus")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+source"


def encode_properties(properties: MqttProperties) -> bytes:
    """Properties as the JSON of :data:`PROPERTIES_TOPIC`; those that were not given are left out."""
    values: dict[str, Any] = {
        "payload_format": properties.payload_format,
        "expiry_s": properties.expiry_s,
        "content_type": properties.content_type,
        "response_topic": properties.response_topic,
        "correlation_data": None
        if properties.correlation_data is None
        else base64.b64encode(properties.correlation_data).decode(),
        "user": [{"key": key, "value": value} for key, value in properties.user] or None,
    }
    return json.dumps({key: value for key, value in values.items() if value is not None}).encode()


def decode_properties(data: bytes) -> MqttProperties:
    """The properties in a record of :data:`PROPERTIES_TOPIC`.

    Raises:
        ValueError: it holds none.
    """
    try:
        values = json.loads(data)
        correlation = values.pop("correlation_data", None)
        user = values.pop("user", ())
        return MqttProperties(
            **values,
            correlation_data=None if correlation is None else base64.b64decode(correlation, validate=True),
            user=tuple((str(entry["key"]), str(entry["value"])) for entry in user),
        )
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
        raise ValueError(f"no MQTT properties: {error}") from None


def encode_gap(gap: Gap) -> bytes:
    """A gap as the JSON of :data:`GAP_TOPIC`; its time is the record's."""
    return json.dumps({"first_sequence": gap.first_sequence, "count": gap.count, "reason": gap.reason}).encode()


def decode_gap(time_ns: int, data: bytes) -> Gap:
    """The gap in a record of :data:`GAP_TOPIC`.

    Raises:
        ValueError: it holds none.
    """
    try:
        values = json.loads(data)
        return Gap(time_ns, int(values["first_sequence"]), int(values["count"]), str(values["reason"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"no gap: {error}") from None


@cache
def _family_format(family: Family) -> ChannelFormat:
    messages = ROUTES[family].messages
    schemas = [json_schema(message) for message in messages]
    if len(schemas) == 1:
        name, schema = messages[0].__name__, schemas[0]
    else:
        # Several messages share the topic; a viewer wants one schema a channel, with a type at its top.
        name = family.value
        schema = {"$schema": JSON_SCHEMA_DIALECT, "title": name, "type": schemas[0]["type"], "anyOf": schemas}
    encoding = "msgpack" if issubclass(messages[0], BinaryMessage) else "json"
    return ChannelFormat(encoding, SchemaText(f"latentbus.{name}", "jsonschema", json.dumps(schema).encode()))


@cache
def _local_format(topic: str) -> ChannelFormat:
    if topic == PROPERTIES_TOPIC:
        return ChannelFormat("json", _object_schema("latentbus.MqttProperties", _PROPERTIES_FIELDS))
    if topic == GAP_TOPIC:
        return ChannelFormat("json", _object_schema("latentbus.Gap", _GAP_FIELDS))
    return ChannelFormat("msgpack", None)


_GAP_FIELDS: dict[str, dict[str, Any]] = {
    "first_sequence": {"type": "integer", "description": "Sequence number of the first message that is missing."},
    "count": {"type": "integer", "description": "Messages dropped; 0 when nobody can know."},
    "reason": {"type": "string"},
}
_PROPERTIES_FIELDS: dict[str, dict[str, Any]] = {
    "payload_format": {"type": "integer", "description": "1: the payload is UTF-8."},
    "expiry_s": {"type": "integer", "description": "Message expiry interval left on delivery, in seconds."},
    "content_type": {"type": "string"},
    "response_topic": {"type": "string"},
    "correlation_data": {"type": "string", "contentEncoding": "base64"},
    "user": {
        "type": "array",
        "items": {"type": "object", "properties": {"key": {"type": "string"}, "value": {"type": "string"}}},
    },
}


def _object_schema(name: str, fields: dict[str, dict[str, Any]]) -> SchemaText:
    schema = {"$schema": JSON_SCHEMA_DIALECT, "title": name, "type": "object", "properties": fields}
    return SchemaText(name, "jsonschema", json.dumps(schema).encode())
