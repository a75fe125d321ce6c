"""The doctor at a real broker: open, with rules, and not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from broker_config.devices import Device, DeviceKind
from broker_config.launcher import LocalBroker
from edge_nodes.check.findings import Finding, Verdict
from latentbus.cli import app
from latentbus.doctor.broker import BrokerFindings, check_broker
from latentbus.doctor.tls import check_tls
from pipeline.config.broker_settings import BrokerSettings, TlsSettings
from tests.bus.broker_files import (
    PASSWORD,
    certificates,
    dynamic_security_file,
    dynamic_security_plugin,
)
from tests.cli.stand_in import EDGE, WORKER, standing_in

pytestmark = pytest.mark.broker
PLUGIN = dynamic_security_plugin()
NORTH = Device(name="north", kind=DeviceKind.EDGE, pool="p", cameras=("gate",))


def by_name(result: BrokerFindings) -> dict[str, Finding]:
    return {finding.what: finding for finding in result.findings}


async def test_an_open_broker_on_this_machine(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings, EDGE, WORKER):
        result = await check_broker(broker_settings, NORTH, "doctor-1")
    found = by_name(result)
    assert result.connected
    assert list(found) == ["broker", "version", "abilities", "topics", "strangers"]
    assert str(found["version"].figures["version"]).startswith("mosquitto ")
    assert found["abilities"].verdict in (Verdict.GOOD, Verdict.TIGHT)
    assert found["topics"].verdict is Verdict.GOOD
    assert found["strangers"].found.startswith("everybody gets in, from this machine")
    assert {(status.kind, status.id) for status in result.statuses} == {("edge", "north"), ("worker", "w1")}


async def test_a_worker_takes_no_seat_in_the_share_group(broker_settings: BrokerSettings) -> None:
    result = await check_broker(broker_settings, Device(name="w9", kind=DeviceKind.WORKER, pool="p"), "doctor-1")
    assert "the share group is not tried" in by_name(result)["topics"].found


async def test_a_broker_that_is_not_there_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbus.doctor.broker.LIMIT_S", 0.5)
    result = await check_broker(BrokerSettings(port=1), NORTH, "doctor-1")
    [finding] = result.findings
    assert (finding.verdict, result.connected) == (Verdict.BAD, False)
    assert "127.0.0.1:1" in finding.found


@pytest.mark.skipif(PLUGIN is None, reason="Mosquitto's dynamic-security plug-in is not installed")
async def test_topics_that_are_refused_are_named(tmp_path: Path) -> None:
    rules = dynamic_security_file(
        tmp_path / "rules.json",
        {"north": [("subscribePattern", "lb/v2/control/gate"), ("subscribePattern", "$SYS/#")]},
    )
    lines = [f"plugin {PLUGIN}", f"plugin_opt_config_file {rules}"]
    async with LocalBroker(anonymous=False, listener_lines=lines) as broker:
        settings = BrokerSettings(port=broker.port, username="north", password=SecretStr(PASSWORD))
        found = by_name(await check_broker(settings, NORTH, "doctor-1"))
        stranger = await check_broker(BrokerSettings(port=broker.port), NORTH, "doctor-2")
    topics = found["topics"]
    assert topics.verdict is Verdict.BAD
    refused = topics.figures["refused"]
    assert "read lb/v2/answer/gate" in refused
    assert "read lb/v2/control/gate" not in refused
    assert any(entry.startswith("publish lb/v2/receipt/doctor-1/north/") for entry in refused)
    assert found["strangers"].found == "nobody without an identity gets in"
    [refusal] = stranger.findings
    assert refusal.verdict is Verdict.BAD


async def test_both_certificates_are_looked_at(tmp_path: Path) -> None:
    certificates(tmp_path, "server", "north")
    lines = [
        f"cafile {tmp_path / 'ca.crt'}",
        f"certfile {tmp_path / 'server.crt'}",
        f"keyfile {tmp_path / 'server.key'}",
        "require_certificate true",
    ]
    tls = TlsSettings(ca_file=tmp_path / "ca.crt", cert_file=tmp_path / "north.crt", key_file=tmp_path / "north.key")
    async with LocalBroker(listener_lines=lines) as broker:
        findings = await check_tls(BrokerSettings(port=broker.port, tls=tls))
        other = TlsSettings(ca_file=None)
        [refused] = await check_tls(BrokerSettings(port=broker.port, tls=other))
    assert [(finding.what, finding.verdict) for finding in findings] == [
        ("tls", Verdict.WARN),
        ("certificate", Verdict.WARN),
    ]
    assert findings[0].found.startswith("TLSv1.")
    assert refused.verdict is Verdict.BAD


async def test_no_tls_is_said_where_it_matters() -> None:
    [local] = await check_tls(BrokerSettings())
    [far] = await check_tls(BrokerSettings(host="broker.example"))
    assert (local.verdict, far.verdict) == (Verdict.GOOD, Verdict.WARN)


def test_the_command(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    where = ["-H", broker_settings.host, "-p", str(broker_settings.port)]
    result = CliRunner().invoke(app, ["doctor", *where, "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["can"] is True
    assert {"broker", "version", "abilities", "topics", "tls", "fleet", "clock", "disk"} <= {
        finding["what"] for finding in found["findings"]
    }
    file = tmp_path / "site.yaml"
    file.write_text(
        'edge: {site: north, codec: nowhere, cameras: {gate: {source: "test:1", questions: [q]}}, '
        'questions: {q: {text: "a car?"}}}\n'
    )
    result = CliRunner().invoke(app, ["doctor", *where, "--config", str(file), "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    bad = {finding["what"]: finding for finding in found["findings"] if finding["verdict"] == "bad"}
    assert set(bad) == {"settings", "codec"}
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        'sites: {north: {cameras: {gate: {source: "test:1"}}}, south: {cameras: {yard: {source: "test:2"}}}}\n'
    )
    result = CliRunner().invoke(app, ["doctor", *where, "--config", str(fleet), "--site", "south", "--json"])
    topics = [finding for finding in json.loads(result.stdout)["findings"] if finding["what"] == "topics"]
    assert result.exit_code == 0
    assert "as edge south, all granted" in topics[0]["found"]
    assert all(finding["fix"] for finding in bad.values())
