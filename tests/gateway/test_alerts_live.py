"""Alerts of a running gateway: stored, shown, sent, and taken over after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from latentbus.gateway import service
from pipeline.config.alert_rules import SiteProfiles
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.gateway_settings import GatewaySettings
from pipeline.health.process import DiskSpace
from pipeline.node import process_health
from schemas import topics, wire
from schemas.errors import ConfigError
from schemas.messages import Condition, SiteConfig
from tests.cli.stand_in import EDGE, WORKER, StandIn, standing_in
from tests.gateway.conftest import PATIENCE_S, WIDE, Web, gateway_of
from tests.gateway.test_api import publish, standing
from tests.gateway.test_notify import receiving
from tests.gateway.waiting import until

pytestmark = pytest.mark.broker
RULES: dict[str, Any] = {"rules": {"car": {"question": "car", "equals": "yes", "n": 2, "of": 3, "cooldown_s": 0}}}


async def alerts_of(web: Web) -> list[tuple[str, bool]]:
    return [(alert["rule"], alert["ended"] is None) for alert in (await web.get("/v1/alerts"))["alerts"]]


async def test_an_alert_is_seen_by_who_follows_and_in_the_list(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    async with receiving() as receiver, standing_in(broker_settings) as far, asyncio.timeout(PATIENCE_S):
        hook = {"house": {"url": f"http://127.0.0.1:{receiver.port}/"}}
        alerts = {**RULES, "webhooks": hook, "allow": ["127.0.0.1"]}
        async with gateway_of(broker_settings, state_dir=tmp_path, alerts=alerts) as web:
            await web.until_ready("gate")
            async with web.events() as events:
                await publish(far, standing(1), standing(2))
                began = await events.until("alert")
                assert (began["rule"], began["camera"], began["ended"]) == ("car", "gate", None)
                assert began["text"] == "gate: car yes"
                assert began["answer"]["payload_bytes"] == 41
            assert await alerts_of(web) == [("car", True)]
            await receiver.wait(1)
        async with gateway_of(broker_settings, state_dir=tmp_path, alerts=alerts) as web:
            await web.until_ready("gate")
            async with web.events() as events:
                assert [alert["id"] for alert in (await events.until("snapshot"))["alerts"]] == [began["id"]]
                await publish(far, standing(3), standing(4, "no"), standing(5, "no"))
                ended = await events.until("alert")
            assert (ended["id"], ended["ended"] is not None) == (began["id"], True)
            assert await alerts_of(web) == [("car", False)]
    assert len(receiver.requests) == 1, "nobody is told twice of one alert"


async def change(far: StandIn, status: Any, **given: Any) -> None:
    topic = topics.status_topic(status.kind, status.id)
    await far.bus.publish(topic, wire.encode(status.model_copy(update=given)), qos=1, retain=True)


async def test_a_site_that_is_gone_and_a_pool_without_workers(broker_settings: BrokerSettings) -> None:
    async with (
        standing_in(broker_settings) as far,
        gateway_of(broker_settings, alerts={"patience_s": 1}) as web,
        asyncio.timeout(PATIENCE_S),
    ):
        web.gateway.system.machine.patience_s = 0.05
        await web.until_ready("gate")
        async with web.events() as events:
            await change(far, WORKER, online=False)
            empty = await events.until("alert", lambda alert: alert["rule"] == "pool-empty")
            assert empty["text"].startswith("pool p has no worker. Start one with latentbus worker")
            assert (empty["subject"], empty["site"], empty["camera"]) == ("pool", "p", None)
            await change(far, WORKER)
            await events.until("alert", lambda alert: alert["id"] == empty["id"] and alert["ended"] is not None)
            await change(far, EDGE, online=False)
            offline = await events.until("alert", lambda alert: alert["rule"] == "site-offline")
            assert (offline["site"], offline["severity"]) == ("north", "critical")
            assert (await web.get("/v1/cameras/gate"))["online"] is False


async def test_what_a_site_says_of_itself_is_an_alert(broker_settings: BrokerSettings) -> None:
    stalled = Condition(kind="camera-stalled", about="gate")
    async with (
        standing_in(broker_settings) as far,
        gateway_of(broker_settings, alerts={"patience_s": 1}) as web,
        asyncio.timeout(PATIENCE_S),
    ):
        web.gateway.system.machine.patience_s = 0.05
        await web.until_ready("gate")
        async with web.events() as events:
            await change(far, EDGE, conditions=(stalled,))
            alert = await events.until("alert")
            assert (alert["rule"], alert["site"], alert["camera"]) == ("camera-stalled", "north", "gate")
            assert alert["text"].startswith("camera gate of site north shows no new frames. Look at its power")
            await change(far, EDGE)
            assert (await events.until("alert"))["ended"] is not None


async def test_a_system_alert_is_sent_with_what_to_do(
    broker_settings: BrokerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = {"state_dir": DiskSpace(1_000_000, 1_000_000_000)}
    monkeypatch.setattr(process_health, "_space_of", lambda _folders: full)
    async with receiving() as receiver, standing_in(broker_settings), asyncio.timeout(PATIENCE_S):
        hook = {"house": {"url": f"http://127.0.0.1:{receiver.port}/"}}
        alerts = {"patience_s": 600, "webhooks": hook, "allow": ["127.0.0.1"]}
        async with gateway_of(broker_settings, state_dir=tmp_path, alerts=alerts) as web:
            await web.until_ready("gate")
            async with web.events() as events:
                # The disk is full from the start: an alert from before the stream would not be among its events.
                web.gateway.system.machine.patience_s = 0.05
                alert = await events.until("alert", lambda alert: alert["rule"] == "disk-filling")
                assert (alert["subject"], alert["site"], alert["part"]) == ("gateway", "gateway", "state_dir")
                await receiver.wait(1)
            async with web.http.get("/metrics") as response:
                text = await response.text()
            assert 'latentbus_health_conditions{condition="disk-filling"} 1.0' in text
    assert "Free some room" in receiver.requests[0][2].decode()


async def test_a_token_of_one_camera_hears_of_no_system_alert(broker_settings: BrokerSettings) -> None:
    token = "a-token-of-gate-alone"
    tokens = {"ann": {"token": token, "cameras": ["yard"]}}
    async with (
        standing_in(broker_settings) as far,
        gateway_of(broker_settings, token=token, tokens=tokens, alerts=RULES) as web,
        asyncio.timeout(PATIENCE_S),
    ):
        await web.until_ready("yard")
        async with web.events() as events:
            await publish(far, standing(1), standing(2))
            await publish(far, standing(1, camera="yard"), standing(2, camera="yard"))
            assert (await events.until("alert"))["camera"] == "yard"
        assert await alerts_of(web) == [("car", True)]


async def test_a_profile_and_a_snooze_come_by_one_message_and_rules_are_read_again(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SETTLE_S", 0.0)
    sites = {"north": SiteProfiles({"home": frozenset()})}
    async with receiving() as receiver, standing_in(broker_settings) as far, asyncio.timeout(PATIENCE_S):
        hook = {"house": {"url": f"http://127.0.0.1:{receiver.port}/"}}
        alerts = {**RULES, "webhooks": hook, "allow": ["127.0.0.1"]}
        async with gateway_of(broker_settings, sites=sites, alerts=alerts) as web:
            await web.until_ready("gate")
            topic = topics.config_topic("north")
            async with web.events() as events:
                snooze = SiteConfig(site="north", snoozed_alerts={"car": "2099-01-01T00:00:00Z"})
                await far.bus.publish(topic, wire.encode(snooze), qos=1, retain=True)
                await until(lambda: "north" in web.gateway.client.fleet.configs)
                await publish(far, standing(1), standing(2))
                first = await events.until("alert")
                await far.bus.publish(topic, wire.encode(SiteConfig(site="north", profile="home")), qos=1, retain=True)
                ended = await events.until("alert")
                assert (ended["id"], ended["ended"] is not None) == (first["id"], True)
                await far.bus.publish(topic, b"", qos=1, retain=True)
                await until(lambda: not web.gateway.client.fleet.configs)
                await publish(far, standing(3), standing(4))
                assert (await events.until("alert"))["ended"] is None
                await receiver.wait(1)
                given = GatewaySettings.model_validate({"limits": WIDE, "alerts": {**alerts, "rules": {}}})
                with pytest.raises(ConfigError, match=r"gateway.port: takes effect after a restart"):
                    web.gateway.reconfigure(given, {})
                web.gateway.reconfigure(given.model_copy(update={"port": 0}), {})
                assert (await events.until("alert"))["ended"] is not None, "its rule is gone"
    assert len(receiver.requests) == 1, "nobody was told of the snoozed one"
