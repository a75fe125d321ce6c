"""CPU time a message: the bus against aiomqtt's own iterator and publish, side by side in one run.

A feeder process publishes over a private Mosquitto, this process receives; then this process publishes. Both clients
take turns, so that a busy machine hits both; the figures are medians over the runs. CPU time is what one process pays
and is portable; messages a second depend on everything that shares the machine.

    python -m benchmarks.bus_throughput --messages 5000 --runs 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
import uvloop

from broker_config.launcher import LocalBroker
from pipeline.bus.base import ConnectionChange, Qos, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import configure_logging

TOPIC = "lb/v1/open/main/gate"
END = "lb/v1/open/main/end"
FILTER = "lb/v1/open/main/+"
PUBLISHERS = 32
RUN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Sample:
    """One run of one client."""

    messages: int
    cpu_us: float
    wall_us: float


@dataclass(frozen=True)
class Load:
    """What is sent in one run."""

    port: int
    messages: int
    size_bytes: int
    qos: Qos


def _per_message(messages: int, cpu_s: float, wall_s: float) -> Sample:
    return Sample(messages, 1e6 * cpu_s / max(messages, 1), 1e6 * wall_s / max(messages, 1))


def _feed(load: Load) -> None:
    """Publish everything and then the end mark; runs in a process of its own."""
    configure_logging("error")
    uvloop.run(_publish_all(load, mark=True))


async def _publish_all(load: Load, mark: bool) -> None:
    payload = b"x" * load.size_bytes
    async with MqttBus(BrokerSettings(port=load.port), client_id="feeder") as bus:
        await bus.wait_connected(10)

        async def publish(count: int) -> None:
            for _ in range(count):
                await bus.publish(TOPIC, payload, qos=load.qos, timeout_s=30)

        async with asyncio.TaskGroup() as group:
            for publisher in range(PUBLISHERS):
                group.create_task(publish(len(range(publisher, load.messages, PUBLISHERS))))
        if mark:
            await bus.publish(END, b"", qos=1)


async def _receive_with_bus(load: Load, feed: Callable[[], Awaitable[None]]) -> Sample:
    subscriptions = [Subscription(FILTER, 1)]
    received = 0
    async with MqttBus(
        BrokerSettings(port=load.port), client_id="receiver", subscriptions=subscriptions, receive_maximum=256
    ) as bus:
        await bus.wait_connected(10)
        await feed()
        cpu_s = wall_s = 0.0
        while True:
            for event in await bus.receive_batch():
                if isinstance(event, ConnectionChange):
                    continue
                if received == 0:
                    cpu_s, wall_s = time.process_time(), time.perf_counter()
                bus.acknowledge(event)
                if event.topic == END:
                    return _per_message(received, time.process_time() - cpu_s, time.perf_counter() - wall_s)
                received += 1


async def _receive_with_iterator(load: Load, feed: Callable[[], Awaitable[None]]) -> Sample:
    received = 0
    async with aiomqtt.Client(
        "127.0.0.1", load.port, identifier="receiver", protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        await client.subscribe(FILTER, qos=1)
        await feed()
        cpu_s = wall_s = 0.0
        async for message in client.messages:
            if received == 0:
                cpu_s, wall_s = time.process_time(), time.perf_counter()
            if message.topic.value == END:
                return _per_message(received, time.process_time() - cpu_s, time.perf_counter() - wall_s)
            received += 1
    raise RuntimeError("the broker went away")


async def _receive(client: str, load: Load) -> Sample:
    context = multiprocessing.get_context("spawn")
    feeder = context.Process(target=_feed, args=(load,), name="feeder")

    async def feed() -> None:
        await asyncio.to_thread(feeder.start)

    receive = _receive_with_bus if client == "bus" else _receive_with_iterator
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            return await receive(load, feed)
    finally:
        if feeder.pid is not None:
            feeder.terminate()
            feeder.join()


async def _publish(client: str, load: Load) -> Sample:
    async with asyncio.timeout(RUN_TIMEOUT_S):
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        if client == "bus":
            await _publish_all(load, mark=False)
        else:
            await _publish_with_aiomqtt(load)
        return _per_message(load.messages, time.process_time() - cpu_s, time.perf_counter() - wall_s)


async def _publish_with_aiomqtt(load: Load) -> None:
    payload = b"x" * load.size_bytes
    async with aiomqtt.Client(
        "127.0.0.1", load.port, identifier="feeder", protocol=aiomqtt.ProtocolVersion.V5, max_inflight_messages=256
    ) as client:
        client.pending_calls_threshold = PUBLISHERS  # it logs a warning a publish beyond ten otherwise

        async def publish(count: int) -> None:
            for _ in range(count):
                await client.publish(TOPIC, payload, qos=load.qos, timeout=30)

        async with asyncio.TaskGroup() as group:
            for publisher in range(PUBLISHERS):
                group.create_task(publish(len(range(publisher, load.messages, PUBLISHERS))))


def _median(samples: list[Sample]) -> Sample:
    return Sample(
        round(statistics.median(sample.messages for sample in samples)),
        statistics.median(sample.cpu_us for sample in samples),
        statistics.median(sample.wall_us for sample in samples),
    )


def main() -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=5_000, help="messages a run")
    parser.add_argument("--runs", type=int, default=5, help="runs of each client in each case")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    configure_logging("error")
    cases: list[tuple[str, Qos, int]] = [
        (verb, qos, size_bytes) for verb in ("receive", "publish") for qos in (0, 1) for size_bytes in (1_024, 4_096)
    ]
    rows: list[dict[str, str | int | float]] = []
    print(f"{'case':<24}{'aiomqtt us':>12}{'bus us':>10}{'ratio':>8}{'aiomqtt 1/s':>14}{'bus 1/s':>10}{'received':>18}")
    with LocalBroker() as broker:
        for verb, qos, size_bytes in cases:
            load = Load(broker.port, options.messages, size_bytes, qos)
            run = _receive if verb == "receive" else _publish
            samples: dict[str, list[Sample]] = {"aiomqtt": [], "bus": []}
            for _ in range(options.runs):
                for client, kept in samples.items():
                    kept.append(uvloop.run(run(client, load)))
            plain, bus = _median(samples["aiomqtt"]), _median(samples["bus"])
            row: dict[str, str | int | float] = {
                "case": f"{verb} QoS {qos} {size_bytes} B",
                "aiomqtt_cpu_us": round(plain.cpu_us, 1),
                "bus_cpu_us": round(bus.cpu_us, 1),
                "cpu_ratio": round(plain.cpu_us / bus.cpu_us, 2),
                "aiomqtt_per_s": round(1e6 / plain.wall_us),
                "bus_per_s": round(1e6 / bus.wall_us),
                "aiomqtt_messages": plain.messages,
                "bus_messages": bus.messages,
            }
            rows.append(row)
            print(
                f"{row['case']:<24}{row['aiomqtt_cpu_us']:>12}{row['bus_cpu_us']:>10}{row['cpu_ratio']:>8}"
                f"{row['aiomqtt_per_s']:>14}{row['bus_per_s']:>10}"
                f"{row['aiomqtt_messages']:>9}{row['bus_messages']:>9}",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(
            json.dumps({"messages": options.messages, "runs": options.runs, "cases": rows}, indent=2)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
