"""A pool at three times its capacity, on real processes: ``python -m benchmarks.overload``.

A private broker, edges with rendered cameras and one worker, each a process as an operator starts it; the worker's
model is slowed down, so that two cores are enough to overload it. First its capacity is measured: a site floods it.
Then one site asks what the pool can do well, a second one joins for the peak and leaves again. Ad-hoc questions are
asked all along. Printed is for each phase what became of the questions, what the first site shed, and the
memory of worker and edge; then the time until that site was back at its full rate. Takes four minutes or so. Ends with
status 1 when an ad-hoc question in a hundred was late, memory grew by more than a tenth, or the full rate did not come
back.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from analysis.markdown import figures as tables
from analysis.markdown import table, value_text
from benchmarks.soak_report import Watched
from cloud_workers.inference.backend import InferenceBackend, InferenceItem, InferenceResult
from cloud_workers.inference.in_process import open_in_process
from cloud_workers.node import run_worker
from latentbus.fleet.client import FleetClient, reading
from latentbus.fleet.launcher import Launcher, write_settings
from latentbus.fleet.ledger import OutcomeLedger
from latentbus.fleet.process import FleetProcess
from latentbus.fleet.settings import (
    EVERY_FRAME,
    QUESTIONS,
    WIDE_BUDGET,
    camera_names,
    edge_node,
    rendered_cameras,
    standing_questions,
    worker_node,
)
from latentbus.reports.results_page import write_page
from pipeline.codec.spec import CodecSpec
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.logs import configure_logging
from pipeline.config.settings import LatentbusSettings, load_settings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import run
from pipeline.node.work_thread import WorkThread
from schemas.messages import Answer, QueryOutcome

CLIENT: Final = "overload"
DEADLINE_S: Final = 10.0
STANDING: Final = 2
"""Standing questions of a camera."""
CAMERAS: Final = 8
FLOOD_INTERVAL_S: Final = 0.3
MAX_BATCH_FRAMES: Final = 8
CALM_LOAD: Final = 0.6
LEAST_AD_HOC_IN_TIME: Final = 0.99
MAX_GROWTH_PERCENT: Final = 10.0
FULL_SHARE: Final = 0.95
REMEMBERED: Final = 65_536
"""Decided queries: more than come late."""


class PhaseReader(FleetClient):
    """Reads every outcome, asks ad-hoc questions, and counts both by phase.

    Args:
        broker: where to connect.

    Attributes:
        phase: what is going on.
        ended: queries by phase, who asked, and outcome.
        delays_s: of ad-hoc answers in time, by phase.
    """

    def __init__(self, broker: BrokerSettings) -> None:
        super().__init__(broker, CLIENT, self._read)
        self.phase = "start"
        self.ended: Counter[tuple[str, str, str]] = Counter()
        self.delays_s: dict[str, list[float]] = {}
        self._ledger = OutcomeLedger(capacity=REMEMBERED)
        self._phases: dict[str, str] = {}

    async def ask_for_ever(self, cameras: list[str], every_s: float) -> None:
        """Ask one question after another, until cancelled."""
        for number in itertools.count():
            text, answer_type = QUESTIONS[number % len(QUESTIONS)]
            camera, asked_s = cameras[number % len(cameras)], time.monotonic()
            query_id, ask = self.next_ask(camera, text, answer_type, DEADLINE_S)
            self._phases[query_id] = self.phase
            due_s = asked_s + DEADLINE_S
            self._ledger.asked(query_id, camera, ask.query_id, ad_hoc=True, asked_s=asked_s, due_s=due_s)
            await self.publish(camera, ask)
            await asyncio.sleep(every_s)

    def answered_standing(self) -> int:
        """Standing queries answered so far, in all phases."""
        return sum(n for (_, asked, outcome), n in self.ended.items() if (asked, outcome) == ("standing", "answered"))

    def _read(self, message: Answer | QueryOutcome, now_s: float, *, reply: bool = False) -> None:
        entry = self._ledger.observe(message, now_s, reply=reply)
        if entry is None:
            return
        phase, outcome = self._phases.pop(entry.query_id, self.phase), str(entry.outcome)
        if entry.asked_s is None:
            self.ended[phase, "standing", outcome] += 1
            return
        if outcome == "answered" and now_s <= entry.due_s:
            self.delays_s.setdefault(phase, []).append(now_s - entry.asked_s)
        elif outcome == "answered":
            outcome = "late"
        self.ended[phase, "ad_hoc", outcome] += 1


def scraped(port: int, name: str) -> float:
    """Sum of a metric of a process, over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        families = text_string_to_metric_families(reply.read().decode())
    return sum(s.value for family in families for s in family.samples if s.name == f"latentbus_{name}")


def edge(broker: BrokerSettings, site: str, interval_s: float, port: int | None = None) -> LatentbusSettings:
    """A site of rendered cameras with standing questions."""
    questions = standing_questions(STANDING, DEADLINE_S)
    settings = EdgeSettings(
        site=site,
        uplink_kbps=4000,
        cameras=rendered_cameras(camera_names(site, CAMERAS), list(questions), interval_s),
        questions=questions,
        change_gate=EVERY_FRAME,
        threads=1,
        client_budgets={CLIENT: WIDE_BUDGET},
        metrics_port=port,
    )
    return edge_node(broker, settings)


async def start_site(
    launcher: Launcher, broker: BrokerSettings, site: str, interval_s: float, port: int | None = None
) -> FleetProcess:
    """Start an edge and wait until it is ready."""
    process = await launcher.start_node(site, edge(broker, site, interval_s, port))
    await process.wait_ready()
    return process


async def start_slow_worker(launcher: Launcher, broker: BrokerSettings, frame_ms: float) -> FleetProcess:
    """Start a worker whose model takes so much longer a frame, and wait until it is ready."""
    worker = WorkerSettings(name="w0", threads=1, max_batch_frames=MAX_BATCH_FRAMES)
    config = write_settings("w0", worker_node(broker, worker), launcher.run_dir)
    arguments = ["-m", "benchmarks.overload", "--worker-config", str(config), "--frame-ms", str(frame_ms)]
    process = await launcher.start_python("w0", arguments)
    await process.wait_ready()
    return process


class SlowBackend:
    """Takes so much longer a frame than the backend behind it."""

    def __init__(self, backend: InferenceBackend, frame_s: float) -> None:
        self.capabilities = backend.capabilities
        self._backend = backend
        self._frame_s = frame_s

    async def submit(self, items: Sequence[InferenceItem]) -> Sequence[InferenceResult]:
        """Answers, later."""
        await asyncio.sleep(self._frame_s * len({id(item.features) for item in items}))
        return await self._backend.submit(items)

    async def close(self) -> None:
        """As the backend behind it."""
        await self._backend.close()


def be_slow_worker(config: Path, frame_ms: float) -> int:
    """The worker process."""
    configure_logging(json=True)
    settings = load_settings(config)

    def open_slow(worker: WorkerSettings, spec: CodecSpec, thread: WorkThread) -> SlowBackend:
        return SlowBackend(open_in_process(worker, spec, thread), frame_ms / 1000)

    return run(lambda stop: run_worker(settings, stop, open_backend=open_slow))


async def measure_capacity(reader: PhaseReader, launcher: Launcher, broker: BrokerSettings, seconds: float) -> float:
    """Frames a second that the worker answers when it never waits for one."""
    flood = await start_site(launcher, broker, "flood", FLOOD_INTERVAL_S)
    await asyncio.sleep(seconds / 2)  # the queue fills, caches and memory too
    before = reader.answered_standing()
    await asyncio.sleep(seconds)
    capacity_hz = (reader.answered_standing() - before) / STANDING / seconds
    await flood.drain()
    return capacity_hz


async def overload(arguments: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    """Run all phases."""
    async with Launcher(folder) as launcher:
        broker = await launcher.start_broker()
        reader = PhaseReader(broker)
        async with reading(reader):
            worker = await start_slow_worker(launcher, broker, arguments.frame_ms)
            capacity_hz = await measure_capacity(reader, launcher, broker, arguments.phase / 2)
            console.print(f"capacity: {capacity_hz:.2f} frames a second, {STANDING} questions each")
            figures: dict[str, Any] = {"phases": {}, "capacity_frames_per_s": round(capacity_hz, 2)}
            calm_s = CAMERAS / (CALM_LOAD * capacity_hz)
            site = await start_site(launcher, broker, "calm", calm_s, arguments.metrics_port)
            asks = reader.ask_for_ever(camera_names("calm", CAMERAS), 1 / (0.15 * capacity_hz))
            asking = asyncio.create_task(asks, name="ask")
            watched = [Watched("worker", worker.pid), Watched("edge", site.pid)]
            began_s = time.monotonic()
            try:
                for phase in ("before", "peak", "after"):
                    if phase == "peak":
                        peak_s = CAMERAS / ((arguments.load - CALM_LOAD) * capacity_hz)
                        second = await start_site(launcher, broker, "peak", peak_s, arguments.metrics_port + 1)
                    reader.phase = phase
                    found = await watch(arguments.phase, watched, arguments.metrics_port, began_s)
                    figures["phases"][phase] = found
                    if phase == "peak":
                        left_out = scraped(arguments.metrics_port + 1, "standing_slots_left_out_total")
                        figures["peak_site_left_out"] = left_out
                        await second.drain()
                    console.print(f"{phase}: {found}")
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await asyncio.sleep(DEADLINE_S)
            reader.phase = "end"  # what a worker says for an edge that is stopped is not counted
    summarise(figures, reader)
    return figures


async def watch(seconds: float, watched: list[Watched], port: int, began_s: float) -> dict[str, Any]:
    """Look at memory and share once a second; what was seen."""
    shares: list[float] = []
    left_out = await asyncio.to_thread(scraped, port, "standing_slots_left_out_total")
    start_s, first = time.monotonic(), len(watched[0].samples)
    while (now_s := time.monotonic()) - start_s < seconds:
        for one in watched:
            one.sample(now_s - began_s)
        shares.append(await asyncio.to_thread(scraped, port, "standing_share"))
        await asyncio.sleep(1.0)
    below = [index for index, share in enumerate(shares) if share < FULL_SHARE]
    return {
        "share_mean": round(sum(shares) / len(shares), 3),
        "share_min": round(min(shares), 3),
        "share_last": round(shares[-1], 3),
        "full_rate_after_s": below[-1] + 1 if below else 0,
        "slots_left_out": await asyncio.to_thread(scraped, port, "standing_slots_left_out_total") - left_out,
        "rss_max_mb": {one.name: round(max(s.rss for s in one.samples[first:]), 1) for one in watched},
    }


def summarise(figures: dict[str, Any], reader: PhaseReader) -> None:
    """Add what became of the questions, and the verdicts."""
    for phase, found in figures["phases"].items():
        for asked in ("standing", "ad_hoc"):
            found[asked] = {o: n for (p, a, o), n in sorted(reader.ended.items()) if (p, a) == (phase, asked)}
        delays_s = sorted(reader.delays_s.get(phase, [0.0]))
        found["ad_hoc_ms_p50"] = round(1000 * delays_s[len(delays_s) // 2])
        found["ad_hoc_ms_max"] = round(1000 * delays_s[-1])
    phases = figures["phases"]
    ad_hoc = sum((Counter(found["ad_hoc"]) for found in phases.values()), Counter[str]())
    figures["ad_hoc_in_time"] = round(ad_hoc["answered"] / max(1, ad_hoc.total()), 4)
    figures["growth_percent"] = {
        name: round(100 * (max(phases[p]["rss_max_mb"][name] for p in ("peak", "after")) / before - 1), 1)
        for name, before in phases["before"]["rss_max_mb"].items()
    }
    figures["recovery_s"] = (
        phases["after"]["full_rate_after_s"] if phases["after"]["share_last"] >= FULL_SHARE else None
    )


def as_markdown(figures: dict[str, Any]) -> str:
    """The figures as tables, a column for each phase."""
    phases = figures["phases"]
    rows: list[tuple[str, ...]] = []

    def add(words: str, value: Callable[[dict[str, Any]], object]) -> None:
        rows.append((words, *(value_text(value(found)) for found in phases.values())))

    for asked in ("ad_hoc", "standing"):
        for outcome in dict.fromkeys(name for found in phases.values() for name in found[asked]):
            add(
                f"{asked.replace('_', '-')} questions, {outcome}",
                lambda found, asked=asked, outcome=outcome: found[asked].get(outcome, 0),  # type: ignore[misc]
            )
    for words, name in (
        ("ad-hoc delay, median, ms", "ad_hoc_ms_p50"),
        ("ad-hoc delay, longest, ms", "ad_hoc_ms_max"),
        ("share of slots, mean", "share_mean"),
        ("share of slots, least", "share_min"),
        ("slots left out", "slots_left_out"),
    ):
        add(words, lambda found, name=name: found[name])  # type: ignore[misc]
    for name in phases["before"]["rss_max_mb"]:
        add(f"memory of the {name}, MiB at most", lambda found, name=name: found["rss_max_mb"][name])  # type: ignore[misc]
    single = {name: value for name, value in figures.items() if name not in {"phases", "growth_percent"}}
    single |= {f"memory growth of the {name}, %": value for name, value in figures["growth_percent"].items()}
    return "\n\n".join((table(("", *phases), rows), tables(single)))


def main() -> int:
    """Print the figures; 0 when the rule held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--load", type=float, default=3.0, help="peak, as a multiple of the capacity (default: 3)")
    parser.add_argument("--phase", type=float, default=45.0, help="seconds of each phase (default: 45)")
    parser.add_argument("--frame-ms", type=float, default=120.0, help="added model time a frame (default: 120)")
    parser.add_argument("--metrics-port", type=int, default=19_300, help="of the first edge; the second has the next")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--markdown", type=Path, help="write the figures as a page to this file")
    parser.add_argument("--worker-config", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker_config is not None:
        return be_slow_worker(arguments.worker_config, arguments.frame_ms)
    configure_logging("warning")
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(overload(arguments, Path(folder), console))
    table = Table("phase", "standing", "ad-hoc", "ad-hoc ms p50 / max", "share mean / min", "MiB", box=None)
    for phase, found in figures["phases"].items():
        table.add_row(
            *(phase, str(found["standing"]), str(found["ad_hoc"])),
            f"{found['ad_hoc_ms_p50']} / {found['ad_hoc_ms_max']}",
            *(f"{found['share_mean']} / {found['share_min']}", str(found["rss_max_mb"])),
        )
    console.print(table)
    console.print(f"ad-hoc in time {figures['ad_hoc_in_time']:.2%}, memory growth {figures['growth_percent']} %, "
                  f"full rate again after {figures['recovery_s']} s")  # fmt: skip
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_page(arguments.markdown, "Overload of real processes", as_markdown(figures))
    grown = any(percent > MAX_GROWTH_PERCENT for percent in figures["growth_percent"].values())
    return int(figures["ad_hoc_in_time"] < LEAST_AD_HOC_IN_TIME or grown or figures["recovery_s"] is None)


if __name__ == "__main__":
    sys.exit(main())
