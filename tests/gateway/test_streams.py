"""Streams of events: one that is not read costs its own client, and nobody else."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pipeline.config.broker_settings import BrokerSettings
from tests.cli.stand_in import standing_in
from tests.gateway.conftest import PATIENCE_S, WIDE, gateway_of
from tests.gateway.test_api import publish, standing
from tests.gateway.waiting import until

pytestmark = pytest.mark.broker


async def test_a_client_that_reads_nothing_is_dropped_and_the_others_miss_nothing(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbus.gateway.hub.MAX_QUEUED_EVENTS", 200)
    monkeypatch.setattr("latentbus.gateway.hub.FLUSH_S", 0.0)
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with stalled:
        async with standing_in(broker_settings) as far, gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
            await web.until_ready("gate")
            stalled.connect(("127.0.0.1", int(web.served.url.rpartition(":")[2])))
            stalled.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with web.events() as events:
                await events.until("snapshot")
                await until(lambda: len(web.gateway.hub) == 2)
                number = 0
                while not web.gateway.hub.counters["too_slow"]:
                    batch = range(number, number + 50)
                    await publish(far, *(standing(one, f"{one} {'x' * 400}") for one in batch))
                    number += 50
                    last = f"{number - 1} "
                    await events.until("answer", lambda data: data["text"].startswith(last))  # noqa: B023 - awaited here
            heard = [data["text"].split()[0] for name, data in events.seen if name == "answer"]
            assert heard == [str(one) for one in range(number)]
            assert web.gateway.hub.counters == {"too_slow": 1}


async def test_a_client_that_takes_nothing_is_cut_off(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before its queue is full: what the system holds for it is full."""
    monkeypatch.setattr("latentbus.gateway.api.SEND_TIMEOUT_S", 0.05)
    monkeypatch.setattr("latentbus.gateway.hub.FLUSH_S", 0.0)
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with stalled:
        async with standing_in(broker_settings) as far, gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
            await web.until_ready("gate")
            stalled.connect(("127.0.0.1", int(web.served.url.rpartition(":")[2])))
            stalled.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: len(web.gateway.hub) == 1)
            number = 0
            while not web.gateway.hub.counters["takes_nothing"]:
                await publish(far, *(standing(number + one, "x" * 400) for one in range(50)))
                number += 50
            assert len(web.gateway.hub) == 0
            assert number * 600 < 4_000_000, "what waits for one client in the system is bounded"


async def test_a_client_has_so_many_streams_and_no_more(broker_settings: BrokerSettings) -> None:
    async with gateway_of(broker_settings, limits={**WIDE, "streams": 2}) as web, asyncio.timeout(PATIENCE_S):
        async with web.events() as one, web.events() as two:
            await one.until("snapshot")
            await two.until("snapshot")
            status, problem = await web.status("GET", "/v1/events")
            assert (status, problem["code"]) == (429, "rate_limited")
        await until(lambda: not len(web.gateway.hub))
        async with web.events() as again:
            await again.until("snapshot")


async def test_a_gateway_that_stops_tells_who_listens(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings), asyncio.timeout(PATIENCE_S), gateway_of(broker_settings) as web:
        await web.until_ready("gate")
        async with web.events() as events:
            await events.until("snapshot")
            web.gateway.stop_streams()
            assert await events.until("end") == {"reason": "stopping"}
        status, problem = await web.status("POST", "/v1/ask", json={"camera": "gate", "question": "?"})
        assert (status, problem["problem"]) == (503, "the gateway stops")


async def test_everything_comes_again_with_each_stream(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings) as far, gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
        await web.until_ready("gate")
        async with web.events() as events:
            await publish(far, standing(1, "no"), standing(2, "yes"))
            await events.until("answer", lambda data: data["text"] == "yes")
        async with web.events() as events:
            snapshot = await events.until("snapshot")
        (question,) = next(one for one in snapshot["cameras"] if one["camera"] == "gate")["questions"]
        assert [one["text"] for one in question["strip"]] == ["no", "yes"]
        assert snapshot["health"] == {"ready": True, "problems": []}
        assert [worker["worker"] for worker in snapshot["workers"]] == ["w1"]
