"""The ``bench`` commands: figures of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from latentbus.reports.output_files import json_target
from latentbus.reports.results_page import MarkdownOption, write_page

bench_app = typer.Typer(
    help="Measure on this machine what the documentation claims.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@bench_app.callback()
def bench() -> None:
    """Keeps ``replay`` a command of its own while it is the only one."""


@bench_app.command(
    epilog="Examples: latentbus bench replay --json replay.json | latentbus bench replay --quick --work-dir disk"
)
def replay(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.", callback=json_target)
    ] = None,
    markdown: MarkdownOption = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Disk to measure: needs 2.5 GB for a while. The system's folder for such else.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A try: short runs, a log of 50 MB, fewer cuts. No figures to show.")
    ] = False,
    publishers: Annotated[int, typer.Option(help="mosquitto_pub processes that make the load.", min=1, max=64)] = 4,
    payload_bytes: Annotated[int, typer.Option(help="Size of each message.", min=20, max=100_000)] = 300,
    rate: Annotated[
        float, typer.Option(help="Messages a second to begin with; raised until some are lost.", min=10)
    ] = 8_000,
    repeats: Annotated[int, typer.Option(help="Runs of which the median counts.", min=1, max=100)] = 3,
) -> None:
    """Measure record, replay, opening and recovery of logs, with a private broker. Takes some minutes.

    Exit status: 0 when no message was lost and every cut log was recovered, 1 otherwise.
    """
    from analysis.markdown import figures
    from latentbus.bench.replay import BenchOptions, bench_replay, write_report
    from latentbus.reports.safe_console import SafeConsole
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import Stop, run

    configure_logging("warning")
    options = BenchOptions(
        work_dir=work_dir,
        json_file=json_file,
        publishers=publishers,
        payload_bytes=payload_bytes,
        first_hz=rate,
        repeats=repeats,
    )
    if quick:
        options = replace(
            options,
            factor=2.0,
            record_s=2.0,
            repeats=1,
            seek_log_bytes=50_000_000,
            probes=10,
            recover_log_bytes=300_000,
        )
    console = SafeConsole(stderr=True, highlight=False, soft_wrap=True)

    async def measure(stop: Stop) -> int:
        import asyncio

        stop.set_ready()
        work = asyncio.ensure_future(bench_replay(options, console))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not work.done():
            # Nothing is kept of a measurement that was broken off; its folder and its processes go.
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return 1
        report = work.result()
        report.print(SafeConsole(highlight=False, soft_wrap=True))
        write_report(report, options)
        write_page(markdown, "Logs: record, replay, open and recover", figures(report.to_json(options)))
        return int(not report.recover_ok or report.recorded_loss > 0)

    raise typer.Exit(run(measure, drain_timeout_s=60))
