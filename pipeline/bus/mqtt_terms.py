"""What a connection is made of, and terms of the bus as paho and aiomqtt have them: properties, wills, reason codes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from pipeline.bus.base import BrokerAbilities, MqttProperties, Subscription, Will
from pipeline.bus.endings import told_by_broker
from schemas.errors import BusError, ConnectionLostError, NotAuthorizedError, PublishRefusedError

FIRST_ERROR_CODE = 128
"""MQTT 5 reason codes from here on are errors (MQTT 5.0 section 2.4)."""
NOT_AUTHORIZED_CODES = frozenset({134, 135})
"""Bad user name or password; not authorized."""
NO_SUBSCRIBERS_CODE = 16
MAX_PACKET_BYTES = 268_435_460
"""Largest MQTT packet, and the default of a server that names no Maximum Packet Size."""
_NO_PROPERTIES = MqttProperties()


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Everything that one connection needs.

    Attributes:
        host: name or address of the broker.
        port: its TCP port.
        client_id: MQTT client identifier.
        username: user name, if any.
        password: password, if any.
        tls_context: TLS, or None for plain TCP.
        keepalive_s: MQTT keep alive.
        will: last will, if any.
        receive_maximum: QoS 1 messages that the broker may have sent without an acknowledgement.
        outgoing_messages: publishes that may be under way, for QoS 0 and 1 each.
        outgoing_bytes: their packets, for QoS 0 and 1 each.
        packet_bytes: largest packet that the broker may send.
        clean_start: ask the broker to forget an older session.
        session_expiry_s: how long the broker keeps the session after the connection.
        timeout_s: longest wait for the TCP connection, the CONNACK and each SUBACK.
        all_properties: read every MQTT 5 property of what arrives.
        end_session: let the broker forget the session with a goodbye.
        topic_aliases: spell topics by alias where the broker grants it.
    """

    host: str
    port: int
    client_id: str
    username: str | None
    password: str | None
    tls_context: ssl.SSLContext | None
    keepalive_s: int
    will: Will | None
    receive_maximum: int
    outgoing_messages: int
    outgoing_bytes: int
    packet_bytes: int
    clean_start: bool
    session_expiry_s: int
    timeout_s: float
    all_properties: bool = False
    end_session: bool = False
    topic_aliases: bool = False


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call]


def publish_properties(values: MqttProperties) -> Properties | None:
    """Properties of a publish as the client library takes them, None when there are none."""
    named = {
        "PayloadFormatIndicator": values.payload_format,
        "MessageExpiryInterval": values.expiry_s,
        "ContentType": values.content_type,
        "ResponseTopic": values.response_topic,
        "CorrelationData": values.correlation_data,
        "UserProperty": list(values.user) or None,
    }
    given = {name: value for name, value in named.items() if value is not None}
    if not given:
        return None
    properties = _properties(PacketTypes.PUBLISH)
    for name, value in given.items():
        setattr(properties, name, value)
    return properties


def with_alias(properties: Properties | None, alias: int) -> Properties:
    """The properties of a publish, with a topic alias."""
    if properties is None:
        properties = _properties(PacketTypes.PUBLISH)
    properties.TopicAlias = alias
    return properties


def received_properties(properties: Properties | None) -> MqttProperties | None:
    """Properties of a message that arrived, None when there are none."""
    # The library's own ways to look at them cost as much as reading the packet.
    values: dict[str, Any] = {} if properties is None else vars(properties)
    found = MqttProperties(
        payload_format=values.get("PayloadFormatIndicator"),
        expiry_s=values.get("MessageExpiryInterval"),
        content_type=values.get("ContentType"),
        response_topic=values.get("ResponseTopic"),
        correlation_data=values.get("CorrelationData"),
        user=tuple((name, value) for name, value in values.get("UserProperty", ())),
    )
    return None if found == _NO_PROPERTIES else found


def abilities_of(properties: Properties | None) -> BrokerAbilities:
    """What the properties of a CONNACK say, with the defaults of the standard."""
    values: dict[str, Any] = {} if properties is None else vars(properties)
    return BrokerAbilities(
        receive_maximum=values.get("ReceiveMaximum", 65_535),
        maximum_qos=values.get("MaximumQoS", 2),
        retain=bool(values.get("RetainAvailable", 1)),
        packet_bytes=values.get("MaximumPacketSize"),
        topic_aliases=values.get("TopicAliasMaximum", 0),
        wildcards=bool(values.get("WildcardSubscriptionAvailable", 1)),
        shared_subscriptions=bool(values.get("SharedSubscriptionAvailable", 1)),
    )


def connect_properties(settings: LinkSettings) -> Properties:
    """Properties of a CONNECT packet."""
    properties = _properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = settings.receive_maximum
    properties.MaximumPacketSize = settings.packet_bytes
    if settings.session_expiry_s:
        properties.SessionExpiryInterval = settings.session_expiry_s
    return properties


def ending_session() -> Properties:
    """Properties of a DISCONNECT packet that ends the session."""
    properties = _properties(PacketTypes.DISCONNECT)
    properties.SessionExpiryInterval = 0
    return properties


def subscribe_options(entry: Subscription) -> SubscribeOptions:
    """Options of one subscription."""
    return SubscribeOptions(
        qos=entry.qos,
        noLocal=entry.no_local,
        retainAsPublished=entry.retain_as_published,
        retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
        if entry.retained
        else SubscribeOptions.RETAIN_DO_NOT_SEND,
    )


def will_of(will: Will | None) -> aiomqtt.Will | None:
    """A last will as aiomqtt takes it."""
    if will is None:
        return None
    properties = _properties(PacketTypes.WILLMESSAGE)
    if will.delay_s:
        properties.WillDelayInterval = will.delay_s
    if will.expiry_s is not None:
        properties.MessageExpiryInterval = will.expiry_s
    if will.correlation_data is not None:
        properties.CorrelationData = will.correlation_data
    return aiomqtt.Will(will.topic, will.payload, will.qos, will.retain, properties)


def refusal(topic: str, code: int, reason: str) -> NotAuthorizedError | PublishRefusedError:
    """The error for a reason code that is an error."""
    return NotAuthorizedError(topic, code) if code in NOT_AUTHORIZED_CODES else PublishRefusedError(topic, code, reason)


def refusal_of_publish(topic: str, code: int) -> NotAuthorizedError | PublishRefusedError:
    """The error for a PUBACK with an error code."""
    return refusal(topic, code, str(ReasonCode(PacketTypes.PUBACK, identifier=code)))


def connect_error(error: BaseException, client_id: str) -> BusError:
    """The error for a connection that the broker refused or that failed."""
    code = getattr(error, "rc", None)
    if not isinstance(code, ReasonCode):
        return ConnectionLostError(str(error))
    if code.value in NOT_AUTHORIZED_CODES:
        return NotAuthorizedError(f"the connection of client {client_id}", code.value)
    return told_by_broker("the broker refused the connection", code.value, str(code), client_id)
