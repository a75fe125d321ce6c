"""A gateway over a real broker and real HTTP, with a stand-in for edges and workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from latentbus.gateway.process import Serving, serving
from latentbus.gateway.service import Gateway
from pipeline.config.alert_rules import SiteProfiles
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.gateway_settings import GatewaySettings

PATIENCE_S = 30.0
TICK_S = 0.02
WIDE = {"asks_per_s": 1000, "burst_asks": 1000, "requests_per_s": 1000, "burst_requests": 1000}


@dataclass
class Events:
    """A stream of events that is read one by one."""

    response: aiohttp.ClientResponse
    seen: list[tuple[str, Any]] = field(default_factory=list)

    async def next(self) -> tuple[str, Any]:
        """The next event, comments and hints left out."""
        while True:
            block = (await self.response.content.readuntil(b"\n\n")).decode()
            lines = dict(line.split(": ", 1) for line in block.strip().splitlines() if not line.startswith(":"))
            if "event" in lines:
                found = (lines["event"], json.loads(lines["data"]))
                self.seen.append(found)
                return found

    async def until(self, event: str, condition: Callable[[Any], object] = lambda data: True) -> Any:
        """The data of the next event of this name that meets a condition."""
        while True:
            name, data = await self.next()
            if name == event and condition(data):
                return data


@dataclass
class Web:
    """A gateway and a client of it."""

    served: Serving
    http: aiohttp.ClientSession

    @property
    def gateway(self) -> Gateway:
        return self.served.gateway

    async def get(self, path: str, **options: Any) -> Any:
        """JSON of a page that is there."""
        async with self.http.get(path, **options) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def status(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON."""
        async with self.http.request(method, path, **options) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def ask(self, camera: str, question: str, **more: Any) -> list[tuple[str, Any]]:
        """All events of an answer."""
        async with self.http.post("/v1/ask", json={"camera": camera, "question": question, **more}) as response:
            assert response.status == 200, await response.text()
            blocks = (await response.text()).strip().split("\n\n")
        return [
            (block.split("\n")[0][7:], json.loads(block.split("\n")[1][6:])) for block in blocks if "event: " in block
        ]

    @asynccontextmanager
    async def events(self, **options: Any) -> AsyncIterator[Events]:
        async with self.http.get("/v1/events", **options) as response:
            assert response.status == 200, await response.text()
            yield Events(response)

    async def until_ready(self, *cameras: str, **options: Any) -> None:
        """Wait until the broker is connected and these cameras are there."""
        wanted = set(cameras)
        async with self.events(**options) as events:
            ready = there = False
            while not (ready and there):
                name, data = await events.next()
                if name in ("snapshot", "fleet"):
                    ready = data["health"]["ready"]
                if name in ("snapshot", "cameras"):
                    there = wanted <= {camera["camera"] for camera in data["cameras"] if camera["online"]}


@asynccontextmanager
async def gateway_of(
    broker: BrokerSettings,
    token: str | None = None,
    sites: Mapping[str, SiteProfiles] | None = None,
    **settings: Any,
) -> AsyncIterator[Web]:
    """A gateway on a free port."""
    given = GatewaySettings.model_validate({"limits": WIDE, **settings}).model_copy(update={"port": 0})
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with serving(broker, given, sites) as served:
        served.gateway.tick_s = TICK_S
        # A session that is closed before the gateway: its connections would keep the server for seconds.
        async with aiohttp.ClientSession(
            served.url, headers=headers, timeout=aiohttp.ClientTimeout(PATIENCE_S)
        ) as http:
            yield Web(served, http)


@pytest.fixture
def nowhere() -> BrokerSettings:
    """A broker that is not there."""
    return BrokerSettings(port=1)
