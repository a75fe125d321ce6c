"""Every MQTT 5 property and the retain flag, for whoever must repeat a message exactly."""

from __future__ import annotations

import pytest

from pipeline.bus.base import MqttProperties, Subscription
from pipeline.config.broker_settings import BrokerSettings
from tests.bus.support import WAIT_S, connected, take

PROPERTIES = MqttProperties(
    payload_format=1,
    expiry_s=3600,
    content_type="text/plain; charset=utf-8",
    response_topic="lb/v1/reply/desk/q1",
    correlation_data=b"\x00\xff",
    user=(("traceparent", "00-é"), ("a", ""), ("a", "again")),
)


async def test_every_property_arrives_as_it_was_published(broker_settings: BrokerSettings) -> None:
    async with (
        connected(broker_settings, "reader", "t/#", all_properties=True) as reader,
        connected(broker_settings, "writer") as writer,
    ):
        await writer.publish(
            "t/all",
            "grün".encode(),
            qos=1,
            payload_format=PROPERTIES.payload_format,
            expiry_s=PROPERTIES.expiry_s,
            content_type=PROPERTIES.content_type,
            response_topic=PROPERTIES.response_topic,
            correlation_data=PROPERTIES.correlation_data,
            user_properties=PROPERTIES.user,
        )
        await writer.publish("t/none", b"", qos=1)
        full, bare = await take(reader, 2)

    assert full.properties == PROPERTIES
    assert bare.properties is None


async def test_a_bus_that_did_not_ask_for_properties_gets_those_of_requests_only(
    broker_settings: BrokerSettings,
) -> None:
    async with (
        connected(broker_settings, "reader", "t/#") as reader,
        connected(broker_settings, "writer") as writer,
    ):
        await writer.publish("t/a", b"", qos=1, response_topic="t/reply", user_properties=[("a", "b")])
        [message] = await take(reader, 1)

    assert message.properties is None
    assert message.response_topic == "t/reply"


@pytest.mark.parametrize("as_published", [True, False])
async def test_the_retain_flag_is_the_publishers_when_asked_for(
    broker_settings: BrokerSettings, as_published: bool
) -> None:
    async with connected(broker_settings, "writer") as writer, connected(broker_settings, "reader") as reader:
        await reader.subscribe(Subscription("t/#", 1, retain_as_published=as_published), WAIT_S)
        await writer.publish("t/kept", b"1", qos=1, retain=True)
        await writer.publish("t/passing", b"2", qos=1)
        kept, passing = await take(reader, 2)

    assert (kept.retain, passing.retain) == (as_published, False)
