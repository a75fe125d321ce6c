"""The gateway under load: many streams, many questions, some clients that read nothing.

The gateway runs as a process of its own, on a private broker; a stand-in answers each question at once with a
provisional and a final answer, so that nothing but the gateway is measured. All traffic stays on loopback.

    python -m benchmarks.gateway_load --streams 200 --rate 50 --duration 60
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
from rich.console import Console

from analysis.markdown import table
from latentbus.fleet.launcher import Launcher, write_settings
from latentbus.fleet.usage import cpu_s, resident_bytes
from latentbus.reports.results_page import write_page
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.gateway_settings import GatewayLimitSettings, GatewaySettings
from pipeline.config.logs import configure_logging
from pipeline.config.settings import LatentbusSettings, LogSettings
from pipeline.node.runtime import Stop, run
from pipeline.node.tasks import first_of
from schemas import topics, wire
from schemas.identity import ad_hoc_query_id, owner_of
from schemas.messages import Answer, Ask, Status
from schemas.types import FrameId, Outcome

CAMERAS = ("gate", "yard", "lane", "dock")
MIB = 2**20
SAMPLE_S = 1.0
SETTLE_S = 3.0
STALLED_RECEIVE_BYTES = 4_096
ANSWER = b"event: answer\n"


@dataclass
class Figures:
    """What was measured.

    Attributes:
        streams: that followed everything.
        stalled: further streams whose clients read nothing.
        rate: questions a second that were asked.
        duration_s: how long.
        asked: questions.
        answered: of these, with a final answer.
        errors: what else came, by kind.
        first_ms: time to the first answer of each question, by HTTP.
        final_ms: time to the final answer.
        least_events: answers that the stream heard that heard the fewest.
        most_events: the same of the one that heard most.
        broken_streams: streams that ended, by reason.
        stalled_dropped: stalled streams that the gateway has dropped.
        memory_mib: of the gateway: before, at most, at the end.
        cpu_share: processor time of the gateway in a second.
    """

    streams: int
    stalled: int
    rate: float
    duration_s: float
    asked: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first_ms: list[float] = field(default_factory=list)
    final_ms: list[float] = field(default_factory=list)
    least_events: int = 0
    most_events: int = 0
    broken_streams: Counter[str] = field(default_factory=Counter)
    stalled_dropped: int = 0
    memory_mib: tuple[float, float, float] = (0.0, 0.0, 0.0)
    cpu_share: float = 0.0

    @property
    def ok(self) -> bool:
        """Every question was answered, and no stream that reads has missed one."""
        whole = self.answered == self.asked and self.least_events >= 2 * self.asked
        return whole and not self.errors and not self.broken_streams

    def rows(self) -> list[tuple[str, str]]:
        """As a table."""
        first, final = quantiles(self.first_ms), quantiles(self.final_ms)
        return [
            ("streams that follow everything", str(self.streams)),
            ("further streams whose clients read nothing", f"{self.stalled}, {self.stalled_dropped} of them dropped"),
            ("questions a second", f"{self.rate:g} for {self.duration_s:g} s"),
            ("questions, with a final answer", f"{self.asked}, {self.answered}"),
            ("errors", str(sum(self.errors.values()) + sum(self.broken_streams.values()))),
            ("answers that a stream heard, fewest and most", f"{self.least_events}, {self.most_events}"),
            ("first answer, median and 95 %", f"{first[0]:.0f} ms, {first[1]:.0f} ms"),
            ("final answer, median and 95 %", f"{final[0]:.0f} ms, {final[1]:.0f} ms"),
            ("memory of the gateway: before, at most, end", ", ".join(f"{value:.0f} MiB" for value in self.memory_mib)),
            ("cores that the gateway used", f"{self.cpu_share:.2f}"),
        ]


def quantiles(values: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    return statistics.median(values), statistics.quantiles(values, n=20)[-1]


class Fleet:
    """An edge and a worker in one: answers each question at once."""

    def __init__(self, broker: BrokerSettings) -> None:
        asks = Subscription(topics.family_filter(topics.Family.ASK), qos=1)
        self.bus = MqttBus(broker, client_id="fleet", subscriptions=[asks], receive_maximum=1024)
        self._sequence = itertools.count()

    async def begin(self) -> None:
        """Say what there is."""
        await self.bus.wait_connected(20)
        common: dict[str, Any] = {"boot": 1, "online": True, "pool": "main", "fingerprint": "00000001"}
        edge = Status(kind="edge", id="north", cameras=CAMERAS, **common)
        worker = Status(kind="worker", id="w1", capacity=1024, **common)
        for status in (edge, worker):
            await self.bus.publish(topics.status_topic(status.kind, status.id), wire.encode(status), qos=1, retain=True)

    async def answer_for_ever(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for event in await self.bus.receive_batch():
                    if isinstance(event, Inbound):
                        self.bus.acknowledge(event)
                        group.create_task(self._answer(event))

    async def _answer(self, inbound: Inbound) -> None:
        topic, ask = wire.decode_publish(inbound.topic, inbound.payload)
        if not isinstance(ask, Ask) or inbound.response_topic is None:
            return
        camera, client = topic.names
        frame = FrameId(1, next(self._sequence))
        outcomes: tuple[tuple[Literal[Outcome.ANSWERED] | None, int], ...] = ((None, 9), (Outcome.ANSWERED, 32))
        for outcome, latents in outcomes:
            answer = Answer(
                query_id=ad_hoc_query_id(camera, client, ask.query_id),
                owner=owner_of("client", client),
                camera=camera,
                frame=frame,
                attempt=1,
                question_id=ask.query_id,
                worker="w1",
                outcome=outcome,
                text="yes",
                score=0.9,
                latents=latents,
                payload_bytes=10 * latents,
                looks=1 if outcome is None else 2,
            )
            payload = wire.encode(answer)
            await self.bus.publish(inbound.response_topic, payload, qos=1)
            await self.bus.publish(topics.answer_topic(camera), payload, qos=1)


async def run_fleet(broker: BrokerSettings, stop: Stop) -> int:
    """The fleet as a process of its own."""
    fleet = Fleet(broker)
    async with fleet.bus:
        await fleet.begin()
        stop.set_ready()
        await first_of(stop.wait(), fleet.answer_for_ever())
    return 0


async def follow(port: int, figures: Figures, ready: asyncio.Semaphore) -> int:
    """Follow everything; answers heard. A plain socket: with an HTTP library this process would be the slow one."""
    heard, rest = 0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MIB)
    try:
        writer.write(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status = await reader.readline()
        if b" 200 " not in status:
            figures.broken_streams[status.decode().strip()] += 1
        await reader.readuntil(b"event: snapshot")
        ready.release()
        while data := await reader.read(MIB):
            seen = rest + data
            heard += seen.count(ANSWER)
            figures.broken_streams["ended"] += seen.count(b"event: end")
            rest = seen[-len(ANSWER) + 1 :]
        figures.broken_streams["closed"] += 1
    except asyncio.CancelledError:
        pass
    except (OSError, asyncio.IncompleteReadError) as error:
        figures.broken_streams[type(error).__name__] += 1
        ready.release()
    finally:
        writer.close()
    figures.broken_streams += Counter()  # without zeros
    return heard


async def ask(http: aiohttp.ClientSession, figures: Figures, number: int) -> None:
    """Ask one question, and read its answers as they come."""
    figures.asked += 1
    began_s = time.perf_counter()
    body = {"camera": CAMERAS[number % len(CAMERAS)], "question": f"Is there a car? ({number})"}
    try:
        async with http.post("/v1/ask", json=body) as response:
            if response.status != 200:
                figures.errors[f"status {response.status}"] += 1
                return
            async for line in response.content:
                elapsed_ms = 1000 * (time.perf_counter() - began_s)
                if line.startswith(b"event: answer"):
                    figures.first_ms.append(elapsed_ms)
                elif line.startswith(b"event: final"):
                    figures.final_ms.append(elapsed_ms)
                    figures.answered += 1
                elif line.startswith(b"event: error"):
                    figures.errors["error"] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        figures.errors[type(error).__name__] += 1


def stall(port: int) -> socket.socket:
    """A client that asks for the stream and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_RECEIVE_BYTES)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return client


async def measure(figures: Figures, work_dir: Path, stop: Stop) -> None:
    """Run it."""
    async with Launcher(work_dir) as launcher:
        broker = await launcher.start_broker()
        port = free_port()
        limits = GatewayLimitSettings(
            asks_per_s=10_000, burst_asks=10_000, requests_per_s=10_000, burst_requests=10_000, streams=10_000,
            connections=4_096,
        )  # fmt: skip
        settings = GatewaySettings(port=port, state_dir=work_dir / "state", limits=limits)
        log = LogSettings(json_lines=True)
        config = write_settings("gateway", LatentbusSettings(broker=broker, gateway=settings, log=log), work_dir)
        async with AsyncExitStack() as stack:
            fleet = await launcher.start_python("fleet", ["-m", "benchmarks.gateway_load", "--fleet", str(broker.port)])
            await launcher.wait_ready(fleet)
            gateway = await launcher.start_command("gateway", ["gateway", "--config", str(config)])
            await launcher.wait_ready(gateway)
            connector = aiohttp.TCPConnector(limit=0)
            http = await stack.enter_async_context(
                aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector)
            )
            await until_ready(http)
            before = resident_bytes(gateway.pid) / MIB
            ready = asyncio.Semaphore(0)
            followers = [asyncio.create_task(follow(port, figures, ready)) for _ in range(figures.streams)]
            for _ in followers:
                await ready.acquire()
            stalled = [await asyncio.to_thread(stall, port) for _ in range(figures.stalled)]
            began_s, began_cpu_s = time.monotonic(), cpu_s(gateway.pid) or 0.0
            most, asking, number = before, set[asyncio.Task[None]](), 0
            while (elapsed_s := time.monotonic() - began_s) < figures.duration_s and not stop.requested:
                due = int(elapsed_s * figures.rate) + 1
                for one in range(number, due):
                    task = asyncio.create_task(ask(http, figures, one))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
                number = max(number, due)
                most = max(most, resident_bytes(gateway.pid) / MIB)
                await asyncio.sleep(1 / figures.rate)
            used_s = (cpu_s(gateway.pid) or 0.0) - began_cpu_s
            figures.cpu_share = used_s / (time.monotonic() - began_s)
            await asyncio.gather(*asking)
            await asyncio.sleep(SETTLE_S)
            figures.memory_mib = (before, most, resident_bytes(gateway.pid) / MIB)
            figures.stalled_dropped = await dropped(http)
            for follower in followers:
                follower.cancel()
            heard = await asyncio.gather(*followers)
            figures.least_events, figures.most_events = min(heard, default=0), max(heard, default=0)
            for client in stalled:
                client.close()
            await http.close()
            await launcher.drain()


async def until_ready(http: aiohttp.ClientSession) -> None:
    """Wait until the gateway hears the fleet."""
    async with asyncio.timeout(30):
        while True:
            async with http.get("/v1/cameras") as response:
                if len((await response.json())["cameras"]) == len(CAMERAS):
                    return
            await asyncio.sleep(0.1)


async def dropped(http: aiohttp.ClientSession) -> int:
    """Streams that the gateway has dropped because they were not read."""
    found = 0
    async with http.get("/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith("latentbus_gateway_streams_dropped_total{"):
                found += int(float(line.rpartition(" ")[2]))
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    """Print the table; 0 when every question was answered and no stream that reads has missed anything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=200, help="streams that follow everything (default: 200)")
    parser.add_argument("--stalled", type=int, default=10, help="further streams that read nothing (default: 10)")
    parser.add_argument("--rate", type=float, default=50.0, help="questions a second (default: 50)")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds (default: 60)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--markdown", type=Path, help="write the figures as a page to this file")
    parser.add_argument("--fleet", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    configure_logging("error")
    if arguments.fleet is not None:
        return run(lambda stop: run_fleet(BrokerSettings(port=arguments.fleet), stop))
    figures = Figures(arguments.streams, arguments.stalled, arguments.rate, arguments.duration)

    async def work(stop: Stop) -> int:
        with tempfile.TemporaryDirectory(prefix="latentbus-gateway-") as folder:
            await measure(figures, Path(folder), stop)
        console = Console(highlight=False)
        for name, value in figures.rows():
            console.print(f"{name:50} {value}", markup=False)
        for kind, count in (figures.errors + figures.broken_streams).items():
            console.print(f"error: {kind}: {count}", markup=False)
        write_page(arguments.markdown, "The gateway under load", table(("", "measured"), figures.rows()))
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(asdict(figures), indent=1) + "\n", encoding="utf-8")
        return 0 if figures.ok else 1

    return run(work, drain_timeout_s=60)


if __name__ == "__main__":
    sys.exit(main())
