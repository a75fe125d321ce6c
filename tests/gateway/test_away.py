"""What the gateway misses while it is away: nothing that the broker keeps, and the rest is shown."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from broker_config.launcher import LocalBroker
from latentbus.gateway.history import History
from pipeline.config.broker_settings import BrokerSettings
from schemas.errors import HistoryError
from tests.cli.stand_in import EDGE, WORKER, standing_in
from tests.gateway.conftest import PATIENCE_S, Web, gateway_of
from tests.gateway.test_alerts_live import change
from tests.gateway.test_api import publish, standing
from tests.source_names import ROOT

pytestmark = pytest.mark.broker


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def process(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, killed at the end as by a power cut of the process."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "latentbus", "gateway", "--config", str(config)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    assert running.stderr is not None
    awaited = {b'"event": "listening"', b'"event": "connected"'}
    while awaited:
        line = await running.stderr.readline()
        assert line, "it ended"
        awaited = {words for words in awaited if words not in line}
    draining = asyncio.create_task(running.stderr.read())
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()
        await draining


async def answers(http: aiohttp.ClientSession, at_least: int) -> list[str]:
    """Texts of the history, once there are so many; the history is looked at whenever something has happened."""
    async with http.get("/v1/events") as events:
        while True:
            async with http.get("/v1/history?limit=1000") as response:
                found = [one["text"] for one in (await response.json())["outcomes"]]
            if len(found) >= at_least:
                return sorted(found, key=int)
            await events.content.readuntil(b"\n\n")


async def test_a_kill_loses_no_outcome_nor_those_of_the_time_away(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    port = free_port()
    config = tmp_path / "gateway.yaml"
    document = {
        "broker": {"port": broker_settings.port},
        "gateway": {"port": port, "state_dir": "state", "limits": {"requests_per_s": 1000, "burst_requests": 10000}},
    }
    config.write_text(yaml.safe_dump(document))
    async with standing_in(broker_settings) as far, asyncio.timeout(2 * PATIENCE_S):
        async with (
            process(config) as running,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        ):
            await publish(far, *(standing(number, str(number)) for number in range(50)))
            await answers(http, 1)
            # Killed while outcomes arrive: some are stored, some are not acknowledged yet.
            sending = asyncio.create_task(publish(far, *(standing(number, str(number)) for number in range(50, 250))))
            await answers(http, 60)
            running.send_signal(signal.SIGKILL)
            await running.wait()
            await sending
        await publish(far, *(standing(number, str(number)) for number in range(250, 350)))
        async with process(config), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            assert await answers(http, 350) == [str(number) for number in range(350)]
            async with http.get("/v1/cameras/gate") as response:
                (question,) = (await response.json())["questions"]
            assert question["answer"]["text"] == "349"


async def test_outcomes_that_the_broker_forgot_are_shown_as_a_gap(broker: LocalBroker, tmp_path: Path) -> None:
    settings = BrokerSettings(host=broker.host, port=broker.port)
    async with asyncio.timeout(PATIENCE_S):
        async with standing_in(settings) as far, gateway_of(settings, state_dir=tmp_path) as web:
            await web.until_ready("gate")
            async with web.events() as events:
                await events.until("snapshot")
                broker.kill()
                await events.until("fleet", lambda fleet: not fleet["health"]["ready"])
                await asyncio.to_thread(broker.restart)
                (gap,) = (await events.until("fleet", lambda fleet: fleet["gaps"]))["gaps"]
            assert gap["kept"] is False
            assert "missing" in gap["reason"]
            assert gap["began"] < gap["ended"]
            for status in (EDGE, WORKER):
                await change(far, status)
            await web.until_ready("gate")
            assert (await web.get("/v1/history"))["gaps"] == [gap]
        async with gateway_of(settings, state_dir=tmp_path) as web:
            assert (await web.get("/v1/history"))["gaps"][-1] == gap, "after a restart, too"


async def test_an_absence_that_cost_nothing_is_shown_as_kept(
    broker_settings: BrokerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbus.gateway.service.SHORT_GAP_S", 0.0)
    async with standing_in(broker_settings), asyncio.timeout(PATIENCE_S):
        async with gateway_of(broker_settings, state_dir=tmp_path) as web:
            await web.until_ready("gate")
            await _heard(web)
        async with gateway_of(broker_settings, state_dir=tmp_path) as web:
            await web.until_ready("gate")
            async with web.events() as events:
                name, data = await events.next()
                while not data.get("gaps"):
                    name, data = await events.next()
                assert name in ("snapshot", "fleet")
            assert [gap["kept"] for gap in data["gaps"]] == [True]


async def _heard(web: Web) -> None:
    while await web.gateway.store.call(History.last_heard) is None:
        pass


async def test_a_disk_that_does_not_take_outcomes_is_told_and_the_answers_go_on(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, both, tries = asyncio.get_running_loop(), asyncio.Event(), itertools.count(1)

    def full(self: History, outcomes: object) -> int:
        if next(tries) == 4:  # each outcome is tried twice
            loop.call_soon_threadsafe(both.set)
        raise HistoryError("history.sqlite", "database or disk is full")

    async with standing_in(broker_settings) as far, gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
        await web.until_ready("gate")
        async with web.events() as events:
            with monkeypatch.context() as broken:
                broken.setattr(History, "add", full)
                await publish(far, standing(1, "1"))
                assert (await events.until("answer"))["text"] == "1"
                fleet = await events.until("fleet", lambda fleet: not fleet["health"]["ready"])
                assert fleet["health"]["problems"] == ["outcomes are not stored: database or disk is full"]
                assert (await web.status("GET", "/readyz"))[0] == 503
                *_, (name, _) = await web.ask("gate", "a car?")
                assert name == "final"
                await both.wait()  # answers do not wait for the disk, so its failure may come later
            await publish(far, standing(2, "2"))
            await events.until("fleet", lambda fleet: fleet["health"]["ready"])
        assert web.gateway.store.lost == 2
        assert [one["text"] for one in (await web.get("/v1/history"))["outcomes"]] == ["2"]


async def test_a_disk_that_fails_at_everything_costs_only_the_history(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alerts are still seen, under a number of their own, and the streams go on."""

    def broken(self: History, *_: object, **__: object) -> None:
        raise HistoryError("history.sqlite", "disk I/O error")

    alerts = {"rules": {"car": {"question": "car", "equals": "yes", "cooldown_s": 0}}}
    async with (
        standing_in(broker_settings) as far,
        gateway_of(broker_settings, alerts=alerts) as web,
        asyncio.timeout(PATIENCE_S),
    ):
        await web.until_ready("gate")
        for name in ("add", "asked", "add_alert", "end_alert", "heard", "trim", "add_gap", "search"):
            monkeypatch.setattr(History, name, broken)
        monkeypatch.setattr("latentbus.gateway.service.TRIM_S", 0.0)
        monkeypatch.setattr("latentbus.gateway.service.HEARD_S", 0.0)
        async with web.events() as events:
            await publish(far, standing(1, "yes"), standing(2, "no"), standing(3, "yes"))
            began: list[dict[str, Any]] = []
            problems: list[str] = []
            while len(began) < 3 or not problems:  # in whatever order
                name, data = await events.next()
                began += [data] if name == "alert" else []
                problems += data["health"]["problems"] if name == "fleet" else []
        assert [(alert["id"], alert["ended"] is None) for alert in began] == [(-1, True), (-1, False), (-2, True)]
        status, problem = await web.status("GET", "/v1/history")
        assert (status, problem["problem"]) == (503, "the history cannot be read: disk I/O error")
        assert [name for name, _ in await web.ask("gate", "a car?")] == ["answer", "final"]
        assert not web.gateway._containment.counts
