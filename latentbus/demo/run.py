"""Composes the demo: broker, workers, edge, client; then the comparison and the summary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live

from latentbus.demo.cameras import DemoCamera, edge_settings, prepare_cameras, question_texts
from latentbus.demo.dashboard import show, start_dashboard
from latentbus.demo.evaluation import accuracy_of_run, compare
from latentbus.demo.headline import Headline
from latentbus.demo.ledger import DemoLedger
from latentbus.demo.options import DemoOptions
from latentbus.demo.picture import write_picture
from latentbus.demo.summary import Rows, Summary
from latentbus.demo.view import Heading, final_table, live_table, progress_line
from latentbus.fleet.client import FleetClient, reading
from latentbus.fleet.frame_log import FrameLogReader
from latentbus.fleet.launcher import Launcher, write_settings
from latentbus.fleet.process import FleetProcess
from latentbus.fleet.settings import edge_node, worker_node
from latentbus.reports.output_files import fresh_run_dir
from latentbus.reports.safe_console import SafeConsole
from pipeline.codec.bundled import ModelPair, models_in
from pipeline.codec.spec import SPEC_FILE, STOP_FILE
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import Stop
from schemas.counting import counted

LAST_WORD_S: Final = 3.0
"""What an edge published before it ended is at the client within this time."""
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
    run = DemoRun(cameras, options, run_dir, stop, console)
    last, ledger = await run.until_drained(), run.ledger
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
            rows = await compare(
                cameras, ledger, models_in(options.models), stop, lambda text: console.print(f"[dim]{text}[/]")
            )
            summary = replace(summary, comparison=rows or Rows())
    finally:
        # However the comparison ended, the run itself is over and has its summary.
        summary.print(console)
        if options.json_file is not None:
            summary.write_json(options.json_file)
        if options.picture_file is not None:
            write_picture(options.picture_file, final_table(cameras, ledger, last), "latentbus demo")
    return summary.exit_status


class DemoRun:
    """Broker, workers and edge of a demo, and what is shown of them.

    Args:
        cameras: of its site.
        options: what was asked for.
        run_dir: an empty folder for settings and logs.
        stop: drains it early.
        console: for the table, or lines.

    Attributes:
        ledger: of the run.
    """

    def __init__(
        self, cameras: list[DemoCamera], options: DemoOptions, run_dir: Path, stop: Stop, console: Console
    ) -> None:
        self.ledger = DemoLedger()
        self._cameras = cameras
        self._options = options
        self._run_dir = run_dir
        self._stop = stop
        self._console = console
        self._log = FrameLogReader(run_dir / "frames.jsonl")
        self._models = models_in(options.models)

    async def until_drained(self) -> Heading:
        """Run until all is drained; returns what stood above the table when no more was asked.

        Raises:
            LatentbusError: a part of it could not be started, or the edge ended on its own.
        """
        options, run_dir = self._options, self._run_dir
        async with Launcher(run_dir) as launcher:
            broker = await launcher.start_broker()
            client = FleetClient(broker, "demo", self.ledger.observe)
            pool = {name: _worker(name, options, self._models) for name in _worker_names(options)}
            settings = {name: worker_node(broker, worker) for name, worker in pool.items()}
            site = edge_node(broker, edge_settings(self._cameras, options, run_dir, self._models.codec))
            async with reading(client):
                recorder = None
                if options.record is not None:
                    explained = [write_settings(name, one, run_dir) for name, one in {"edge": site, **settings}.items()]
                    explained += [self._models.codec / name for name in (SPEC_FILE, STOP_FILE)]
                    recorder = await launcher.start_command(
                        "recorder", _record_arguments(broker, options.record, explained)
                    )
                    await launcher.wait_ready(recorder)
                self._console.print(
                    f"[dim]broker on {broker.host}:{broker.port}; starting {counted(options.workers, 'worker')} "
                    f"(logs in {options.work_dir / 'run'})[/]"
                )
                dashboard = None
                if options.dashboard:
                    dashboard, url = await start_dashboard(launcher, broker, run_dir)
                    self._console.print(f"[bold]dashboard on {url}[/]", soft_wrap=True)
                    await show(url)
                workers = [await launcher.start_node(name, one) for name, one in settings.items()]
                await launcher.wait_ready(*workers)
                edge = await launcher.start_node("edge", site)
                await launcher.wait_ready(edge)
                last = await self._show_until_end(edge, _Heading(f"{broker.host}:{broker.port}", options, client))
                self._console.print("[dim]draining[/]")
                await edge.drain()
                self.ledger.read(self._log)
                await client.wait_until(lambda: not self.ledger.unfinished, LAST_WORD_S)
                await launcher.drain(*workers, *(() if dashboard is None else (dashboard,)))
                if recorder is not None and await recorder.drain():
                    raise recorder.error()
        return last

    async def _show_until_end(self, edge: FleetProcess, heading: _Heading) -> Heading:
        duration_s = float("inf") if self._options.duration_s is None else self._options.duration_s
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        edge_ended = asyncio.create_task(edge.wait(), name="edge ended")
        try:
            with _shown(self._console) as live:
                display = _Display(self._cameras, self.ledger, self._console, live)
                while True:
                    left_s = duration_s - heading.elapsed_s
                    await asyncio.wait(
                        {stopped, edge_ended},
                        timeout=max(min(_TABLE_PERIOD_S, left_s), 0),
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    self.ledger.read(self._log)
                    ending = left_s <= 0 or stopped.done()
                    # Just before the end there is no line of its own: the last one follows.
                    display.show(heading.now(), line=ending or left_s > _TABLE_PERIOD_S, last=ending)
                    if edge_ended.done():
                        raise edge.error()
                    if ending:
                        return heading.now()
        finally:
            for task in (stopped, edge_ended):
                task.cancel()
            await asyncio.gather(stopped, edge_ended, return_exceptions=True)


class _Display:
    """A table on a terminal; elsewhere lines, of which one comes every few seconds."""

    def __init__(self, cameras: list[DemoCamera], ledger: DemoLedger, console: Console, live: Live | None) -> None:
        self._cameras = cameras
        self._ledger = ledger
        self._console = console
        self._live = live
        self._headline = Headline(ledger, question_texts(cameras))
        self._next_line_s = _LINE_PERIOD_S

    def show(self, heading: Heading, *, line: bool, last: bool) -> None:
        """Show the state of the run.

        Args:
            heading: above the table.
            line: a line may come if it is due.
            last: it comes whether it is due or not.
        """
        due = last or (line and heading.elapsed_s >= self._next_line_s)
        lines = self._headline.lines(always=due and self._live is None)
        if self._live is not None:
            table = live_table(self._cameras, self._ledger, heading, self._headline.latest_refinement)
            self._live.update(table, refresh=True)
            return
        for text in lines:
            self._console.print(text, soft_wrap=True, markup=False)
        if due:
            self._next_line_s += _LINE_PERIOD_S
            self._console.print(progress_line(self._ledger, heading), soft_wrap=True)


class _Heading:
    """The moving parts of the line above the table."""

    def __init__(self, broker: str, options: DemoOptions, client: FleetClient) -> None:
        self._broker = broker
        self._options = options
        self._client = client
        self._started_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def now(self) -> Heading:
        online = sum(name.startswith("worker/") for name in self._client.online)
        workers = f"{online} of {self._options.workers}"
        return Heading(self._broker, self.elapsed_s, self._options.uplink_kbps, workers)


@contextmanager
def _shown(console: Console) -> Iterator[Live | None]:
    """A table that stays when the context ends; None where there is no terminal."""
    if not console.is_terminal:
        yield None
        return
    live = Live(console=console, auto_refresh=False, transient=False)
    live.start()
    try:
        yield live
    finally:
        live.stop()


def _worker_names(options: DemoOptions) -> list[str]:
    return [f"w{number + 1}" for number in range(options.workers)]


def _worker(name: str, options: DemoOptions, models: ModelPair) -> WorkerSettings:
    # One thread each: the demo's workers share one machine with everything else.
    return WorkerSettings(
        name=name,
        threads=1,
        max_batch_frames=options.batch_frames,
        vlm=str(models.vlm.absolute()),
        codec=models.codec.absolute(),
    )


def _record_arguments(broker: BrokerSettings, path: Path, explained: Sequence[Path]) -> list[str]:
    """The recorder's command, with the files that explain its log."""
    where = ["--host", broker.host, "--port", str(broker.port)]
    attached = [argument for file in explained for argument in ("--attach", str(file))]
    return ["record", str(path.absolute()), "--name", _RECORDER, "--max-time", "none", *where, *attached]
