"""Memory of every process of a fleet at full load, over time: ``python -m benchmarks.soak --duration 1200``.

A private broker, edges with rendered cameras, and workers, as the processes that an operator starts, kept as busy as
two cores allow; a reader asks ad-hoc questions along the way. Every few seconds the memory of each process is read from
``/proc/PID/smaps_rollup``. Ends with status 1 when the resident memory of one drifts by more than 5 % after the
warm-up, when a process ends, or when a question got no outcome.

The warm-up is long enough for the bounded caches of docs/buffers.md to fill at this load: a cache that still fills is
not flat. The reader's own is made small for that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.markdown import figures as tables
from analysis.markdown import table
from benchmarks.edge_resources import process_cpu_s
from broker_config.launcher import LocalBroker
from latentbus.chaos.fleet import QUESTIONS
from latentbus.demo.children import Child, running_child
from latentbus.results_page import write_page
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.logs import configure_logging
from pipeline.config.settings import (
    BrokerSettings,
    CameraSettings,
    EdgeSettings,
    LatentbusSettings,
    LogSettings,
    QuestionSettings,
    WorkerSettings,
)
from pipeline.node.runtime import Stop, run
from pipeline.protocol.reducer import OutcomeReducer
from schemas import topics, wire
from schemas.errors import BusError, WireError
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome, Status
from schemas.topics import Family
from schemas.types import Outcome

CLIENT: Final = "soak"
MAX_DRIFT_PERCENT: Final = 5.0
WARM_UP_S: Final = 180.0
REMEMBERED: Final = 4096
"""Decided queries that the reader remembers: it is full within a minute or two."""
LINE_PERIOD_S: Final = 15.0
START_S: Final = 120.0
DEADLINE_MS: Final = 10_000
KB_IN_MB: Final = 1024.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory of a process at a moment, in MiB.

    Attributes:
        at_s: since the start of the run.
        rss: resident.
        pss: resident, with what is shared divided by those who share it.
        uss: resident and its own.
    """

    at_s: float
    rss: float
    pss: float
    uss: float


@dataclass(slots=True)
class Watched:
    """A process and what was seen of it.

    Attributes:
        name: for people.
        pid: process id.
        samples: in the order of time.
    """

    name: str
    pid: int
    samples: list[Sample] = field(default_factory=list)

    def sample(self, at_s: float) -> None:
        """Look at it now."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]
        kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        own = kb["Private_Clean"] + kb["Private_Dirty"]
        self.samples.append(Sample(at_s, kb["Rss"] / KB_IN_MB, kb["Pss"] / KB_IN_MB, own / KB_IN_MB))


@dataclass(frozen=True, slots=True)
class Trend:
    """What became of the memory of a process after the warm-up, in MiB.

    Attributes:
        start_mb: resident, by the fitted line.
        end_mb: the same at the end.
        max_mb: largest resident of all samples.
        own_start_mb: unshared, by its fitted line.
        own_end_mb: the same at the end.
        drift_percent: change of the resident memory by the fitted line.
    """

    start_mb: float
    end_mb: float
    max_mb: float
    own_start_mb: float
    own_end_mb: float
    drift_percent: float


def trend(samples: list[Sample], warm_up_s: float) -> Trend:
    """Fit straight lines to what came after the warm-up.

    Args:
        samples: at least two of them after it.
        warm_up_s: length of the warm-up.
    """
    late = [sample for sample in samples if sample.at_s >= warm_up_s]
    at_s = np.array([sample.at_s for sample in late])
    ends = []
    for values in ([sample.rss for sample in late], [sample.uss for sample in late]):
        slope, base = np.polyfit(at_s - at_s[0], np.array(values), 1)
        ends += [float(base), float(base + slope * (at_s[-1] - at_s[0]))]
    start, end, own_start, own_end = ends
    return Trend(start, end, max(sample.rss for sample in late), own_start, own_end, 100 * (end - start) / start)


class Reader:
    """Reads every outcome and asks ad-hoc questions.

    Args:
        bus: entered, with :meth:`subscriptions`.
        cameras: whom to ask.
        interval_s: time between two questions.

    Attributes:
        outcomes: decided queries by outcome.
        asked: ad-hoc questions asked.
        online: processes that say they are up.
        waiting: ad-hoc questions without outcome, by the time of asking.
        overdue: ad-hoc questions that had none long after their deadline.
    """

    def __init__(self, bus: MqttBus, cameras: list[str], interval_s: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self.asked = 0
        self.online: set[str] = set()
        self.waiting: dict[str, float] = {}
        self.overdue = 0
        self._bus = bus
        self._cameras = cameras
        self._interval_s = interval_s
        self._reducer = OutcomeReducer(capacity=REMEMBERED)

    @staticmethod
    def subscriptions() -> list[Subscription]:
        """What it listens to."""
        filters = [topics.family_filter(family) for family in (Family.ANSWER, Family.OUTCOME, Family.STATUS)]
        return [Subscription(entry, qos=1) for entry in (*filters, topics.reply_filter(CLIENT))]

    async def read(self) -> None:
        """Read until cancelled."""
        while True:
            for event in await self._bus.receive_batch():
                if not isinstance(event, Inbound):
                    continue
                self._bus.acknowledge(event)
                try:
                    _, message = wire.decode_publish(event.topic, event.payload)
                except WireError:
                    self.outcomes["undecodable"] += 1
                    continue
                if isinstance(message, Status) and message.online:
                    self.online.add(message.id)
                elif isinstance(message, Answer | QueryOutcome) and self._reducer.observe(message) is not None:
                    self.outcomes[str(message.outcome)] += 1
                    self.waiting.pop(message.query_id, None)

    async def wait_online(self, names: set[str]) -> None:
        """Wait until all of these have said that they are up.

        Raises:
            TimeoutError: they were not within :data:`START_S`.
        """
        async with asyncio.timeout(START_S):
            while not names <= self.online:  # noqa: ASYNC110 - a benchmark may look now and then
                await asyncio.sleep(0.2)

    async def ask(self) -> None:
        """Ask one question after another, until cancelled."""
        while True:
            text, answer_type = QUESTIONS[self.asked % len(QUESTIONS)]
            camera = self._cameras[self.asked % len(self._cameras)]
            asked = f"{CLIENT}-{self.asked}"
            ask = Ask(query_id=asked, text=text, answer_type=answer_type, deadline_ms=DEADLINE_MS)
            self.asked += 1
            self.waiting[ad_hoc_query_id(camera, CLIENT, asked)] = time.monotonic()
            try:
                await self._bus.publish(
                    topics.ask_topic(camera, CLIENT),
                    wire.encode(ask),
                    qos=1,
                    response_topic=topics.reply_topic(CLIENT, camera, asked),
                    correlation_data=asked.encode(),
                )
            except BusError:
                self.overdue += 1
            self._count_overdue(3 * DEADLINE_MS / 1000)
            await asyncio.sleep(self._interval_s)

    def _count_overdue(self, patience_s: float) -> None:
        limit_s = time.monotonic() - patience_s
        for query_id in [query_id for query_id, asked_s in self.waiting.items() if asked_s < limit_s]:
            del self.waiting[query_id]
            self.overdue += 1


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a run.

    Attributes:
        duration_s: of the run, warm-up included.
        warm_up_s: what was left out.
        cores: processor time of all processes by time.
        outcomes: decided queries by outcome.
        asked_ad_hoc: ad-hoc questions.
        overdue: those without outcome.
        ended: processes that ended on their own.
        processes: what became of the memory of each.
    """

    duration_s: float
    warm_up_s: float
    cores: float
    outcomes: dict[str, int]
    asked_ad_hoc: int
    overdue: int
    ended: list[str]
    processes: dict[str, Trend]

    @property
    def drifting(self) -> list[str]:
        """Processes whose resident memory is not flat."""
        return [name for name, found in self.processes.items() if abs(found.drift_percent) > MAX_DRIFT_PERCENT]

    @property
    def exit_status(self) -> int:
        """0 when memory was flat and everything was answered for."""
        return int(bool(self.drifting or self.ended or self.overdue or not self.outcomes.get(Outcome.ANSWERED)))

    def as_markdown(self) -> str:
        """The processes as a table, and what they did."""
        rows = []
        for name, found in self.processes.items():
            numbers = (found.start_mb, found.end_mb, found.max_mb, found.own_start_mb, found.own_end_mb)
            rows.append((name, *(f"{number:.1f}" for number in numbers), f"{found.drift_percent:+.1f} %"))
        head = ("process", "resident at first, MiB", "at the end", "largest", "own at first", "at the end", "drift")
        single = {
            "seconds": round(self.duration_s),
            "seconds of warm-up": round(self.warm_up_s),
            "cores in use": round(self.cores, 2),
            **{f"questions {outcome}": count for outcome, count in self.outcomes.items()},
            "ad-hoc questions": self.asked_ad_hoc,
            "ad-hoc questions without outcome": self.overdue,
        }
        return "\n\n".join((table(head, rows), tables(single)))

    def print(self, console: Console) -> None:
        """Print a table of the processes, and what they did."""
        table = Table("process", "start MiB", "end MiB", "max MiB", "own start", "own end", "drift %", box=None)
        for name, found in self.processes.items():
            numbers = (found.start_mb, found.end_mb, found.max_mb, found.own_start_mb, found.own_end_mb)
            table.add_row(name, *(f"{number:.1f}" for number in numbers), f"{found.drift_percent:+.2f}")
        console.print(table)
        console.print(f"{self.duration_s:.0f} s, {self.warm_up_s:.0f} s of it warm-up; {self.cores:.2f} cores in use")
        console.print(f"outcomes {self.outcomes}; {self.asked_ad_hoc} ad-hoc questions, {self.overdue} without outcome")
        for problem in (*(f"{name} drifts" for name in self.drifting), *(f"{name} ended" for name in self.ended)):
            console.print(problem)


def edge_settings(arguments: argparse.Namespace, broker: BrokerSettings, site: str, folder: Path) -> LatentbusSettings:
    """A site with rendered cameras and standing questions."""
    questions = {
        f"q{number}": QuestionSettings(text=text, answer_type=answer_type, deadline_ms=DEADLINE_MS)
        for number, (text, answer_type) in enumerate(QUESTIONS[:3])
    }
    cameras = {
        name: CameraSettings(source=f"test:{number}", interval_s=arguments.interval, questions=tuple(questions))
        for number, name in enumerate(camera_names(site, arguments.cameras // arguments.sites))
    }
    edge = EdgeSettings(
        site=site,
        uplink_kbps=arguments.uplink_kbps,
        cameras=cameras,
        questions=questions,
        state_dir=folder / f"{site}-state",
        threads=1,
    )
    return LatentbusSettings(broker=broker, edge=edge, log=LogSettings(json_lines=True))


def camera_names(site: str, count: int) -> list[str]:
    """Cameras of a site."""
    return [f"{site}-c{number}" for number in range(count)]


@asynccontextmanager
async def fleet(
    arguments: argparse.Namespace, broker: BrokerSettings, folder: Path, reader: Reader
) -> AsyncIterator[list[Child]]:
    """Workers, and edges when those are up; gone when the context ends."""
    async with AsyncExitStack() as stack:
        children: list[Child] = []
        for number in range(arguments.workers):
            worker = WorkerSettings(name=f"w{number}", threads=1)
            settings = LatentbusSettings(broker=broker, worker=worker, log=LogSettings(json_lines=True))
            children.append(await stack.enter_async_context(running_child(f"w{number}", "worker", settings, folder)))
        await reader.wait_online({child.name for child in children})
        for number in range(arguments.sites):
            settings = edge_settings(arguments, broker, f"s{number}", folder)
            children.append(await stack.enter_async_context(running_child(f"s{number}", "edge", settings, folder)))
        await reader.wait_online({child.name for child in children})
        yield children


async def soak(arguments: argparse.Namespace, stop: Stop, console: Console) -> Report:
    """Run the fleet and look at it from outside, until the time is over or somebody stops it."""
    sites = [f"s{number}" for number in range(arguments.sites)]
    cameras = [name for site in sites for name in camera_names(site, arguments.cameras // arguments.sites)]
    with tempfile.TemporaryDirectory() as name, LocalBroker() as broker:
        settings = BrokerSettings(host=broker.host, port=broker.port)
        bus = MqttBus(settings, client_id=CLIENT, subscriptions=Reader.subscriptions(), receive_maximum=1024)
        reader = Reader(bus, cameras, arguments.ask_every)
        async with bus, _reading(reader), fleet(arguments, settings, Path(name), reader) as children:
            asking = asyncio.create_task(reader.ask(), name="ask")
            watched = [Watched("broker", broker.pid), *(Watched(child.name, child.process.pid) for child in children)]
            watched.append(Watched("reader", os.getpid()))
            began_s, began_cpu_s = time.monotonic(), sum(process_cpu_s(one.pid) for one in watched)
            try:
                ended = await _watch(arguments, stop, console, watched, children, reader, began_s)
                cpu_s = sum(process_cpu_s(one.pid) for one in watched if one.name not in ended) - began_cpu_s
            finally:
                await _cancel(asking)
    duration_s = watched[0].samples[-1].at_s
    return Report(
        duration_s=round(duration_s, 1),
        warm_up_s=arguments.warm_up,
        cores=round(cpu_s / duration_s, 2),
        outcomes=dict(reader.outcomes),
        asked_ad_hoc=reader.asked,
        overdue=reader.overdue,
        ended=ended,
        processes={one.name: trend(one.samples, arguments.warm_up) for one in watched if one.name not in ended},
    )


@asynccontextmanager
async def _reading(reader: Reader) -> AsyncIterator[None]:
    reading = asyncio.create_task(reader.read(), name="read")
    try:
        yield
    finally:
        await _cancel(reading)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _watch(
    arguments: argparse.Namespace,
    stop: Stop,
    console: Console,
    watched: list[Watched],
    children: list[Child],
    reader: Reader,
    began_s: float,
) -> list[str]:
    """Sample until the time is over; names of processes that ended."""
    next_line_s = 0.0
    while True:
        now_s = time.monotonic() - began_s
        ended = [child.name for child in children if child.process.returncode is not None]
        for one in watched:
            if one.name not in ended:
                one.sample(now_s)
        if now_s >= next_line_s:
            memory = ", ".join(f"{one.name} {one.samples[-1].rss:.1f}" for one in watched if one.samples)
            console.print(f"{now_s:5.0f} s  {reader.outcomes.total()} decided, MiB: {memory}")
            next_line_s += LINE_PERIOD_S
        if ended or now_s >= arguments.duration or stop.requested:
            return ended
        try:
            async with asyncio.timeout(arguments.every):
                await stop.wait()
        except TimeoutError:
            pass


def main() -> int:
    """Print the table; 0 when the memory of all processes is flat."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="A try of a minute: python -m benchmarks.soak --duration 60",
    )
    parser.add_argument("--duration", type=float, default=1200.0, help="seconds, warm-up included (default: 1200)")
    parser.add_argument("--warm-up", type=float, help=f"seconds left out (default: {WARM_UP_S:.0f}, at most half)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples (default: 5)")
    parser.add_argument("--sites", type=int, default=2, help="edge processes (default: 2)")
    parser.add_argument("--cameras", type=int, default=8, help="rendered cameras of all sites (default: 8)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument(
        "--interval", type=float, default=0.15, help="seconds between frames of a camera (default: 0.15)"
    )
    parser.add_argument("--ask-every", type=float, default=0.2, help="seconds between ad-hoc questions (default: 0.2)")
    parser.add_argument("--uplink-kbps", type=float, default=4000.0, help="of each site (default: 4000)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--markdown", type=Path, help="write the figures as a page to this file")
    arguments = parser.parse_args()
    if arguments.warm_up is None:
        arguments.warm_up = min(WARM_UP_S, arguments.duration / 2)
    configure_logging("error")
    console = Console(highlight=False, soft_wrap=True, stderr=True)

    async def measure(stop: Stop) -> int:
        report = await soak(arguments, stop, console)
        report.print(Console(highlight=False))
        write_page(arguments.markdown, "Memory of a fleet under full load", report.as_markdown())
        if arguments.json is not None:
            figures: dict[str, Any] = asdict(report) | {"drifting": report.drifting}
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        return report.exit_status

    return run(measure, drain_timeout_s=60)


if __name__ == "__main__":
    sys.exit(main())
