"""The example with Node-RED runs in Node-RED itself, against a stand-in for a fleet."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from tests.cli.stand_in import standing_in
from tests.cli.test_watch import say, standing
from tests.conftest import NO_SKIPS
from tests.node_packages import find_node, installed
from tests.source_names import ROOT

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not os.environ.get(NO_SKIPS), reason="make test-extras runs it: it installs Node-RED"),
    pytest.mark.timeout(900),
]
PACKAGES = ("node-red@4.1.15",)
PATIENCE_S = 120.0
FLOW = ROOT / "examples" / "node-red" / "flows.json"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def node_red(modules: Path, folder: Path, broker: BrokerSettings) -> AsyncIterator[str]:
    """Node-RED with the flow of the example, connected; its address."""
    flow = json.loads(FLOW.read_text(encoding="utf-8"))
    for node in flow:
        if node["type"] == "mqtt-broker":
            node |= {"broker": broker.host, "port": str(broker.port)}
    (folder / "flows.json").write_text(json.dumps(flow))
    port = free_port()
    (folder / "settings.js").write_text(
        f"module.exports = {{uiHost: '127.0.0.1', uiPort: {port}, flowFile: 'flows.json', "
        "telemetry: {enabled: false}, logging: {console: {level: 'info'}}}\n"
    )
    command: list[str | Path] = [
        modules / "node_modules" / "node-red" / "red.js",
        "-u",
        folder,
        "-s",
        folder / "settings.js",
    ]
    process = await asyncio.create_subprocess_exec(
        find_node(), *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        lines: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while not any("Connected to broker" in line for line in lines):
                line = (await process.stdout.readline()).decode()
                assert line, "".join(lines)
                lines.append(line)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_flow_acts_on_answers_and_asks(
    broker_settings: BrokerSettings, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    modules = installed(find_node(), PACKAGES, pytestconfig, timeout_s=600)
    house = MqttBus(broker_settings, client_id="house", subscriptions=[Subscription("house/#", qos=1)])
    async with standing_in(broker_settings) as far, house, node_red(modules, tmp_path, broker_settings) as url:
        await house.wait_connected(10)
        async with asyncio.timeout(PATIENCE_S):
            await say(far, standing(1, outcome=None))
            await say(far, standing(2, text="no"))
            await say(far, standing(3, question="people", text="yes"))
            await say(far, standing(4))
            messages: list[Inbound] = []
            while not messages:
                messages = [event for event in await house.receive_batch() if isinstance(event, Inbound)]
            assert [(message.topic, message.payload) for message in messages] == [
                ("house/car/gate", b"a car, 90 % sure")
            ]
            async with aiohttp.ClientSession() as http, http.post(f"{url}/inject/lb-button") as response:
                assert response.status == 200, await response.text()
            await far.wait_asked(1)
    [(camera, client, ask)] = far.asked
    assert (camera, client, ask.text) == ("gate", "node-red", "Is there a red car?")
    shutil.rmtree(tmp_path, ignore_errors=True)
