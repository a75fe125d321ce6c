"""The ``bench`` commands: figures of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from latentbus.bench.options import BenchOptions, EdgeBenchOptions
from latentbus.options.option_set import with_option_sets
from latentbus.options.training import (
    DEFAULT_CACHE,
    CacheOption,
    JsonOption,
    SeedOption,
    ThreadsOption,
    VlmOption,
    run_settings,
    vlm_or_bundled,
    write_report,
)
from latentbus.reports.results_page import MarkdownOption, write_page

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
    from latentbus.bench.measuring import unless_stopped
    from latentbus.bench.replay import bench_replay
    from latentbus.bench.replay import write_report as write_bench_report
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
        report = await unless_stopped(bench_replay(options, console), stop)
        if report is None:
            return 1
        report.print(SafeConsole(highlight=False, soft_wrap=True))
        write_bench_report(report, options)
        write_page(options.markdown, "Logs: record, replay, open and recover", figures(report.to_json(options)))
        return int(not report.recover_ok or report.recorded_loss > 0)

    raise typer.Exit(run(measure, drain_timeout_s=60))


@bench_app.command(
    epilog="Examples: latentbus bench gate --json gate.json | latentbus bench gate --quick --no-video | "
    "latentbus bench gate --video yard.mp4"
)
def gate(
    codec: Annotated[Path | None, typer.Option(help="Codec folder; the bundled one unless given.")] = None,
    vlm: VlmOption = None,
    minutes: Annotated[float, typer.Option(help="Of each rendered camera, a frame a second.", min=0.5)] = 20.0,
    camera: Annotated[
        list[str] | None,
        typer.Option(help="Rendered camera, repeatable: noise-and-drift, wind, rain-and-wind. All if none."),
    ] = None,
    events: Annotated[float, typer.Option(help="Events an hour before each rendered camera.", min=0.1)] = 6.0,
    video: Annotated[
        Path | None,
        typer.Option(help="Video of a camera that stands still; vtest.avi of Debian's opencv-doc unless given."),
    ] = None,
    no_video: Annotated[bool, typer.Option("--no-video", help="Rendered cameras alone.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A try: two minutes of each. No figures to show.")] = False,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
    markdown: MarkdownOption = None,
) -> None:
    """Measure what the change gate saves and misses: bytes an hour, answers that differ, events, time to an answer.

    Each camera is played without a gate, with key frames alone, and with the gate on top of key frames.
    """
    from analysis.markdown import figures
    from latentbus.bench.gate import GateBench, bench_gate, checked_cameras
    from pipeline.codec.bundled import bundled_codec_dir

    report = bench_gate(
        GateBench(
            vlm_or_bundled(vlm),
            codec or bundled_codec_dir(),
            run_settings(cache, seed, threads),
            2.0 if quick else minutes,
            events,
            video,
            not no_video,
            rendered=checked_cameras(camera),
        )
    )
    write_report(report, json_file)
    write_page(markdown, "The change gate", figures(report))


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
