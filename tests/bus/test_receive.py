"""Receiving: manual acknowledgement, the receive window, overflow, cancellation. Against a real Mosquitto."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from paho.mqtt.enums import MQTTErrorCode
from structlog.testing import capture_logs

from broker_config.launcher import LocalBroker, find_mosquitto
from pipeline.bus.base import ConnectionChange, Inbound, QueueLimits, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.bus.mqtt_link import MqttLink
from pipeline.config.broker_settings import BrokerSettings
from schemas.errors import StateError
from schemas.wire_cost import PUBACK_BYTES
from tests.bus.support import PUBACK, PUBLISH, WAIT_S, Relay, connected, drain_until, take, take_change
from tests.mosquitto import mosquitto_version

pytestmark = pytest.mark.broker


async def test_a_message_arrives_with_all_that_was_sent(broker_settings: BrokerSettings) -> None:
    async with connected(broker_settings, "a", "lb/#") as bus:
        await bus.publish(
            "lb/x", b"\x00\xff", qos=1, response_topic="lb/r", correlation_data=b"7", expiry_s=9, content_type="a/b"
        )
        await bus.publish("lb/y", b"")
        first, second = await take(bus, 2)
    assert (first.topic, first.payload, first.qos, first.retain) == ("lb/x", b"\x00\xff", 1, False)
    assert (first.response_topic, first.correlation_data, first.generation) == ("lb/r", b"7", 1)
    assert (second.topic, second.payload, second.qos) == ("lb/y", b"", 0)
    assert (second.response_topic, second.correlation_data, second.packet_id) == (None, None, 0)
    assert 0 < first.received_s <= second.received_s
    assert {type(first.payload), type(second.payload)} == {bytes}


async def test_acknowledgements_that_waited_for_one_another_leave_in_one_write(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Relay(broker) as relay,
        connected(relay.settings, "a", "t/#") as bus,
        connected(BrokerSettings(port=broker.port), "b") as publisher,
    ):
        for number in range(20):
            await publisher.publish(f"t/{number}", b"", qos=1)
        received = await take(bus, 20)
        link = bus._link
        assert link is not None
        writes: list[bytes | bytearray] = []
        send = link._client._sock_send

        def counted(data: bytes | bytearray) -> int:
            writes.append(data)
            return send(data)

        monkeypatch.setattr(link._client, "_sock_send", counted)
        for message in reversed(received):
            assert bus.acknowledge(message)
        await relay.until(lambda: len(relay.seen("up", PUBACK)) == 20)
        assert [packet.packet_id for packet in relay.seen("up", PUBACK)] == [entry.packet_id for entry in received]
        assert [len(data) for data in writes] == [20 * PUBACK_BYTES]
        assert bus.statistics().acknowledged_messages == 20


PACKETS = [
    ("t/x", b"", 0, False, None),
    ("t/x", b"\x00\xff" * 200, 1, False, None),
    ("t/" + "y" * 200, b"p" * 70_000, 1, False, None),
    ("t/gr\u00fcn", b"p", 0, True, None),
    ("t/kept", b"p", 1, True, None),
    ("t/x", b"p", 0, False, b"seen again"),
]


@pytest.mark.parametrize("library_alone", [False, True])
async def test_the_short_cut_reads_what_the_library_reads(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch, library_alone: bool
) -> None:
    """A message without properties is read by the link itself, any other by paho; nobody can tell which."""
    detours = 0
    short_cut = MqttLink._receive_plain

    def receive(link: MqttLink) -> MQTTErrorCode:
        nonlocal detours
        before = link._read_publish

        def read_publish() -> MQTTErrorCode:
            nonlocal detours
            detours += 1
            return before()

        monkeypatch.setattr(link, "_read_publish", read_publish)
        try:
            return link._read_publish() if library_alone else short_cut(link)
        finally:
            monkeypatch.setattr(link, "_read_publish", before)

    monkeypatch.setattr(MqttLink, "_receive_plain", receive)
    async with connected(broker_settings, "a") as bus:
        await bus.subscribe(Subscription("t/#", 1, retain_as_published=True))
        for topic, payload, qos, retain, correlation in PACKETS:
            await bus.publish(topic, payload, qos=1 if qos else 0, retain=retain, correlation_data=correlation)
        got = await take(bus, len(PACKETS))
        assert bus.statistics().unacknowledged_messages == 3
    assert [(m.topic, m.payload, m.qos, m.retain, m.correlation_data) for m in got] == PACKETS
    assert [m.packet_id > 0 for m in got] == [m.qos == 1 for m in got]
    assert detours == (len(PACKETS) if library_alone else 1)


async def test_unacknowledged_messages_close_the_window_and_none_is_lost(broker_settings: BrokerSettings) -> None:
    async with (
        connected(broker_settings, "slow", "t/+", receive_maximum=5) as slow,
        connected(broker_settings, "fast", "t/+") as fast,
    ):
        for number in range(50):
            await slow.publish("t/x", b"%d" % number, qos=1)
        everything = await take(fast, 50)
        # The fast subscriber has all 50, so the broker has dealt with them; the slow one was given its window.
        window = await take(slow, 5)
        assert slow.statistics().incoming_messages == 0
        assert slow.statistics().unacknowledged_messages == 5
        for message in window:
            assert slow.acknowledge(message)
        rest: list[Inbound] = []
        while len(rest) < 45:
            [message] = await take(slow, 1)
            slow.acknowledge(message)
            rest.append(message)
        statistics = slow.statistics()
    assert [m.payload for m in window + rest] == [m.payload for m in everything] == [b"%d" % n for n in range(50)]
    assert (statistics.received_messages, statistics.acknowledged_messages) == (50, 50)
    assert (statistics.unacknowledged_messages, statistics.dropped_qos1_messages) == (0, 0)


@pytest.mark.skipif(
    mosquitto_version(find_mosquitto()) < (2, 0, 13),
    reason="Mosquitto before 2.0.13 gives a whole new window for each acknowledgement (its issue 2306)",
)
async def test_each_acknowledgement_opens_exactly_one_place(
    broker: LocalBroker, broker_settings: BrokerSettings
) -> None:
    async with (
        Relay(broker) as relay,
        connected(relay.settings, "slow", "t/+", receive_maximum=5) as slow,
        connected(broker_settings, "other", "mark") as other,
    ):
        for number in range(20):
            await other.publish("t/x", b"%d" % number, qos=1)
        for acknowledged in range(1, 6):
            slow.acknowledge((await take(slow, 1))[0])
            await relay.until(partial(_counts, relay, acknowledged, 5 + acknowledged))
            await other.publish("mark", b"", qos=1)  # the broker has handled everything before this answer
            assert _counts(relay, acknowledged, 5 + acknowledged)


def _counts(relay: Relay, acknowledged: int, delivered: int) -> bool:
    return (len(relay.seen("up", PUBACK)), len(relay.seen("down", PUBLISH))) == (acknowledged, delivered)


async def test_acknowledgements_are_sent_in_the_order_of_arrival(broker: LocalBroker) -> None:
    async with Relay(broker) as relay, connected(relay.settings, "a", "t") as bus:
        for number in range(4):
            await bus.publish("t", b"%d" % number, qos=1)
        messages = await take(bus, 4)
        assert [bus.acknowledge(messages[n]) for n in (2, 1, 3, 3)] == [True, True, True, False]
        assert bus.statistics().acknowledged_messages == 0
        assert bus.acknowledge(messages[0])
        await relay.until(lambda: len(relay.seen("up", PUBACK)) == 4)
        assert [p.packet_id for p in relay.seen("up", PUBACK)] == [m.packet_id for m in messages]
        assert bus.statistics().stale_acknowledgements == 1


async def test_nothing_is_acknowledged_before_the_process_does(broker: LocalBroker) -> None:
    async with Relay(broker) as relay, connected(relay.settings, "a", "t") as bus:
        await bus.publish("t", b"", qos=1)
        [message] = await take(bus, 1)
        await bus.publish("elsewhere", b"", qos=1)  # a round trip, in which an automatic PUBACK would have passed
        assert relay.seen("up", PUBACK) == []
        bus.acknowledge(message)
        await relay.until(lambda: len(relay.seen("up", PUBACK)) == 1)


async def test_old_acknowledgements_are_never_sent_on_a_new_connection(broker: LocalBroker) -> None:
    async with Relay(broker) as relay, connected(relay.settings, "a", "t", session_expiry_s=60) as bus:
        await bus.publish("t", b"old", qos=1)
        [old] = await take(bus, 1)
        relay.cut()
        assert not (await take_change(bus)).connected
        assert bus.acknowledge(old) is False  # while disconnected
        change = await take_change(bus)
        assert (change.connected, change.session_resumed, change.generation > old.generation) == (True, True, True)
        [again] = await take(bus, 1)
        assert (again.payload, again.packet_id) == (b"old", old.packet_id)  # the trap: the old one names the new one
        assert bus.acknowledge(old) is False
        await bus.publish("elsewhere", b"", qos=1)
        assert relay.seen("up", PUBACK) == []
        assert bus.acknowledge(again) is True
        await relay.until(lambda: len(relay.seen("up", PUBACK)) == 1)
        assert bus.statistics().stale_acknowledgements == 2


async def test_messages_of_the_old_connection_stay_in_order_before_its_loss(broker: LocalBroker) -> None:
    async with Relay(broker) as relay, connected(relay.settings, "a", "t") as bus:
        for number in range(3):
            await bus.publish("t", b"%d" % number, qos=1)
        relay.cut()
        async with asyncio.timeout(WAIT_S):
            while bus.statistics().connections < 2:
                await bus.wait_connected(WAIT_S)
                await asyncio.sleep(0)
        await bus.publish("t", b"new", qos=1)
        events: list[Inbound | ConnectionChange] = []
        while len(events) < 6:
            events += await bus.receive_batch()
    shown = [e.payload if isinstance(e, Inbound) else e.connected for e in events]
    assert shown == [b"0", b"1", b"2", False, True, b"new"]


@pytest.mark.parametrize("ticks", range(5))
async def test_a_cancelled_receive_loses_nothing(broker_settings: BrokerSettings, ticks: int) -> None:
    got: list[Inbound] = []

    async with connected(broker_settings, "a", "t") as bus:

        async def receive() -> None:
            got.extend(event for event in await bus.receive_batch() if isinstance(event, Inbound))

        for number in range(20):
            reader = asyncio.create_task(receive())
            await bus.publish("t", b"%d" % number, qos=1)
            for _ in range(ticks):
                await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait({reader})
        while len(got) < 20:
            got += await take(bus, 1)
    assert [message.payload for message in got] == [b"%d" % number for number in range(20)]


async def test_a_flood_at_qos_0_is_cut_off_counted_and_spares_qos_1(broker_settings: BrokerSettings) -> None:
    limits = QueueLimits(incoming_messages=40)
    async with (
        connected(broker_settings, "a", "t/+", receive_maximum=10, queue_limits=limits) as bus,
        connected(broker_settings, "b", "t/mark") as other,
    ):
        with capture_logs() as said:
            for number in range(100):
                await other.publish("t/flood", b"%d" % number)
            for number in range(10):
                await other.publish("t/kept", b"%d" % number, qos=1)
            await other.publish("t/mark", b"", qos=1)
            await take(other, 1)
            async with asyncio.timeout(WAIT_S):
                while bus.statistics().unacknowledged_messages < 10:
                    await bus.publish("elsewhere", b"", qos=1)
        statistics = bus.statistics()
        assert (statistics.incoming_messages, statistics.dropped_qos0_messages) == (40, 70)
        assert statistics.dropped_qos1_messages == 0
        got = await take(bus, 40)
    # Of 70 two lines: the first and the tenth.
    assert [line["count"] for line in said if line.get("kind") == "incoming queue full/qos0"] == [1, 10]
    assert [m.payload for m in got if m.qos == 0] == [b"%d" % n for n in range(30)]
    assert [m.payload for m in got if m.qos == 1] == [b"%d" % n for n in range(10)]


async def test_qos_1_messages_that_do_not_fit_are_counted_and_hold_no_place(broker_settings: BrokerSettings) -> None:
    limits = QueueLimits(incoming_messages=100, incoming_bytes=2_400, packet_bytes=1_200)
    async with connected(broker_settings, "a", "t", receive_maximum=8, queue_limits=limits) as bus:
        for _ in range(8):
            await bus.publish("t", b"x" * 1_000, qos=1)
        statistics = bus.statistics()
        assert (statistics.incoming_messages, statistics.dropped_qos1_messages) == (2, 6)
        for message in await take(bus, 2):
            assert bus.acknowledge(message)
        assert bus.statistics().unacknowledged_messages == 0
        await bus.publish("t", b"the window is open", qos=1)
        assert (await take(bus, 1))[0].payload == b"the window is open"


async def test_a_broker_does_not_deliver_packets_above_the_limit(broker_settings: BrokerSettings) -> None:
    small = QueueLimits(packet_bytes=500)
    async with (
        connected(broker_settings, "small", "t", queue_limits=small) as bus,
        connected(broker_settings, "large") as other,
    ):
        await other.publish("t", b"x" * 1_000, qos=1)
        await other.publish("t", b"fits", qos=1)
        assert (await take(bus, 1))[0].payload == b"fits"


async def test_one_task_reads(broker_settings: BrokerSettings) -> None:
    async with connected(broker_settings, "a", "t") as bus:
        first = asyncio.create_task(bus.receive_batch())
        await asyncio.sleep(0)
        with pytest.raises(StateError):
            await bus.receive_batch()
        await bus.publish("t", b"")
        assert len(await first) == 1


async def test_retained_and_own_messages_can_be_left_out(broker_settings: BrokerSettings) -> None:
    async with connected(broker_settings, "a") as bus:
        await bus.publish("state/x", b"retained", qos=1, retain=True)
        await bus.subscribe(Subscription("state/+", 1, no_local=True, retained=False))
        await bus.publish("state/x", b"own", qos=1)
        await bus.subscribe(Subscription("mark", 1))
        await bus.publish("mark", b"", qos=1)
        assert await drain_until(bus, "mark") == []
        await bus.subscribe(Subscription("state/+", 1))
        [message] = await take(bus, 1)
        assert (message.payload, message.retain) == (b"retained", True)


async def test_a_queue_that_fills_again_and_again_is_told_at_the_tenfold_only() -> None:
    settings = BrokerSettings(host="127.0.0.1", port=1)
    bus = MqttBus(settings, client_id="a", receive_maximum=1, queue_limits=QueueLimits(incoming_messages=4))
    message = Inbound(
        topic="t/flood",
        payload=b"",
        qos=0,
        retain=False,
        response_topic=None,
        correlation_data=None,
        generation=0,
        packet_id=0,
        received_s=0.0,
    )
    with capture_logs() as lines:
        for _ in range(100):
            for _ in range(4):  # three fit
                bus._deliver(message)
            await bus.receive_batch()
    assert bus.statistics().dropped_qos0_messages == 100
    assert [line["count"] for line in lines] == [1, 10, 100]
