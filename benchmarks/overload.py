"""A pool at three times its capacity, on real processes: ``python -m benchmarks.overload``.

A private broker, edges with rendered cameras and one worker, each a process as an operator starts it; the worker's
model is slowed down, so that two cores are enough to overload it. First its capacity is measured: a site floods it.
Then one site asks what the pool can do well, a second one joins for the peak and leaves again. Ad-hoc questions are
asked all along. Printed is for each phase what became of the questions, how far the first site was thinned out, and the
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
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from cloud_workers.vlm import TransformersVlm, VlmAnswer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from analysis.markdown import figures as tables
from analysis.markdown import table, value_text
from benchmarks.soak import Watched, camera_names
from broker_config.launcher import LocalBroker
from cloud_workers.node import run_worker
from latentbus.chaos.fleet import QUESTIONS
from latentbus.demo.children import Child, running_child
from latentbus.results_page import write_page
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.logs import configure_logging
from pipeline.config.settings import (
    BrokerSettings,
    CameraSettings,
    ClientBudgetSettings,
    EdgeSettings,
    LatentbusSettings,
    LogSettings,
    QuestionSettings,
    WorkerSettings,
    load_settings,
)
from pipeline.node.runtime import run
from pipeline.protocol.reducer import OutcomeReducer
from schemas import topics, wire
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome, Status
from schemas.topics import Family

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
START_S: Final = 120.0


class Books:
    """Reads every outcome, asks ad-hoc questions, and books both by phase.

    Args:
        bus: entered, with :meth:`subscriptions`.

    Attributes:
        phase: what is going on.
        ended: queries by phase, who asked, and outcome.
        delays_s: of ad-hoc answers in time, by phase.
        online: processes that say they are up.
    """

    def __init__(self, bus: MqttBus) -> None:
        self.phase = "start"
        self.ended: Counter[tuple[str, str, str]] = Counter()
        self.delays_s: dict[str, list[float]] = {}
        self.online: set[str] = set()
        self._bus = bus
        self._reducer = OutcomeReducer()
        self._asked: dict[str, tuple[str, float]] = {}

    @staticmethod
    def subscriptions() -> list[Subscription]:
        """What it listens to."""
        families = (Family.ANSWER, Family.OUTCOME, Family.STATUS)
        return [Subscription(topics.family_filter(family), qos=1) for family in families]

    async def read(self) -> None:
        """Read until cancelled."""
        while True:
            for event in await self._bus.receive_batch():
                if not isinstance(event, Inbound):
                    continue
                self._bus.acknowledge(event)
                _, message = wire.decode_publish(event.topic, event.payload)
                if isinstance(message, Status):
                    (self.online.add if message.online else self.online.discard)(message.id)
                elif isinstance(message, Answer | QueryOutcome) and self._reducer.observe(message) is not None:
                    self._book(message)

    def _book(self, message: Answer | QueryOutcome) -> None:
        phase, asked_s = self._asked.pop(message.query_id, (self.phase, None))
        outcome = str(message.outcome)
        if asked_s is None:
            self.ended[phase, "standing", outcome] += 1
            return
        delay_s = time.monotonic() - asked_s
        if outcome == "answered" and delay_s <= DEADLINE_S:
            self.delays_s.setdefault(phase, []).append(delay_s)
        elif outcome == "answered":
            outcome = "late"
        self.ended[phase, "ad_hoc", outcome] += 1

    async def ask(self, cameras: list[str], every_s: float) -> None:
        """Ask one question after another, until cancelled."""
        for number in itertools.count():
            text, answer_type = QUESTIONS[number % len(QUESTIONS)]
            ask = Ask(query_id=f"{CLIENT}-{number}", text=text, answer_type=answer_type,
                      deadline_ms=round(1000 * DEADLINE_S))  # fmt: skip
            camera = cameras[number % len(cameras)]
            self._asked[ad_hoc_query_id(camera, CLIENT, ask.query_id)] = (self.phase, time.monotonic())
            await self._bus.publish(topics.ask_topic(camera, CLIENT), wire.encode(ask), qos=1)
            await asyncio.sleep(every_s)

    async def until(self, done: Callable[[set[str]], bool]) -> None:
        """Wait until the processes that are up are as wanted."""
        async with asyncio.timeout(START_S):
            while not done(self.online):  # noqa: ASYNC110 - a benchmark may look now and then
                await asyncio.sleep(0.2)

    def answered_standing(self) -> int:
        """Standing queries answered so far, in all phases."""
        return sum(n for (_, asked, outcome), n in self.ended.items() if (asked, outcome) == ("standing", "answered"))


def scraped(port: int, name: str) -> float:
    """Sum of a metric of a process, over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        families = text_string_to_metric_families(reply.read().decode())
    return sum(s.value for family in families for s in family.samples if s.name == f"latentbus_{name}")


def edge(broker: BrokerSettings, site: str, interval_s: float, port: int | None = None) -> LatentbusSettings:
    """A site of rendered cameras with standing questions."""
    questions = {
        f"q{number}": QuestionSettings(text=text, answer_type=kind, deadline_ms=round(1000 * DEADLINE_S))
        for number, (text, kind) in enumerate(QUESTIONS[:STANDING])
    }
    cameras = {
        name: CameraSettings(source=f"test:{number}", interval_s=interval_s, questions=tuple(questions))
        for number, name in enumerate(camera_names(site, CAMERAS))
    }
    # The one client of the run asks for many, as a gateway does.
    budgets = {CLIENT: ClientBudgetSettings(asks_per_s=1_000, burst_asks=1_000, open_asks=256, kbps=1_000)}
    settings = EdgeSettings(site=site, uplink_kbps=4000, cameras=cameras, questions=questions, threads=1,
                            client_budgets=budgets,
                            metrics_port=port)  # fmt: skip
    return LatentbusSettings(broker=broker, edge=settings, log=LogSettings(json_lines=True))


@asynccontextmanager
async def slow_worker(broker: BrokerSettings, frame_ms: float, folder: Path) -> AsyncIterator[int]:
    """A worker process whose model takes so much longer a frame; its process id."""
    settings = WorkerSettings(name="w0", threads=1, max_batch_frames=MAX_BATCH_FRAMES)
    config = folder / "w0.json"
    config.write_text(LatentbusSettings(broker=broker, worker=settings).model_dump_json(exclude_none=True))
    with (folder / "w0.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.overload", "--worker-config", str(config)),
            *("--frame-ms", str(frame_ms)),
            stdout=log,
            stderr=log,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


def be_slow_worker(config: Path, frame_ms: float) -> int:
    """The worker process."""
    answer = TransformersVlm.answer

    def slow(self: TransformersVlm, tokens: Any, *arguments: Any, **options: Any) -> list[VlmAnswer]:
        time.sleep(frame_ms / 1000 * len(tokens))
        return answer(self, tokens, *arguments, **options)

    configure_logging(json=True)
    settings = load_settings(config)
    with patch.object(TransformersVlm, "answer", slow):
        return run(lambda stop: run_worker(settings, stop))


async def measure_capacity(books: Books, broker: BrokerSettings, seconds: float, folder: Path) -> float:
    """Frames a second that the worker answers when it never waits for one."""
    async with running_child("flood", "edge", edge(broker, "flood", FLOOD_INTERVAL_S), folder) as flood:
        await books.until(lambda online: "flood" in online)
        await asyncio.sleep(seconds / 2)  # the queue fills, caches and memory too
        before = books.answered_standing()
        await asyncio.sleep(seconds)
        capacity_hz = (books.answered_standing() - before) / STANDING / seconds
        await flood.drain()
    return capacity_hz


async def overload(arguments: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    """Run all phases."""
    figures: dict[str, Any] = {"phases": {}}
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(LocalBroker())
        settings = BrokerSettings(host=broker.host, port=broker.port)
        bus = MqttBus(settings, client_id=CLIENT, subscriptions=Books.subscriptions(), receive_maximum=1024)
        books = Books(bus)
        await stack.enter_async_context(bus)
        reading = asyncio.create_task(books.read(), name="read")
        stack.callback(reading.cancel)
        worker_pid = await stack.enter_async_context(slow_worker(settings, arguments.frame_ms, folder))
        await books.until(lambda online: "w0" in online)
        capacity_hz = await measure_capacity(books, settings, arguments.phase / 2, folder)
        console.print(f"capacity: {capacity_hz:.2f} frames a second, {STANDING} questions each")
        figures["capacity_frames_per_s"] = round(capacity_hz, 2)
        calm_s = CAMERAS / (CALM_LOAD * capacity_hz)
        peak_s = CAMERAS / ((arguments.load - CALM_LOAD) * capacity_hz)
        port = arguments.metrics_port
        site = await stack.enter_async_context(
            running_child("calm", "edge", edge(settings, "calm", calm_s, port), folder)
        )
        await books.until(lambda online: "calm" in online)
        asking = asyncio.create_task(books.ask(camera_names("calm", CAMERAS), 1 / (0.15 * capacity_hz)), name="ask")
        stack.callback(asking.cancel)
        watched = [Watched("worker", worker_pid), Watched("edge", site.process.pid)]
        began_s = time.monotonic()
        for phase in ("before", "peak", "after"):
            async with AsyncExitStack() as peak:
                rival: Child | None = None
                if phase == "peak":
                    rival = await peak.enter_async_context(
                        running_child("peak", "edge", edge(settings, "peak", peak_s, port + 1), folder)
                    )
                    await books.until(lambda online: "peak" in online)
                books.phase = phase
                figures["phases"][phase] = await watch(arguments.phase, watched, port, began_s)
                if rival is not None:
                    figures["peak_site_left_out"] = scraped(port + 1, "standing_slots_left_out_total")
                    await rival.drain()
            console.print(f"{phase}: {figures['phases'][phase]}")
        asking.cancel()
        await asyncio.sleep(DEADLINE_S)
        books.phase = "end"  # what a worker says for an edge that is stopped is not booked
    summarise(figures, books)
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


def summarise(figures: dict[str, Any], books: Books) -> None:
    """Add what became of the questions, and the verdicts."""
    for phase, found in figures["phases"].items():
        for asked in ("standing", "ad_hoc"):
            found[asked] = {o: n for (p, a, o), n in sorted(books.ended.items()) if (p, a) == (phase, asked)}
        delays_s = sorted(books.delays_s.get(phase, [0.0]))
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
