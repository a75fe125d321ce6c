"""What is ready together leaves in one segment and one TLS record, and topics by alias, towards a real Mosquitto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from broker_config.launcher import LocalBroker
from latentbus.bench.wire_counter import WireCounter
from pipeline.bus.base import Qos
from pipeline.bus.mqtt import MqttBus
from pipeline.bus.mqtt_socket import WRITE_BYTES
from pipeline.config.broker_settings import BrokerSettings, TlsSettings
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.node.containment import Containment
from pipeline.node.publisher import Publisher
from pipeline.protocol.departures import Departure, TrafficClass
from pipeline.protocol.edge_messages import always
from pipeline.protocol.ports import Delivery, Publish, Sent
from pipeline.protocol.topic_aliases import MAX_ALIASES, TopicAliases
from pipeline.protocol.uplink import Uplink
from schemas.errors import ConnectionLostError, StateError
from schemas.messages import Chunk
from schemas.types import FrameId
from schemas.wire_cost import TCP_IP_BYTES, publish_packet_bytes
from tests.bus.broker_files import certificates
from tests.bus.support import PUBLISH, Relay, connected, drain_until, take, take_change

pytestmark = pytest.mark.broker
CAMERAS = ("gate", "yard", "dock", "ramp")


@asynccontextmanager
async def counted(tmp_path: Path, *, tls: bool) -> AsyncIterator[tuple[WireCounter, BrokerSettings]]:
    """A broker, with TLS or without, behind a counter."""
    certificates(tmp_path, "server")
    lines = [f"cafile {tmp_path}/ca.crt", f"certfile {tmp_path}/server.crt", f"keyfile {tmp_path}/server.key"]
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(LocalBroker(listener_lines=lines if tls else ()))
        counter = await stack.enter_async_context(WireCounter(broker.host, broker.port))
        settings = BrokerSettings(host="127.0.0.1", port=counter.port)
        if tls:
            settings = settings.model_copy(update={"tls": TlsSettings(ca_file=tmp_path / "ca.crt")})
        yield counter, settings


def chunk(camera: str, size_bytes: int) -> Chunk:
    return Chunk(camera=camera, frame=FrameId(7, 1), attempt=1, start=0, stop=1, payload=bytes(size_bytes))


class Edge:
    """An uplink, with the publisher and the connection that an edge has behind it."""

    def __init__(self, bus: MqttBus, topic_aliases: int) -> None:
        self.uplink = Uplink(None)
        self.uplink.connection(True, topic_aliases)
        self.charged_bytes = 0
        log = get_logger(__name__)
        self.publisher = Publisher(bus, self._told, problems=OncePerKind(log), containment=Containment(log))
        self._told_all = asyncio.Event()
        self._under_way = 0
        self._now_s = 0.0

    async def send(self, qos: Qos, size_bytes: int) -> None:
        """A message of each camera leaves, all of them at one moment; waits until they are done."""
        self._now_s += 1.0
        self._told_all.clear()
        for camera in CAMERAS:
            message, topic = chunk(camera, size_bytes), f"lb/v2/chunk/a-worker/{camera}"
            departure = Departure(TrafficClass.REPORT, camera, "chunk", topic, always(message), qos=qos)
            self.uplink.put(departure, self._now_s)
        while self.uplink.send_next(self._now_s):
            pass
        for output in self.uplink.take_outputs():
            match output:
                case Publish():
                    self._under_way += 1
                    self.publisher.put(output)
                case Sent():
                    self.charged_bytes += output.wire_bytes
        await self._told_all.wait()

    def _told(self, token: int, delivery: Delivery) -> None:
        assert delivery.arrived
        self.uplink.published(token, delivery, self._now_s)
        self._under_way -= 1
        if not self._under_way:
            self._told_all.set()


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("aliases", [False, True])
async def test_four_cameras_share_a_segment_and_a_record_and_cost_what_is_charged(
    tmp_path: Path, qos: Qos, aliases: bool
) -> None:
    rounds = 6
    async with (
        counted(tmp_path, tls=True) as (counter, settings),
        connected(settings, "edge", topic_aliases=aliases) as bus,
    ):
        edge = Edge(bus, 64 if aliases else 0)
        task = asyncio.create_task(edge.publisher.run())
        await bus.publish("mark", b"", qos=1)  # whatever TLS says after its handshake is behind us
        before = counter.up
        for _ in range(rounds):
            await edge.send(qos, 120)
        await bus.publish("mark", b"", qos=1)
        mark = 1
        sent = counter.up - before
        assert sent.records == rounds + mark
        assert sent.segments < 2 * (rounds + mark)  # a busy kernel may send one twice
        mark_bytes = 22 + 52 + publish_packet_bytes("mark", 0, 1) + (3 if aliases else 0)
        assert edge.charged_bytes == sent.stream_bytes + (rounds + mark) * TCP_IP_BYTES - mark_bytes
        task.cancel()


async def test_it_is_the_same_without_tls(tmp_path: Path) -> None:
    async with counted(tmp_path, tls=False) as (counter, settings), connected(settings, "edge") as bus:
        before = counter.up
        await asyncio.gather(*(bus.publish("lb/x", bytes(200), qos=1) for _ in range(5)))
        sent = counter.up - before
        assert sent.segments < 5
        assert sent.stream_bytes == 5 * publish_packet_bytes("lb/x", 200, 1)


async def test_a_write_never_waits_for_company(tmp_path: Path) -> None:
    """One message leaves alone, and a second one that comes while it is under way does not wait for its answer."""
    async with counted(tmp_path, tls=True) as (counter, settings), connected(settings, "edge") as bus:
        await bus.publish("lb/x", b"", qos=1)
        before = counter.up
        await bus.publish("lb/x", bytes(100), qos=0)
        await bus.publish("lb/x", bytes(100), qos=1)
        assert (counter.up - before).records == 2


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("size_bytes", [0, 700, WRITE_BYTES - 30, 30_000])
async def test_everything_arrives_in_order_whatever_the_socket_takes_at_a_time(
    tmp_path: Path, tls: bool, size_bytes: int
) -> None:
    """More at once than a socket takes: each message arrives whole and once, in the order of its QoS."""
    count = 200
    async with (
        counted(tmp_path, tls=tls) as (_, settings),
        connected(settings, "reader", "t/#") as reader,
        connected(settings, "edge") as bus,
    ):
        reading = asyncio.create_task(drain_until(reader, "t/end"))
        bodies = [number.to_bytes(4, "big") + bytes(size_bytes) for number in range(count)]
        sending = [bus.publish("t/x", body, qos=1 if number % 3 else 0) for number, body in enumerate(bodies)]
        await asyncio.gather(*sending)
        await bus.publish("t/end", b"", qos=1)
        got = [message.payload for message in await reading]
        for is_first in (True, False):
            assert [body for body in got if (body[3] % 3 == 0) is is_first] == [
                body for body in bodies if (body[3] % 3 == 0) is is_first
            ]
        assert bus.statistics().published_messages == count + 1


async def test_aliases_carry_every_topic_and_are_defined_anew_after_a_reconnect() -> None:
    options = {"max_topic_alias": "3"}
    async with (
        LocalBroker(options=options) as broker,
        Relay(broker) as relay,
        connected(relay.settings, "reader", "t/#") as reader,
        connected(relay.settings, "edge", topic_aliases=True) as bus,
    ):
        topics = [f"t/camera-{number % 5}" for number in range(15)] + ["t/camera-1"] * 4

        async def play() -> None:
            for number, topic in enumerate(topics):
                await bus.publish(topic, b"%d" % number, qos=1 if number % 2 else 0)
            got = await take(reader, len(topics))
            for message in got:
                reader.acknowledge(message)
            assert [(message.topic, message.payload) for message in got] == [
                (topic, b"%d" % number) for number, topic in enumerate(topics)
            ]

        await play()
        short = [packet for packet in relay.seen("up", PUBLISH) if packet.body[:2] == b"\0\0"]
        assert len(short) >= 3
        before = len(relay.packets)
        relay.cut()
        await take_change(bus)
        await bus.wait_connected(30)
        assert (await take_change(bus)).topic_aliases == 3
        await reader.wait_connected(30)
        await play()
        first = next(packet for packet in relay.packets[before:] if (packet.direction, packet.kind) == ("up", PUBLISH))
        assert first.body[:2] != b"\0\0"


async def test_what_was_not_acknowledged_is_published_again_by_name() -> None:
    """The first connection dies with aliased publishes under way: whoever repeats them does so with topics."""
    async with (
        LocalBroker() as broker,
        Relay(broker) as relay,
        connected(relay.settings, "edge", topic_aliases=True) as bus,
    ):
        for _ in range(3):
            await bus.publish("t/x", b"a", qos=1)
        relay.drop = lambda packet: packet.kind == PUBLISH
        lost = asyncio.create_task(bus.publish("t/x", b"b", qos=1))
        await relay.until(lambda: len(relay.seen("up", PUBLISH)) == 4)
        relay.drop = lambda packet: False
        relay.cut()
        with pytest.raises(ConnectionLostError):
            await lost
        await take_change(bus)
        await bus.wait_connected(30)
        await bus.publish("t/x", b"b", qos=1)
        again = relay.seen("up", PUBLISH)[-1]
        assert again.body[2:5] == b"t/x"
        assert len(relay.seen("up", PUBLISH)) == 5  # nothing was sent again behind the process' back


@pytest.mark.parametrize("granted", ["0", "10"])
async def test_a_broker_may_grant_none_and_a_bus_may_want_none(granted: str) -> None:
    async with LocalBroker(options={"max_topic_alias": granted}) as broker, Relay(broker) as relay:
        wants = granted == "0"
        async with connected(relay.settings, "edge", topic_aliases=wants) as bus:
            for _ in range(4):
                await bus.publish("t/x", b"a", qos=1)
            assert {packet.body[2:5] for packet in relay.seen("up", PUBLISH)} == {b"t/x"}


async def test_a_publish_that_was_never_sent_defines_no_alias() -> None:
    async with (
        LocalBroker() as broker,
        connected(BrokerSettings(port=broker.port), "reader", "t/#") as reader,
        connected(BrokerSettings(port=broker.port), "edge", topic_aliases=True) as bus,
    ):
        for _ in range(3):
            with pytest.raises(StateError):
                await bus.publish("t/#", b"", qos=1)
        for number in range(4):
            await bus.publish("t/x", b"%d" % number, qos=1)
        assert [message.payload for message in await take(reader, 4)] == [b"0", b"1", b"2", b"3"]


async def test_published_bytes_are_those_on_the_wire() -> None:
    async with (
        LocalBroker() as broker,
        Relay(broker) as relay,
        connected(relay.settings, "edge", topic_aliases=True) as bus,
    ):
        for number in range(5):
            await bus.publish("t/some-topic", b"abc", qos=1, correlation_data=b"7" * number)
        sizes = [packet.size_bytes for packet in relay.seen("up", PUBLISH)]
        assert bus.statistics().published_bytes == sum(sizes)


def test_a_topic_that_is_published_once_takes_no_alias() -> None:
    aliases = TopicAliases(2)
    for number in range(50):
        assert aliases.spell(f"reply/{number}") == (f"reply/{number}", None)
    assert [aliases.spell("a") for _ in range(3)] == [("a", None), ("a", 1), ("", 1)]
    assert [aliases.spell("b") for _ in range(3)] == [("b", None), ("b", 2), ("", 2)]
    aliases.spell("a")
    assert [aliases.spell("c") for _ in range(2)] == [("c", None), ("c", 2)]  # b was published longest ago
    assert aliases.spell("a") == ("", 1)
    assert aliases.spell("b") == ("b", None)


def test_where_topics_take_turns_some_keep_their_aliases() -> None:
    aliases = TopicAliases(3)
    spelled = [aliases.spell(f"t/{number % 5}") for number in range(50)]
    assert sum(name == "" for name, _ in spelled) == 3 * 8
    assert len([alias for name, alias in spelled if name and alias is not None]) == 3


def test_aliases_are_bounded_whatever_a_broker_grants() -> None:
    aliases = TopicAliases(65_535)
    given = {aliases.spell(f"t/{number}")[1] for number in range(1_000) for _ in range(2)} - {None}
    assert given == set(range(1, MAX_ALIASES + 1))
