"""The skeleton of a process against a real broker: readiness, what it receives, drain, exit status, metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pipeline.bus.base import Bus, ConnectionChange, Inbound, Subscription, Will
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import get_logger
from pipeline.node.connection import NodeKind, node_bus
from pipeline.node.metrics import Metrics
from pipeline.node.node import Node, Work
from pipeline.node.runtime import EXIT_NOT_DRAINED, Stop

WAIT_S = 20.0

pytestmark = pytest.mark.broker


class Session:
    counters: Mapping[str, float] = Counter(opens=3)

    def sizes(self) -> Mapping[str, float]:
        return {"frames": 2}


class Listener(Node):
    """Receives, and ends when told to."""

    def __init__(self, bus: Bus, metrics: Metrics, *, drains: bool = True) -> None:
        super().__init__(bus, metrics, get_logger(__name__))
        self.payloads: list[bytes] = []
        self.changed = asyncio.Event()
        self.prepared = asyncio.Event()
        self.done = asyncio.Event()
        self.cancelled: list[str] = []
        self.at_drain: list[str] = []
        self.fit = True
        self._drains = drains

    async def _begin(self, group: asyncio.TaskGroup) -> Work:
        self._watch_session(Session())
        return {"idle": self._idle}

    async def _idle(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.append("idle")

    def _receive(self, events: Sequence[Inbound | ConnectionChange]) -> None:
        self.payloads += [event.payload for event in events if isinstance(event, Inbound)]
        self.changed.set()

    async def _prepare(self) -> Mapping[str, Any]:
        await self.prepared.wait()
        return {}

    async def _exhausted(self, tasks: Mapping[str, asyncio.Task[None]]) -> None:
        await self.done.wait()

    def _fits(self) -> bool:
        return self.fit

    async def _drain(self, tasks: Mapping[str, asyncio.Task[None]], timeout_s: float) -> bool:
        self.at_drain = [name for name, task in tasks.items() if not task.done()]
        return self._drains


@asynccontextmanager
async def listening(broker: BrokerSettings, kind: NodeKind = "edge", name: str = "north") -> AsyncIterator[Bus]:
    filters = [Subscription("t", qos=1)]
    async with node_bus(broker, kind, name, subscriptions=filters, will=Will("w", b"gone"), log=None) as bus:
        yield bus


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"latentbus_{name}", labels)


async def test_a_process_is_ready_when_it_is_connected_and_prepared_and_no_longer_when_it_drains(
    broker_settings: BrokerSettings,
) -> None:
    metrics, stop = Metrics(), Stop()
    async with listening(broker_settings) as bus, asyncio.timeout(WAIT_S):
        node = Listener(bus, metrics)
        running = asyncio.create_task(node.run(stop))
        await bus.wait_connected(WAIT_S)
        assert sample(metrics, "ready") == 0
        node.prepared.set()
        await stop.ready.wait()
        assert (sample(metrics, "ready"), sample(metrics, "connected")) == (1, 1)
        node.fit = False
        assert sample(metrics, "ready") == 0, "of no use at present"
        node.fit = True
        stop.request()
        assert await running == 0
        assert sample(metrics, "ready") == 0
    assert node.at_drain == ["receive", "loop lag", "idle"], "tasks run until what is there is resolved"
    assert node.cancelled == ["idle"]


async def test_events_reach_the_process_and_are_counted(broker_settings: BrokerSettings) -> None:
    metrics, stop = Metrics(), Stop()
    async with listening(broker_settings) as bus, asyncio.timeout(WAIT_S):
        node = Listener(bus, metrics)
        node.prepared.set()
        running = asyncio.create_task(node.run(stop))
        await stop.ready.wait()
        await bus.publish("t", b"hello", qos=1)
        while not node.payloads:
            node.changed.clear()
            await node.changed.wait()
        assert node.payloads == [b"hello"]
        assert sample(metrics, "bus_messages_total", event="received") == 1
        assert sample(metrics, "session_events_total", event="opens") == 3
        assert sample(metrics, "session_tables", table="frames") == 2
        stop.request()
        await running


@pytest.mark.parametrize(("drains", "status"), [(True, 0), (False, EXIT_NOT_DRAINED)])
async def test_a_process_with_nothing_left_to_do_ends(
    broker_settings: BrokerSettings, drains: bool, status: int
) -> None:
    stop = Stop()
    async with listening(broker_settings) as bus, asyncio.timeout(WAIT_S):
        node = Listener(bus, Metrics(), drains=drains)
        node.prepared.set()
        node.done.set()
        assert await node.run(stop) == status
    assert stop.requested


async def test_a_request_to_stop_does_not_wait_for_readiness(broker_settings: BrokerSettings) -> None:
    stop = Stop()
    async with listening(broker_settings) as bus, asyncio.timeout(WAIT_S):
        node = Listener(bus, Metrics())
        stop.request()
        assert await node.run(stop) == 0
    assert not stop.ready.is_set()


@pytest.mark.parametrize(("kind", "name"), [("edge", "north"), ("worker", "w-1")])
async def test_a_client_id_is_kind_and_name(broker_settings: BrokerSettings, kind: NodeKind, name: str) -> None:
    async with listening(broker_settings, kind, name) as bus, asyncio.timeout(WAIT_S):
        await bus.wait_connected(WAIT_S)
        async with MqttBus(broker_settings, client_id=f"{kind}-{name}"):
            # A broker knows one client of a name: the first is thrown out.
            events = await bus.receive_batch()
            while not any(isinstance(event, ConnectionChange) and not event.connected for event in events):
                events = await bus.receive_batch()
