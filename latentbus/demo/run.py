"""Composes the demo: broker, workers, edge, observer; then the comparison and the summary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live

from broker_config.launcher import LocalBroker
from latentbus.demo.children import Child, running_child, running_command, write_settings
from latentbus.demo.fleet import DemoCamera, broker_settings, edge_settings, prepare_cameras, question_texts
from latentbus.demo.headline import Headline
from latentbus.demo.judge import accuracy_of_run, compare
from latentbus.demo.ledger import Ledger
from latentbus.demo.observer import FrameLogTail, Observer
from latentbus.demo.options import DemoOptions
from latentbus.demo.picture import write_picture
from latentbus.demo.summary import Rows, Summary
from latentbus.demo.view import Heading, final_table, live_table, progress_line
from latentbus.output_files import fresh_run_dir
from latentbus.safe_console import SafeConsole
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.spec import SPEC_FILE, STOP_FILE
from pipeline.config.settings import BrokerSettings, LatentbusSettings, LogSettings, WorkerSettings
from pipeline.node.runtime import Stop

START_TIMEOUT_S: Final = 120.0
"""Workers import torch and load the model; on a slow disk that takes its time."""
LAST_WORD_S: Final = 3.0
"""What an edge published before it ended is at the observer within this time."""
_RECORDER: Final = "demo-recorder"
_TABLE_PERIOD_S: Final = 0.25
_LINE_PERIOD_S: Final = 5.0
_PLAIN_WIDTH: Final = 120


async def run_demo(options: DemoOptions, stop: Stop) -> int:
    """Run the demo to its end.

    Args:
        options: what was asked for.
        stop: drains it early; the summary still comes.

    Returns:
        Exit status, see :attr:`latentbus.demo.summary.Summary.exit_status`.

    Raises:
        LatentbusError: a part of it could not be started, or the edge ended on its own.
    """
    console = SafeConsole(highlight=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    cameras = await asyncio.to_thread(
        prepare_cameras, options, lambda text: console.print(text, style="dim", markup=False)
    )
    # Absolute: paths in a settings file are relative to the file.
    run_dir = fresh_run_dir(options.work_dir)
    ledger = Ledger()
    last = await _run_fleet(cameras, options, run_dir, ledger, stop, console)
    accuracy, scored = accuracy_of_run(cameras, ledger)
    summary = Summary(
        figures=ledger.figures(),
        accuracy=accuracy,
        scored=scored,
        comparison=Rows(),
        duration_s=last.elapsed_s,
        uplink_kbps=options.uplink_kbps,
    )
    try:
        if options.compare:
            console.print(
                "[dim]asking the same questions the other ways, on one thread: some minutes after a long run; "
                "Ctrl-C skips it[/]"
            )
            rows = await compare(cameras, ledger, stop, lambda text: console.print(f"[dim]{text}[/]"))
            summary = replace(summary, comparison=rows or Rows())
    finally:
        # However the comparison ended, the run itself is over and has its summary.
        summary.print(console)
        if options.json_file is not None:
            summary.write_json(options.json_file)
        if options.picture_file is not None:
            write_picture(options.picture_file, final_table(cameras, ledger, last), "latentbus demo")
    return summary.exit_status


async def _run_fleet(
    cameras: list[DemoCamera],
    options: DemoOptions,
    run_dir: Path,
    ledger: Ledger,
    stop: Stop,
    console: Console,
) -> Heading:
    """Run broker, workers and edge until all is drained; returns what stood above the table when no more was asked."""
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(LocalBroker())
        broker = broker_settings(local.host, local.port)
        observer = await stack.enter_async_context(_observing(broker, ledger))
        pool = {
            name: _worker_settings(broker, name, options)
            for name in (f"w{number + 1}" for number in range(options.workers))
        }
        settings = LatentbusSettings(
            broker=broker, edge=edge_settings(cameras, options, run_dir), log=LogSettings(json_lines=True)
        )
        recorder = None
        if options.record is not None:
            explained = [write_settings(name, about, run_dir) for name, about in {"edge": settings, **pool}.items()]
            explained += [bundled_codec_dir() / name for name in (SPEC_FILE, STOP_FILE)]
            recorder = await stack.enter_async_context(
                running_command("recorder", _record_arguments(broker, options.record, explained), run_dir)
            )
            await _until_online(observer, [recorder], "recorder", names={f"recorder/{_RECORDER}"})
        console.print(
            f"[dim]broker on {local.host}:{local.port}; starting {options.workers} workers "
            f"(logs in {options.work_dir / 'run'})[/]"
        )
        workers = [
            await stack.enter_async_context(running_child(name, "worker", about, run_dir))
            for name, about in pool.items()
        ]
        await _until_online(observer, workers, "worker")
        edge = await stack.enter_async_context(running_child("edge", "edge", settings, run_dir))
        await _until_online(observer, [edge], "edge", names={"edge/demo"})
        tail = FrameLogTail(run_dir / "frames.jsonl", ledger)
        heading = _Heading(f"{local.host}:{local.port}", options, observer, {worker.name for worker in workers})
        last = await _show_until_end(cameras, options, ledger, tail, heading, edge, stop, console)
        console.print("[dim]draining[/]")
        await edge.drain()
        tail.poll()
        await observer.wait_decided(LAST_WORD_S)
        await asyncio.gather(*(worker.drain() for worker in workers))
        if recorder is not None and await recorder.drain():
            raise recorder.error()
    return last


class _Heading:
    """The moving parts of the line above the table."""

    def __init__(self, broker: str, options: DemoOptions, observer: Observer, workers: set[str]) -> None:
        self._broker = broker
        self._uplink_kbps = options.uplink_kbps
        self._observer = observer
        self._workers = {f"worker/{name}" for name in workers}
        self._started_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def now(self) -> Heading:
        online = len(self._workers & self._observer.online)
        return Heading(self._broker, self.elapsed_s, self._uplink_kbps, f"{online} of {len(self._workers)}")


async def _show_until_end(
    cameras: list[DemoCamera],
    options: DemoOptions,
    ledger: Ledger,
    tail: FrameLogTail,
    heading: _Heading,
    edge: Child,
    stop: Stop,
    console: Console,
) -> Heading:
    stopped = asyncio.create_task(stop.wait(), name="stop")
    edge_ended = asyncio.create_task(edge.process.wait(), name="edge ended")
    next_line_s = _LINE_PERIOD_S
    headline = Headline(ledger, question_texts(cameras))
    live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
    try:
        if live is not None:
            live.start()
        while True:
            left_s = float("inf") if options.duration_s is None else options.duration_s - heading.elapsed_s
            waited = {stopped, edge_ended}
            await asyncio.wait(
                waited, timeout=max(min(_TABLE_PERIOD_S, left_s), 0), return_when=asyncio.FIRST_COMPLETED
            )
            tail.poll()
            ending = left_s <= 0 or stopped.done()
            # Just before the end there is no line of its own: the last one follows.
            due = ending or (heading.elapsed_s >= next_line_s and left_s > _TABLE_PERIOD_S)
            lines = headline.lines(always=due and live is None)
            if live is not None:
                live.update(live_table(cameras, ledger, heading.now(), headline.latest_refinement), refresh=True)
            else:
                for line in lines:
                    console.print(line, soft_wrap=True, markup=False)
                if due:
                    next_line_s += _LINE_PERIOD_S
                    console.print(progress_line(ledger, heading.now()), soft_wrap=True)
            if edge_ended.done():
                raise edge.error()
            if ending:
                return heading.now()
    finally:
        if live is not None:
            live.stop()
        for task in (stopped, edge_ended):
            task.cancel()
        await asyncio.gather(stopped, edge_ended, return_exceptions=True)


@asynccontextmanager
async def _observing(broker: BrokerSettings, ledger: Ledger) -> AsyncIterator[Observer]:
    observer = Observer(broker, ledger)
    async with observer.bus:
        await observer.bus.wait_connected(10)
        reading = asyncio.create_task(observer.run(), name="observer")
        try:
            yield observer
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _until_online(observer: Observer, children: list[Child], role: str, names: set[str] | None = None) -> None:
    """Wait until children are up, or one of them ends instead."""
    wanted = names or {f"{role}/{child.name}" for child in children}
    online = asyncio.create_task(observer.wait_online(wanted), name="online")
    ended = {asyncio.create_task(child.process.wait(), name=f"{child.name} ended"): child for child in children}
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            done, _ = await asyncio.wait({online, *ended}, return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        raise children[0].error() from None
    finally:
        for task in (online, *ended):
            task.cancel()
        await asyncio.gather(online, *ended, return_exceptions=True)
    for task, child in ended.items():
        if task in done:
            raise child.error()


def _worker_settings(broker: BrokerSettings, name: str, options: DemoOptions) -> LatentbusSettings:
    # One thread each: the demo's workers share one machine with everything else.
    worker = WorkerSettings(name=name, threads=1, max_batch_frames=options.batch_frames)
    return LatentbusSettings(broker=broker, worker=worker, log=LogSettings(json_lines=True))


def _record_arguments(broker: BrokerSettings, path: Path, explained: Sequence[Path]) -> list[str]:
    """The recorder's command, with the files that explain its log."""
    where = ["--host", broker.host, "--port", str(broker.port)]
    attached = [argument for file in explained for argument in ("--attach", str(file))]
    return ["record", str(path.absolute()), "--name", _RECORDER, "--max-time", "none", *where, *attached]
