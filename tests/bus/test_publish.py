"""Publishing: reason codes, limits, and the one fate of each publish. Against a real Mosquitto."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker_config.launcher import LocalBroker
from pipeline.bus.base import PublishResult, QueueLimits
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from schemas.errors import (
    ConnectionLostError,
    NotAuthorizedError,
    OversizeError,
    PublishRefusedError,
    StateError,
)
from tests.bus.support import PUBACK, PUBLISH, Packet, Relay, connected, take, take_change

pytestmark = pytest.mark.broker


async def test_no_subscriber_is_told_and_hidden_by_any_wildcard(broker_settings: BrokerSettings) -> None:
    async with connected(broker_settings, "a") as bus:
        assert await bus.publish("lb/v1/open/main/gate", b"", qos=1) == PublishResult(no_subscribers=True)
        assert await bus.publish("lb/v1/open/main/gate", b"", qos=0) == PublishResult(no_subscribers=False)
        async with connected(broker_settings, "recorder", "lb/v1/#"):
            assert await bus.publish("lb/v1/open/main/gate", b"", qos=1) == PublishResult(no_subscribers=False)
        statistics = bus.statistics()
    assert (statistics.published_messages, statistics.no_subscriber_publishes) == (3, 1)


async def test_traffic_is_counted_by_kind_in_bytes_of_packets(broker: LocalBroker) -> None:
    async with Relay(broker) as relay, connected(relay.settings, "a", "lb/v2/#") as bus:
        await bus.publish("lb/v2/answer/gate", b"x" * 100, qos=1, content_type="a/b")
        await bus.publish("lb/v2/ask/gate/ann", b"y" * 50, qos=1, response_topic="r", correlation_data=b"cc")
        await bus.publish("other", b"", qos=1)
        await take(bus, 2)
        traffic = bus.traffic
        sent, came = relay.seen("up", PUBLISH), relay.seen("down", PUBLISH)
    assert traffic.sent_messages == {"answer": 1, "ask": 1, "topic": 1}
    assert [traffic.sent_bytes[kind] for kind in ("answer", "ask", "topic")] == [packet.size_bytes for packet in sent]
    assert traffic.received_messages == {"answer": 1, "ask": 1}
    assert traffic.received_bytes["ask"] == came[1].size_bytes
    assert traffic.reason_codes == {("puback", "16"): 1}


async def test_a_forbidden_topic_is_an_error(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite open/#\n")
    with LocalBroker(listener_lines=[f"acl_file {rules}"]) as broker:
        async with connected(BrokerSettings(port=broker.port), "a") as bus:
            with pytest.raises(NotAuthorizedError) as caught:
                await bus.publish("closed/x", b"", qos=1)
            assert (caught.value.topic, caught.value.reason_code) == ("closed/x", 135)
            await bus.publish("open/x", b"", qos=1)
            assert bus.statistics().refused_publishes == 1


async def test_a_refusal_for_another_reason_is_an_error(broker: LocalBroker) -> None:
    quota_exceeded = 151  # Mosquitto gives it for QoS 2 only, clusters give it

    def refuse(packet: Packet) -> bytes | None:
        return bytes([PUBACK << 4, 3]) + packet.body[:2] + bytes([quota_exceeded]) if packet.kind == PUBACK else None

    async with Relay(broker) as relay, connected(relay.settings, "a") as bus:
        relay.replace = refuse
        with pytest.raises(PublishRefusedError, match="Quota exceeded") as caught:
            await bus.publish("t", b"", qos=1)
        assert (caught.value.topic, caught.value.reason_code) == ("t", quota_exceeded)
        relay.replace = lambda packet: None
        await bus.publish("t", b"", qos=1)
        assert bus.statistics().generation == 1


async def test_oversize_is_refused_before_it_is_sent(broker: LocalBroker) -> None:
    limits = QueueLimits(packet_bytes=1_000)
    async with Relay(broker) as relay, connected(relay.settings, "a", queue_limits=limits) as bus:
        # 1 fixed header + 2 remaining length + 2 + 1 topic + 2 packet id + 1 property length = 9
        await bus.publish("t", b"x" * 991, qos=1)
        with pytest.raises(OversizeError) as caught:
            await bus.publish("t", b"x" * 992, qos=1)
        assert (caught.value.size_bytes, caught.value.limit_bytes) == (1_001, 1_000)
        [packet] = relay.seen("up", PUBLISH)
        assert packet.size_bytes == 1_000
        assert bus.statistics().connected


async def test_the_brokers_packet_limit_is_kept() -> None:
    with LocalBroker(options={"max_packet_size": "300"}) as broker:
        async with connected(BrokerSettings(port=broker.port), "a") as bus:
            with pytest.raises(OversizeError) as caught:
                await bus.publish("t", b"x" * 300)
            assert caught.value.limit_bytes == 300
            assert bus.statistics().generation == 1
            await bus.publish("t", b"x" * 200, qos=1)  # the same connection stands


async def test_a_lost_publish_is_reported_and_never_sent_again(
    broker: LocalBroker, broker_settings: BrokerSettings
) -> None:
    async with (
        Relay(broker) as relay,
        connected(relay.settings, "a", session_expiry_s=60) as bus,
        connected(broker_settings, "b", "t") as other,
    ):
        relay.drop = lambda packet: packet.kind == PUBACK
        publish = asyncio.create_task(bus.publish("t", b"once", qos=1))
        await relay.until(lambda: len(relay.seen("down", PUBACK)) == 1)
        relay.cut()
        with pytest.raises(ConnectionLostError, match="fate of this publish is unknown"):
            await publish
        relay.drop = lambda packet: False
        assert not (await take_change(bus)).connected
        assert (await take_change(bus)).session_resumed
        await bus.publish("t", b"mark", qos=1)
        assert [m.payload for m in await take(other, 2)] == [b"once", b"mark"]
        assert [p.flags & 8 for p in relay.seen("up", PUBLISH)] == [0, 0]  # no DUP
        assert bus.statistics().failed_publishes == 1


async def test_a_publish_without_an_answer_times_out_and_keeps_its_place(broker: LocalBroker) -> None:
    async with Relay(broker) as relay, connected(relay.settings, "a") as bus:
        relay.drop = lambda packet: packet.kind == PUBACK
        with pytest.raises(ConnectionLostError, match="its fate is unknown"):
            await bus.publish("t", b"", qos=1, timeout_s=0.05)
        statistics = bus.statistics()
        assert (statistics.outgoing_messages, statistics.failed_publishes) == (1, 1)
        assert statistics.connected


async def test_the_servers_receive_maximum_is_kept() -> None:
    with LocalBroker(options={"max_inflight_messages": "5"}) as broker:
        async with Relay(broker) as relay, connected(relay.settings, "a") as bus:
            acknowledged: list[Packet] = []

            def hold(packet: Packet) -> bool:
                if packet.kind == PUBACK:
                    acknowledged.append(packet)
                return packet.kind == PUBACK

            relay.drop = hold
            async with asyncio.TaskGroup() as group:
                publishes = [group.create_task(bus.publish("t", b"%d" % n, qos=1)) for n in range(20)]
                await relay.until(lambda: len(acknowledged) == 5)
                await bus.publish("t", b"QoS 0 has its own line")
                statistics = bus.statistics()
                assert (statistics.outgoing_messages, statistics.waiting_publishes) == (5, 15)
                await relay.until(lambda: len(relay.seen("up", PUBLISH)) == 6)
                for publish in publishes:
                    publish.cancel()
            assert len([p for p in relay.seen("up", PUBLISH) if p.flags & 6]) == 5


async def test_outgoing_bytes_are_bounded(broker: LocalBroker) -> None:
    limits = QueueLimits(outgoing_bytes=2_500, packet_bytes=1_200)
    async with Relay(broker) as relay, connected(relay.settings, "a", queue_limits=limits) as bus:
        relay.drop = lambda packet: packet.kind == PUBACK
        async with asyncio.TaskGroup() as group:
            publishes = [group.create_task(bus.publish("t", b"x" * 1_000, qos=1)) for _ in range(4)]
            await relay.until(lambda: len(relay.seen("up", PUBLISH)) == 2)
            statistics = bus.statistics()
            assert (statistics.outgoing_bytes, statistics.waiting_publishes) == (2_018, 2)
            for publish in publishes:
                publish.cancel()


async def test_many_publishers_at_once(broker_settings: BrokerSettings) -> None:
    async with connected(broker_settings, "a", "t/+") as bus:
        async with asyncio.TaskGroup() as group:
            for number in range(600):
                group.create_task(bus.publish(f"t/{number % 2}", b"%d" % number, qos=1))
            for _ in range(600):
                [message] = await take(bus, 1)
                bus.acknowledge(message)
        statistics = bus.statistics()
    assert (statistics.published_messages, statistics.received_messages) == (600, 600)
    assert (statistics.outgoing_messages, statistics.outgoing_bytes, statistics.waiting_publishes) == (0, 0, 0)


async def test_publishes_of_one_task_stay_in_order(broker_settings: BrokerSettings) -> None:
    async with connected(broker_settings, "a", "t") as bus:
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(bus.publish("t", b"%d" % number))
        assert [m.payload for m in await take(bus, 100)] == [b"%d" % n for n in range(100)]


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_an_expired_message_is_not_delivered(broker: LocalBroker) -> None:
    async with (
        Relay(broker) as relay,
        connected(relay.settings, "sleeper", "t", session_expiry_s=60) as sleeper,
        connected(BrokerSettings(port=broker.port), "a") as bus,
    ):
        relay.drop = lambda packet: True  # the sleeper cannot come back before the line is good again
        relay.cut()
        assert not (await take_change(sleeper)).connected
        await bus.publish("t", b"short", qos=1, expiry_s=1)
        await bus.publish("t", b"long", qos=1, expiry_s=60)
        await asyncio.sleep(2.1)  # the subject is the passing of whole seconds on the broker's clock
        relay.drop = lambda packet: False
        relay.cut()
        assert (await take_change(sleeper)).session_resumed
        assert [m.payload for m in await take(sleeper, 1)] == [b"long"]


async def test_without_a_connection_publishing_fails_at_once() -> None:
    with LocalBroker() as gone:
        port = gone.port
    async with MqttBus(BrokerSettings(port=port), client_id="a") as bus:
        with pytest.raises(ConnectionLostError, match=f"not connected to 127.0.0.1:{port}"):
            await bus.publish("t", b"")


@pytest.mark.parametrize("topic", ["lb/+/x", "lb/#", "t" * 65_536])
async def test_topics_that_nobody_can_publish_to_are_our_bug(broker_settings: BrokerSettings, topic: str) -> None:
    async with connected(broker_settings, "a") as bus:
        with pytest.raises(StateError):
            await bus.publish(topic, b"", qos=1)
        await bus.publish("t", b"", qos=1)
        assert bus.statistics().outgoing_messages == 0
