"""What a share group of Mosquitto does and does not do: the facts that the protocol is built on."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from broker_config.launcher import LocalBroker
from pipeline.bus.base import Subscription
from pipeline.config.broker_settings import BrokerSettings
from schemas.errors import NotAuthorizedError
from schemas.topics import open_topic, share_filter
from tests.bus.broker_files import PASSWORD, dynamic_security_file, dynamic_security_plugin
from tests.bus.support import Relay, connected, drain_until, take, take_change

# The subject is the broker, so one event loop is enough.
pytestmark = [pytest.mark.broker, pytest.mark.asyncio(loop_factories=["uvloop"])]
SHARE = share_filter("main")
TOPIC = open_topic("main", "gate")
PLUGIN = dynamic_security_plugin()


def numbers(count: int, start: int = 0, step: int = 1) -> list[bytes]:
    return [b"%d" % number for number in range(start, count, step)]


async def test_messages_are_dealt_in_turn_whatever_the_members_do(broker_settings: BrokerSettings) -> None:
    async with (
        connected(broker_settings, "idle", SHARE) as idle,
        connected(broker_settings, "busy", SHARE) as busy,
        connected(broker_settings, "edge") as edge,
    ):
        for number in range(10):
            await edge.publish(TOPIC, b"%d" % number, qos=1)
        shares = [[m.payload for m in await take(member, 5)] for member in (idle, busy)]
        assert sorted(shares) == [numbers(10, 0, 2), numbers(10, 1, 2)]
        # Nobody has acknowledged anything, and still both are dealt the next ones.
        for number in range(10, 14):
            await edge.publish(TOPIC, b"%d" % number, qos=1)
        for member in (idle, busy):
            assert len(await take(member, 2)) == 2


async def test_what_a_dead_member_had_not_acknowledged_is_lost(broker: LocalBroker) -> None:
    """So the edge owns the retry."""
    settings = BrokerSettings(port=broker.port)
    async with connected(settings, "survivor", SHARE, "mark") as survivor, connected(settings, "edge") as edge:
        async with Relay(broker) as relay, connected(relay.settings, "doomed", SHARE) as doomed:
            for number in range(6):
                await edge.publish(TOPIC, b"%d" % number, qos=1)
            dead = [m.payload for m in await take(doomed, 3)]
            relay.drop = lambda packet: True
            relay.cut()
            assert not (await take_change(doomed)).connected
        for number in range(6, 9):
            await edge.publish(TOPIC, b"%d" % number, qos=1)
        await edge.publish("mark", b"", qos=1)
        got = [m.payload for m in await drain_until(survivor, "mark")]
        assert sorted(dead + got) == numbers(9)
        assert set(got) >= set(numbers(9, 6))


async def test_a_sleeping_member_with_a_session_is_dealt_its_share(broker: LocalBroker) -> None:
    """So workers keep no session."""
    settings = BrokerSettings(port=broker.port)
    async with connected(settings, "awake", SHARE, "mark") as awake, connected(settings, "edge") as edge:
        async with connected(settings, "sleeper", SHARE, session_expiry_s=60):
            pass
        for number in range(6):
            await edge.publish(TOPIC, b"%d" % number, qos=1)
        await edge.publish("mark", b"", qos=1)
        seen = await drain_until(awake, "mark")
        assert len(seen) == 3
        async with connected(settings, "sleeper", SHARE, session_expiry_s=60, clean_start=False) as sleeper:
            kept = await take(sleeper, 3)
    assert sorted(m.payload for m in seen + kept) == numbers(6)


async def test_a_worker_that_leaves_is_dealt_nothing_more(broker: LocalBroker) -> None:
    settings = BrokerSettings(port=broker.port)
    async with connected(settings, "stays", SHARE) as stays, connected(settings, "edge") as edge:
        async with connected(settings, "drains", SHARE, "mark") as drains:
            await drains.unsubscribe(SHARE)
            for number in range(4):
                await edge.publish(TOPIC, b"%d" % number, qos=1)
            await edge.publish("mark", b"", qos=1)
            assert await drain_until(drains, "mark") == []
        assert [m.payload for m in await take(stays, 4)] == numbers(4)


async def test_overflow_is_silent() -> None:
    """A PUBACK proves nothing about processing."""
    options = {"max_inflight_messages": "10", "max_queued_messages": "50"}
    async with LocalBroker(options=options) as broker:
        settings = BrokerSettings(port=broker.port)
        async with (
            connected(settings, "stuck", SHARE, "mark", receive_maximum=10) as stuck,
            connected(settings, "edge") as edge,
        ):
            results = [await edge.publish(TOPIC, b"%d" % number, qos=1) for number in range(200)]
            assert not any(result.no_subscribers for result in results)
            assert edge.statistics().refused_publishes == 0
            window = await take(stuck, 10)
            for message in window:
                stuck.acknowledge(message)
            await stuck.publish("elsewhere", b"", qos=1)  # now the broker has room for the mark, behind what it kept
            await edge.publish("mark", b"", qos=1)
            kept = [m.payload for m in window + await drain_until(stuck, "mark")]
            assert kept[:10] == numbers(10)
            assert 50 <= len(kept) <= 61


async def test_an_access_file_does_not_protect_a_share_group(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text(
        f"user edge\ntopic write {TOPIC}\nuser worker\ntopic read {TOPIC}\nuser thief\ntopic read nothing\n"
    )
    async with LocalBroker(listener_lines=[f"acl_file {rules}"]) as broker:
        as_user = {name: BrokerSettings(port=broker.port, username=name) for name in ("edge", "worker", "thief")}
        async with (
            connected(as_user["worker"], "worker", SHARE) as worker,
            connected(as_user["thief"], "thief", SHARE) as thief,
            connected(as_user["edge"], "edge") as edge,
        ):
            for number in range(10):
                await edge.publish(TOPIC, b"%d" % number, qos=1)
            assert len(await take(worker, 5)) == 5
            await edge.publish(TOPIC, b"next", qos=1)
            # The thief may not read it, so its half is neither its own nor anybody's.
            assert thief.statistics().received_messages == 0
            assert worker.statistics().received_messages <= 6


@pytest.mark.skipif(PLUGIN is None, reason="Mosquitto's dynamic-security plug-in is not installed")
async def test_the_dynamic_security_plugin_protects_a_share_group(tmp_path: Path) -> None:
    roles = dynamic_security_file(
        tmp_path / "roles.json",
        {
            "edge": [("publishClientSend", TOPIC)],
            "worker": [("subscribePattern", SHARE)],
            "thief": [("subscribePattern", "lb/v1/answer/+")],
        },
    )
    lines = [f"plugin {PLUGIN}", f"plugin_opt_config_file {roles}"]
    async with LocalBroker(anonymous=False, listener_lines=lines) as broker:
        as_user = {
            name: BrokerSettings(port=broker.port, username=name, password=SecretStr(PASSWORD))
            for name in ("edge", "worker", "thief")
        }
        async with (
            connected(as_user["worker"], "worker", SHARE) as worker,
            connected(as_user["thief"], "thief", "lb/v1/answer/+") as thief,
            connected(as_user["edge"], "edge") as edge,
        ):
            with pytest.raises(NotAuthorizedError):
                await thief.subscribe(Subscription(SHARE, 1))
            with pytest.raises(NotAuthorizedError):
                await edge.publish(open_topic("main", "other-camera"), b"", qos=1)
            for number in range(10):
                await edge.publish(TOPIC, b"%d" % number, qos=1)
            assert [m.payload for m in await take(worker, 10)] == numbers(10)
