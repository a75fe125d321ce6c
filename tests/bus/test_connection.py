"""Connecting, breaking and coming back. Against a real Mosquitto."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from pydantic import SecretStr

from broker_config.launcher import LocalBroker
from pipeline.bus.backoff import Backoff
from pipeline.bus.base import ConnectionChange, Subscription, Will
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings, TlsSettings
from pipeline.health.certificate import ends_s
from schemas.errors import ConfigError, ConnectionLostError, NotAuthorizedError, StateError
from tests.bus.broker_files import (
    PASSWORD,
    certificates,
    dynamic_security_file,
    dynamic_security_plugin,
    password_file,
)
from tests.bus.support import (
    CONNECT,
    DISCONNECT,
    FAST,
    PUBACK,
    SUBSCRIBE,
    WAIT_S,
    Packet,
    Relay,
    connected,
    connection_problem,
    drain_until,
    take,
    take_change,
)

pytestmark = pytest.mark.broker
PLUGIN = dynamic_security_plugin()
needs_plugin = pytest.mark.skipif(PLUGIN is None, reason="Mosquitto's dynamic-security plug-in is not installed")


async def test_connected_is_heard_before_retained_messages(broker_settings: BrokerSettings) -> None:
    async with connected(broker_settings, "a") as bus:
        await bus.publish("state/x", b"kept", qos=1, retain=True)
    async with MqttBus(broker_settings, client_id="b", subscriptions=[Subscription("state/+", 1)]) as bus:
        first, second = [(await bus.receive_batch(1))[0] for _ in range(2)]
    assert first == ConnectionChange(True, 1, "new session", session_resumed=False)
    assert not isinstance(second, ConnectionChange)
    assert (second.payload, second.retain) == (b"kept", True)


async def test_it_waits_for_a_broker_that_starts_later() -> None:
    with LocalBroker() as earlier:
        port = earlier.port
    async with MqttBus(BrokerSettings(port=port), client_id="a", backoff=FAST) as bus:
        problem = await connection_problem(bus)
        assert problem.startswith(f"no connection within 0.02 s to 127.0.0.1:{port}: ")
        assert "refused" in problem
        async with LocalBroker(port=port):
            await bus.wait_connected(WAIT_S)


async def test_after_a_broker_restart_every_subscription_is_made_again(broker: LocalBroker) -> None:
    settings = BrokerSettings(port=broker.port)
    async with connected(settings, "a", "first") as bus:
        await bus.subscribe(Subscription("second", 1))
        await bus.subscribe(Subscription("third", 1))
        await bus.unsubscribe("third")
        broker.kill()
        lost = await take_change(bus)
        assert (lost.connected, lost.generation, lost.reason) == (False, 1, "the connection broke")
        await bus.subscribe(Subscription("fourth", 1))  # while disconnected
        await asyncio.to_thread(broker.restart)
        back = await take_change(bus)
        assert (back.connected, back.session_resumed, back.generation > 1) == (True, False, True)
        for topic in ("first", "second", "third", "fourth"):
            await bus.publish(topic, b"", qos=1)
        assert [m.topic for m in await drain_until(bus, "fourth")] == ["first", "second"]
        assert bus.statistics().connections == 2


async def test_a_session_survives_a_restart_of_the_process(broker: LocalBroker) -> None:
    settings = BrokerSettings(port=broker.port)
    async with connected(settings, "other") as other:
        async with connected(settings, "a", "t", session_expiry_s=60, clean_start=False) as bus:
            await other.publish("t", b"unacknowledged", qos=1)
            await take(bus, 1)
        await other.publish("t", b"while away", qos=1)
        async with MqttBus(settings, client_id="a", session_expiry_s=60, clean_start=False) as bus:
            assert (await take_change(bus)).session_resumed
            assert [m.payload for m in await take(bus, 2)] == [b"unacknowledged", b"while away"]
        async with MqttBus(settings, client_id="a", session_expiry_s=60, clean_start=True) as bus:
            assert not (await take_change(bus)).session_resumed


async def test_the_will_is_published_when_a_client_vanishes_and_only_then(broker: LocalBroker) -> None:
    settings = BrokerSettings(port=broker.port)
    will = Will("lb/v1/status/worker/w-1", b'{"online":false,"boot":7}')
    async with connected(settings, "watcher", "lb/v1/status/#", "mark") as watcher, Relay(broker) as relay:
        async with connected(relay.settings, "w-1", will=will) as bus:
            await bus.publish(will.topic, b"online", qos=1, retain=True)
        await relay.until(lambda: len(relay.seen("up", DISCONNECT)) == 1)
        async with connected(relay.settings, "w-1", will=will) as bus:
            relay.cut()
            assert not (await take_change(bus)).connected
            assert [m.payload for m in await take(watcher, 2)] == [b"online", will.payload]


async def test_a_will_can_expire(broker: LocalBroker) -> None:
    settings = BrokerSettings(port=broker.port)
    watching = [Subscription("w", qos=1)]
    async with (
        MqttBus(settings, client_id="watcher", subscriptions=watching, all_properties=True) as watcher,
        Relay(broker) as relay,
    ):
        await watcher.wait_connected(WAIT_S)
        async with connected(relay.settings, "w-1", will=Will("w", b"offline", expiry_s=600)):
            relay.cut()
            (message,) = await take(watcher, 1)
    assert message.properties is not None
    assert message.properties.expiry_s is not None
    assert 590 < message.properties.expiry_s <= 600


async def test_a_retained_will_names_the_connection_that_ended(broker: LocalBroker) -> None:
    settings = BrokerSettings(port=broker.port)
    will = Will("status", b"offline")
    async with (
        connected(settings, "watcher", "status") as watcher,
        Relay(broker) as relay,
        connected(relay.settings, "a", "status", will=will) as bus,
    ):
        for generation in (b"1", b"2"):
            relay.cut()
            (published,) = await take(watcher, 1)
            assert published.correlation_data == generation
            assert not (await take_change(bus)).connected
            assert (await take_change(bus)).connected
            (retained,) = await take(bus, 1)
            assert (retained.retain, retained.payload, retained.correlation_data) == (True, b"offline", generation)


async def test_an_old_will_can_arrive_after_the_next_birth(broker: LocalBroker) -> None:
    """The reason for the boot id in a status: by arrival alone the dead process would win."""
    settings = BrokerSettings(port=broker.port)
    topic = "lb/v1/status/worker/w-1"
    # The client id has the boot id in it, or the broker would end the old connection at the new one's CONNECT.
    async with (
        connected(settings, "watcher", topic) as watcher,
        Relay(broker) as relay,
        connected(relay.settings, "w-1-boot-1", will=Will(topic, b"offline 1")),
        connected(settings, "w-1-boot-2", will=Will(topic, b"offline 2")) as second,
    ):
        await second.publish(topic, b"online 2", qos=1, retain=True)
        relay.drop = lambda packet: True
        relay.cut()
        assert [m.payload for m in await take(watcher, 2)] == [b"online 2", b"offline 1"]


async def test_a_delayed_will_is_not_published_if_the_client_is_back_in_time(broker: LocalBroker) -> None:
    settings = BrokerSettings(port=broker.port)
    will = Will("status", b"offline", delay_s=30)
    async with (
        connected(settings, "watcher", "status", "mark") as watcher,
        Relay(broker) as relay,
        connected(relay.settings, "a", will=will, session_expiry_s=60) as bus,
    ):
        relay.cut()
        assert not (await take_change(bus)).connected
        assert (await take_change(bus)).session_resumed
        await bus.publish("mark", b"", qos=1)
        assert await drain_until(watcher, "mark") == []


async def test_a_broker_killed_with_a_worker_keeps_its_online_status(tmp_path: Path) -> None:
    """The reason why a status may shorten a wait but never extend one."""
    topic = "lb/v1/status/worker/w-1"
    with LocalBroker(directory=tmp_path, persistent=True) as broker:
        settings = BrokerSettings(port=broker.port)
        with contextlib.suppress(ConnectionLostError):
            async with connected(settings, "w-1", will=Will(topic, b"offline")) as worker:
                await worker.publish(topic, b"online", qos=1, retain=True)
                os.kill(broker.pid, signal.SIGUSR1)  # save the database now, as the timer does
                await worker.publish("mark", b"", qos=1)
                async with asyncio.timeout(WAIT_S):
                    while not (tmp_path / "mosquitto.db").exists():
                        await worker.publish("mark", b"", qos=1)
                broker.kill()
                assert not (await take_change(worker)).connected
        await asyncio.to_thread(broker.restart)
        async with connected(settings, "watcher", topic) as watcher:
            assert [m.payload for m in await take(watcher, 1)] == [b"online"]


@pytest.mark.parametrize(
    "garbage",
    [b"\x30\x01\x00", b"\x30\x05\x00\x09t\x00x", b"\x32\x03\x00\x01t", b"\x30\xff\xff\xff\xff\xff", b"\xf0\x00"],
)
async def test_a_malformed_packet_ends_the_connection_and_nothing_more(broker: LocalBroker, garbage: bytes) -> None:
    async with Relay(broker) as relay, connected(relay.settings, "a", "t") as bus:
        relay.replace = lambda packet: garbage if packet.kind == PUBACK else None
        with pytest.raises(ConnectionLostError):
            await bus.publish("elsewhere", b"", qos=1, timeout_s=1.0)
        relay.replace = lambda packet: None
        relay.cut()  # a packet that announces more than it has is just waited for
        assert not (await take_change(bus)).connected
        assert (await take_change(bus)).connected
        await bus.publish("t", b"", qos=1)
        assert len(await take(bus, 1)) == 1


async def test_an_identity_that_the_broker_refuses_is_an_error(tmp_path: Path) -> None:
    passwords = password_file(tmp_path / "passwords", "edge-1")
    async with LocalBroker(anonymous=False, listener_lines=[f"password_file {passwords}"]) as broker:
        wrong = BrokerSettings(port=broker.port, username="edge-1", password=SecretStr("wrong"))
        async with MqttBus(wrong, client_id="a", backoff=FAST) as bus:
            with pytest.raises(NotAuthorizedError, match="the connection of client a"):
                await bus.wait_connected(WAIT_S)
        right = BrokerSettings(port=broker.port, username="edge-1", password=SecretStr(PASSWORD))
        async with connected(right, "a"):
            pass


@needs_plugin
async def test_a_refused_subscription_is_an_error(tmp_path: Path) -> None:
    file = dynamic_security_file(tmp_path / "roles.json", {"edge-1": [("subscribePattern", "open/#")]})
    lines = [f"plugin {PLUGIN}", f"plugin_opt_config_file {file}"]
    async with LocalBroker(anonymous=False, listener_lines=lines) as broker:
        settings = BrokerSettings(port=broker.port, username="edge-1", password=SecretStr(PASSWORD))
        subscriptions = [Subscription("open/x"), Subscription("closed/x")]
        async with MqttBus(settings, client_id="a", subscriptions=subscriptions, backoff=FAST) as bus:
            with pytest.raises(NotAuthorizedError) as caught:
                await bus.wait_connected(WAIT_S)
            assert (caught.value.topic, caught.value.reason_code) == ("closed/x", 135)
            assert not bus.statistics().connected  # a deaf worker must not look alive
        async with connected(settings, "a", "open/x") as bus:
            with pytest.raises(NotAuthorizedError):
                await bus.subscribe(Subscription("closed/x"))
            await bus.subscribe(Subscription("open/y"))
            broker.kill()
            assert not (await take_change(bus)).connected
            await asyncio.to_thread(broker.restart)
            assert (await take_change(bus)).connected  # what was refused is not asked for again


async def test_a_connection_that_breaks_before_it_is_ready_is_tried_again(broker: LocalBroker) -> None:
    settings = BrokerSettings(port=broker.port)
    async with connected(settings, "a") as publisher, Relay(broker) as relay:
        await publisher.publish("t", b"kept", qos=1, retain=True)
        cuts = 0

        def cut_at_subscribe(packet: Packet) -> bool:
            nonlocal cuts
            if packet.kind == SUBSCRIBE and packet.direction == "up" and cuts < 3:
                cuts += 1
                relay.cut()
                return True
            return False

        relay.drop = cut_at_subscribe
        async with connected(relay.settings, "b", "t") as bus:
            assert [m.payload for m in await take(bus, 1)] == [b"kept"]
            statistics = bus.statistics()
            assert (statistics.connections, statistics.connection_failures, statistics.generation) == (1, 3, 4)


async def test_a_server_that_hangs_up_is_noticed_at_once() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with MqttBus(BrokerSettings(port=port), client_id="a", backoff=FAST, connect_timeout_s=60) as bus:
            async with asyncio.timeout(WAIT_S):
                while bus.statistics().connection_failures < 3:
                    with contextlib.suppress(ConnectionLostError):
                        await bus.wait_connected(0.02)


async def test_a_server_that_never_answers_is_left_in_good_order() -> None:
    silent = asyncio.Event()
    gone = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        silent.set()
        with contextlib.suppress(OSError):
            while await reader.read(100):
                pass
        gone.set()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        settings = BrokerSettings(port=server.sockets[0].getsockname()[1])
        async with asyncio.timeout(WAIT_S):
            async with MqttBus(settings, client_id="a", connect_timeout_s=60):
                await silent.wait()
            await gone.wait()  # left while it waits for the CONNACK: the socket is closed
            gone.clear()
            async with MqttBus(settings, client_id="a", connect_timeout_s=0.05, backoff=FAST) as bus:
                assert "no CONNACK within 0.05 s" in await connection_problem(bus)
                await gone.wait()  # the time was over: the socket is closed


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_frozen_broker_is_noticed_by_keep_alive(broker: LocalBroker) -> None:
    # Settings allow 5 s and more, this test cannot wait so long.
    settings = BrokerSettings(port=broker.port).model_copy(update={"keepalive_s": 1})
    async with connected(settings, "a") as bus:
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            lost = await take_change(bus)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert (lost.connected, "keep alive" in lost.reason) == (False, True)
        assert (await take_change(bus)).connected


async def test_leaving_says_goodbye_and_ends_everything(broker: LocalBroker) -> None:
    before = asyncio.all_tasks()
    async with Relay(broker) as relay:
        async with connected(relay.settings, "a", "t") as bus:
            await bus.publish("t", b"last", qos=1)
            [message] = await take(bus, 1)
            await bus.publish("t", b"left in the queue")
            await relay.until(
                lambda: relay.packets[-1].body.endswith(b"queue") and relay.packets[-1].direction == "down"
            )
            await bus.publish("elsewhere", b"", qos=1)
        await relay.until(lambda: len(relay.seen("up", DISCONNECT)) == 1)
        assert bus.acknowledge(message) is False
        assert [m.payload for m in await take(bus, 1)] == [b"left in the queue"]
        assert not (await take_change(bus)).connected
        with pytest.raises(ConnectionLostError):
            await bus.receive_batch()
        with pytest.raises(ConnectionLostError):
            await bus.publish("t", b"")
        with pytest.raises(ConnectionLostError):
            await bus.wait_connected(1)
        with pytest.raises(StateError, match="entered once"):
            async with bus:
                pass
        assert len(relay.seen("up", CONNECT)) == 1
    assert asyncio.all_tasks() == before


async def test_a_bug_in_the_connection_task_is_not_swallowed(broker_settings: BrokerSettings) -> None:
    def fail(failures: int, draw: float) -> float:
        raise ZeroDivisionError("a bug")

    broken = MagicMock(spec=Backoff, delay_s=fail, stable_s=1.0)
    nowhere = broker_settings.model_copy(update={"port": 1})
    bus = MqttBus(nowhere, client_id="a", backoff=broken)
    await bus.__aenter__()
    with pytest.raises(ZeroDivisionError):
        await bus.receive_batch()
    with pytest.raises(ConnectionLostError):
        await bus.wait_connected(WAIT_S)
    with pytest.raises(ZeroDivisionError):
        await bus.__aexit__(None, None, None)


async def test_a_publish_under_way_ends_when_the_bus_is_left(broker: LocalBroker) -> None:
    async with Relay(broker) as relay:
        async with connected(relay.settings, "a") as bus:
            relay.drop = lambda packet: packet.direction == "down"
            publish = asyncio.create_task(bus.publish("t", b"", qos=1))
            await relay.until(lambda: len(relay.packets) > 2)
        with pytest.raises(ConnectionLostError):
            await publish


async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    certificates(tmp_path, "server", "edge-1")
    lines = [f"cafile {tmp_path}/ca.crt", f"certfile {tmp_path}/server.crt", f"keyfile {tmp_path}/server.key"]
    async with LocalBroker(
        listener_lines=[*lines, "require_certificate true"], options={"max_packet_size": "131072"}
    ) as broker:
        mutual = TlsSettings(
            ca_file=tmp_path / "ca.crt", cert_file=tmp_path / "edge-1.crt", key_file=tmp_path / "edge-1.key"
        )
        async with connected(BrokerSettings(port=broker.port, tls=mutual), "a", "t") as bus:
            await bus.publish("t", b"x" * 60_000, qos=1)  # several TLS records
            assert len((await take(bus, 1))[0].payload) == 60_000
            async with asyncio.TaskGroup() as group:  # many packets in one record: those wake no selector
                for number in range(300):
                    group.create_task(bus.publish("t", b"%d" % number))
            assert [m.payload for m in await take(bus, 300)] == [b"%d" % number for number in range(300)]
        async with MqttBus(BrokerSettings(port=broker.port, tls=mutual), client_id="b") as bus:
            change = await take_change(bus)
            assert change.certificate_end_s == ends_s((tmp_path / "server.crt").read_text())
        for tls, problem in [
            (TlsSettings(), "certificate verify failed"),
            (TlsSettings(ca_file=tmp_path / "ca.crt"), "(?i)certificate required|broke|eof"),
        ]:
            async with MqttBus(BrokerSettings(port=broker.port, tls=tls), client_id="a", backoff=FAST) as bus:
                assert re.search(problem, await connection_problem(bus))
        async with MqttBus(BrokerSettings(port=broker.port), client_id="a", backoff=FAST) as bus:
            assert "broke" in await connection_problem(bus)  # plain text to a TLS port


async def test_tls_files_that_cannot_be_loaded_are_named_at_once(tmp_path: Path) -> None:
    missing = BrokerSettings(tls=TlsSettings(ca_file=tmp_path / "ca.crt"))
    with pytest.raises(ConfigError, match=r"ca\.crt"):
        async with MqttBus(missing, client_id="a"):
            pass
    (tmp_path / "a.crt").write_text("no certificate")
    damaged = BrokerSettings(tls=TlsSettings(cert_file=tmp_path / "a.crt", key_file=tmp_path / "a.crt"))
    with pytest.raises(ConfigError, match=r"broker\.tls\.cert_file"):
        async with MqttBus(damaged, client_id="a"):
            pass


@pytest.mark.parametrize("receive_maximum", [0, 2_049])
def test_a_receive_window_that_the_queue_cannot_hold_is_refused(receive_maximum: int) -> None:
    with pytest.raises(ValueError, match="receive_maximum"):
        MqttBus(BrokerSettings(), client_id="a", receive_maximum=receive_maximum)
