"""The ``bench`` commands: figures of this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from latentbus.bench.options import BenchOptions, EdgeBenchOptions
from latentbus.options.option_set import with_option_sets
from latentbus.reports.results_page import write_page

bench_app = typer.Typer(
    help="Measure on this machine what the documentation claims.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@bench_app.command(
    epilog="Examples: latentbus bench replay --json replay.json | latentbus bench replay --quick --work-dir disk"
)
@with_option_sets
def replay(
    options: BenchOptions,
    quick: Annotated[
        bool, typer.Option("--quick", help="A try: short runs, a log of 50 MB, fewer cuts. No figures to show.")
    ] = False,
) -> None:
    """Measure record, replay, opening and recovery of logs, with a private broker. Takes some minutes.

    Exit status: 0 when no message was lost and every cut log was recovered, 1 otherwise.
    """
    from analysis.markdown import figures
    from latentbus.bench.replay import bench_replay, write_report
    from latentbus.reports.safe_console import SafeConsole
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import Stop, run

    configure_logging("warning")
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
        write_page(options.markdown, "Logs: record, replay, open and recover", figures(report.to_json(options)))
        return int(not report.recover_ok or report.recorded_loss > 0)

    raise typer.Exit(run(measure, drain_timeout_s=60))


@bench_app.command(
    epilog="Examples: latentbus bench edge --json edge.json | latentbus bench edge --no-install --compared-frames 0"
)
@with_option_sets
def edge(options: EdgeBenchOptions) -> None:
    """Measure what an edge takes of this device: disk, memory, time and energy of a frame.

    Codec path, upload of a JPEG and the whole model on the device side by side. Figures that need a broker, torch, pip
    or a counter of energy are left out where there is none, with the reason.

    Exit status: 0 when all that was measured is as it should be, 1 otherwise.
    """
    import asyncio

    from analysis.markdown import figures
    from latentbus.bench.edge.run import bench_edge
    from latentbus.reports.output_files import write_json
    from latentbus.reports.plain import plain
    from pipeline.config.logs import configure_logging

    configure_logging("error")
    found = asyncio.run(bench_edge(options, lambda what: typer.echo(f"measuring: {what}", err=True)))
    report = found.as_dict()
    for name, value in report.items():
        typer.echo(f"{name:28} {plain(value)}")
    write_json(options.json_file, report)
    write_page(options.markdown, "An edge on a device", figures(report))
    raise typer.Exit(int(bool(found.missed())))
