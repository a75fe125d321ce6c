"""A fleet at load for half an hour, with faults, and its memory over time: ``python -m benchmarks.soak``.

A private broker, edges with rendered cameras and one network camera each, and workers, as the processes that an
operator starts; a reader asks ad-hoc questions along the way. The network cameras are killed and stalled, and the links
of the edges to the broker are cut and fall silent, all of them again and again. Every few seconds the memory of each
process is read from ``/proc/PID/smaps_rollup``. Ends with status 1 when the resident memory of one drifts by more than
5 % after the warm-up, when a process ends, when a question got no outcome, or when a camera, a link or a stored frame
is stuck at the end.

The warm-up is long enough for the bounded caches of docs/buffers.md to fill at this load: a cache that still fills is
not flat. The reader's own is made small for that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.flaky_camera import FlakyCamera
from benchmarks.soak_faults import KEEPALIVE_S, LONGEST_S, STALL_S, Faults
from benchmarks.soak_outcomes import AtRest, Ends, EndsRead
from benchmarks.soak_report import Report, Watched, trend
from broker_config.launcher import LocalBroker
from latentbus.chaos.tcp_proxy import FaultProxy
from latentbus.fleet.client import FleetClient, reading
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.ledger import OutcomeLedger
from latentbus.fleet.settings import (
    EVERY_FRAME,
    QUESTIONS,
    camera_names,
    edge_node,
    rendered_cameras,
    standing_questions,
    worker_node,
)
from latentbus.fleet.usage import cpu_s
from latentbus.reports.results_page import write_page
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.logs import configure_logging
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import Stop, run
from schemas.errors import BusError
from schemas.messages import Answer, QueryOutcome

CLIENT: Final = "soak"
WARM_UP_S: Final = 180.0
REMEMBERED: Final = 4096
"""Decided queries that the reader remembers: it is full within a minute or two."""
LINE_PERIOD_S: Final = 15.0
DEADLINE_S: Final = 10.0
SETTLE_S: Final = 90.0
"""After the last fault: a camera is opened again within 30 s, and stored frames are sent."""
STANDING: Final = 3
"""Standing questions of a camera."""


class Reader(FleetClient):
    """Reads every outcome and asks ad-hoc questions.

    Args:
        broker: where to connect.
        cameras: whom to ask.
        interval_s: time between two questions.
        ends: told of every query that ends.

    Attributes:
        ledger: what it read.
        unsent: questions that could not be published.
    """

    def __init__(self, broker: BrokerSettings, cameras: list[str], interval_s: float, ends: EndsRead) -> None:
        # A question that finds the link cut waits at the broker, and its deadline counts from its arrival.
        self.ledger = OutcomeLedger(capacity=REMEMBERED, read_lag_s=2 * DEADLINE_S + 4 * LONGEST_S)
        self.unsent = 0
        self._ends = ends
        super().__init__(broker, CLIENT, self._observe_end, replies=True)
        self._cameras = cameras
        self._interval_s = interval_s

    def _observe_end(self, message: Answer | QueryOutcome, now_s: float, *, reply: bool = False) -> None:
        if not reply:
            self._ends.note(message)
        self.ledger.observe(message, now_s, reply=reply)

    @property
    def overdue(self) -> int:
        """Ad-hoc questions that had no outcome long after their deadline."""
        return self.unsent + self.ledger.late + len(self.ledger.overdue(time.monotonic()))

    async def ask_for_ever(self) -> None:
        """Ask one question after another, until cancelled."""
        while True:
            text, answer_type = QUESTIONS[self.asked % len(QUESTIONS)]
            camera, asked_s = self._cameras[self.asked % len(self._cameras)], time.monotonic()
            query_id, ask = self.next_ask(camera, text, answer_type, DEADLINE_S)
            try:
                await self.publish(camera, ask)
                due_s = asked_s + DEADLINE_S
                self.ledger.asked(query_id, camera, ask.query_id, ad_hoc=True, asked_s=asked_s, due_s=due_s)
            except BusError:
                self.unsent += 1
            await asyncio.sleep(self._interval_s)


def edge_settings(arguments: argparse.Namespace, site: str, folder: Path, source: str, port: int) -> EdgeSettings:
    """A site with rendered cameras, a network camera and standing questions.

    Args:
        arguments: of the command.
        site: its name.
        folder: where it keeps state and frame log.
        source: address of its network camera.
        port: of its metrics.
    """
    questions = standing_questions(STANDING, DEADLINE_S)
    names = camera_names(site, arguments.cameras // arguments.sites)
    live = CameraSettings(source=source, interval_s=arguments.interval, questions=tuple(questions), stall_s=STALL_S)
    return EdgeSettings(
        site=site,
        uplink_kbps=arguments.uplink_kbps,
        cameras=rendered_cameras(names, list(questions), arguments.interval) | {_live_camera(site): live},
        questions=questions,
        change_gate=EVERY_FRAME,
        state_dir=folder / f"{site}-state",
        frame_log=_frame_log(folder, site),
        metrics_port=port,
        threads=1,
    )


def _live_camera(site: str) -> str:
    return f"{site}-live"


def _frame_log(folder: Path, site: str) -> Path:
    return folder / f"{site}-frames.jsonl"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class _Site:
    """An edge, with what is broken around it."""

    name: str
    camera: FlakyCamera
    link: FaultProxy
    metrics_port: int


async def start_fleet(
    launcher: Launcher, arguments: argparse.Namespace, broker: BrokerSettings, sites: Sequence[_Site]
) -> None:
    """Start workers, and edges when those are up; wait until all are."""
    for number in range(arguments.workers):
        name = f"w{number}"
        await launcher.start_node(name, worker_node(broker, WorkerSettings(name=name, threads=1)))
    await launcher.wait_ready()
    for site in sites:
        edge = edge_settings(arguments, site.name, launcher.run_dir, site.camera.source, site.metrics_port)
        through = broker.model_copy(update={"host": site.link.host, "port": site.link.port, "keepalive_s": KEEPALIVE_S})
        await launcher.start_node(edge.site, edge_node(through, edge))
    await launcher.wait_ready()


async def soak(arguments: argparse.Namespace, stop: Stop, console: Console) -> Report:
    """Run the fleet and look at it from outside, until the time is over or somebody stops it."""
    names = [f"s{number}" for number in range(arguments.sites)]
    async with AsyncExitStack() as owned:
        folder = Path(owned.enter_context(tempfile.TemporaryDirectory()))
        launcher = await owned.enter_async_context(Launcher(folder))
        broker = LocalBroker()
        settings = await launcher.start_broker(broker)
        sites = [
            _Site(
                name,
                await owned.enter_async_context(FlakyCamera(number)),
                await owned.enter_async_context(FaultProxy(lambda: (broker.host, broker.port))),
                _free_port(),
            )
            for number, name in enumerate(names)
        ]
        ends = EndsRead(folder / "ends.txt")
        asked = [camera for name in names for camera in camera_names(name, arguments.cameras // arguments.sites)]
        reader = Reader(settings, [*asked, *map(_live_camera, names)], arguments.ask_every, ends)
        cameras, links = [site.camera for site in sites], [site.link for site in sites]
        faults = Faults(cameras, links, arguments.faults, said=console.print)
        async with reading(reader):
            await start_fleet(launcher, arguments, settings, sites)
            watched = [Watched("broker", broker.pid)]
            watched += [Watched(process.name, process.pid) for process in launcher.processes.values()]
            watched.append(Watched("reader", os.getpid()))
            tasks = [
                asyncio.create_task(reader.ask_for_ever(), name="ask"),
                asyncio.create_task(faults.run(max(0.0, arguments.duration - arguments.settle)), name="faults"),
            ]
            try:
                ended, cpu_share = await _watch(arguments, stop, console, watched, launcher, reader)
            finally:
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result
            await reader.wait_until(lambda: not reader.ledger.undecided, timeout_s=3 * DEADLINE_S)
            edges = {name: process for name, process in launcher.processes.items() if name in names}
            at_rest = {
                site.name: await asyncio.to_thread(AtRest.of, site.metrics_port)
                for site in sites
                if site.name in edges and site.name not in ended
            }
            statuses = await launcher.drain(*edges.values())
            await asyncio.sleep(1.0)  # what the broker passes on last
        ends_found = await asyncio.to_thread(Ends.of, [_frame_log(folder, name) for name in names], ends.read())
    duration_s = watched[0].samples[-1].at_s
    return Report(
        duration_s=round(duration_s, 1),
        warm_up_s=arguments.warm_up,
        cores=round(cpu_share, 2),
        outcomes={str(outcome): count for outcome, count in reader.ledger.outcomes.items()},
        asked_ad_hoc=reader.asked,
        overdue=reader.overdue,
        ended=ended,
        processes={one.name: trend(one.samples, arguments.warm_up) for one in watched if one.name not in ended},
        faults=dict(faults.done),
        ends=ends_found,
        history={str(outcome): count for outcome, count in reader.ledger.reducer.history.items()},
        at_rest=at_rest,
        not_drained=[name for name, status in zip(edges, statuses, strict=True) if status],
    )


async def _watch(
    arguments: argparse.Namespace,
    stop: Stop,
    console: Console,
    watched: list[Watched],
    launcher: Launcher,
    reader: Reader,
) -> tuple[list[str], float]:
    """Sample until the time is over; names of processes that ended, and the cores in use by those that did not."""
    began_s, next_line_s = time.monotonic(), 0.0
    began_cpu_s = {one.name: cpu_s(one.pid) or 0.0 for one in watched}
    while True:
        now_s = time.monotonic() - began_s
        ended = [process.name for process in launcher.ended]
        running = [one for one in watched if one.name not in ended]
        for one in running:
            one.sample(now_s)
        if now_s >= next_line_s:
            memory = ", ".join(f"{one.name} {one.samples[-1].rss:.1f}" for one in watched if one.samples)
            console.print(f"{now_s:5.0f} s  {reader.ledger.outcomes.total()} decided, MiB: {memory}")
            next_line_s += LINE_PERIOD_S
        if ended or now_s >= arguments.duration or stop.requested:
            used_s = sum((cpu_s(one.pid) or 0.0) - began_cpu_s[one.name] for one in running)
            return ended, used_s / now_s
        try:
            async with asyncio.timeout(arguments.every):
                await stop.wait()
        except TimeoutError:
            pass


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of the command.

    Args:
        words: of the command line; None takes this process's.
    """
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="A try of two minutes: python -m benchmarks.soak --duration 120 --faults 1 --settle 40",
    )
    parser.add_argument("--duration", type=float, default=1800.0, help="seconds, warm-up included (default: 1800)")
    parser.add_argument(
        "--faults",
        type=int,
        default=20,
        help="cameras killed, stalled, and links cut: each so often (default: 20)",
    )
    parser.add_argument("--settle", type=float, default=SETTLE_S, help=f"seconds after the last fault ({SETTLE_S:.0f})")
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
    arguments = parser.parse_args(words)
    if arguments.warm_up is None:
        arguments.warm_up = min(WARM_UP_S, arguments.duration / 2)
    return arguments


def main() -> int:
    """Print the table; 0 when memory is flat, everything was answered for and nothing is stuck."""
    arguments = parsed()
    configure_logging("error")
    console = Console(highlight=False, soft_wrap=True, stderr=True)

    async def measure(stop: Stop) -> int:
        report = await soak(arguments, stop, console)
        report.print(Console(highlight=False))
        write_page(arguments.markdown, "A fleet under load and faults", report.as_markdown())
        if arguments.json is not None:
            figures: dict[str, Any] = asdict(report) | {"problems": report.problems}
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        return report.exit_status

    return run(measure, drain_timeout_s=60)


if __name__ == "__main__":
    sys.exit(main())
