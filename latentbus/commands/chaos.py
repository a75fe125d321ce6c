"""``latentbus chaos``: real processes, real faults, and books that must balance."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import typer

from latentbus.chaos.plan import FaultKind
from latentbus.reports.output_files import json_target
from latentbus.reports.results_page import MarkdownOption, write_page
from pipeline.config.settings import MAX_INTERVAL_S

_PLAIN_WIDTH = 120


def chaos(
    questions: Annotated[int, typer.Option(help="Questions to ask, at least.", min=1)] = 2000,
    faults: Annotated[int, typer.Option(help="Faults to inject, spread over the questions.", min=0)] = 40,
    seed: Annotated[int | None, typer.Option(help="Seed of the fault plan; drawn unless given.", min=0)] = None,
    kind: Annotated[list[FaultKind] | None, typer.Option(help="Only this kind of fault; repeatable.")] = None,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=16)] = 3,
    sites: Annotated[int, typer.Option(help="Edge processes.", min=1, max=16)] = 2,
    cameras: Annotated[int, typer.Option(help="Cameras of each site.", min=1, max=16)] = 2,
    interval: Annotated[
        float, typer.Option(help="Seconds between frames of a camera.", min=0.1, max=MAX_INTERVAL_S)
    ] = 1.0,
    deadline: Annotated[float, typer.Option(help="Deadline of each question in seconds.", min=1, max=600)] = 15.0,
    codec: Annotated[Path | None, typer.Option(help="Codec folder; the bundled one unless given.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.", callback=json_target)
    ] = None,
    markdown: MarkdownOption = None,
    work_dir: Annotated[Path, typer.Option(help="Generated settings, logs, database of the broker.")] = Path(".chaos"),
) -> None:
    """Break a real fleet on this machine and check that every question still ends exactly once.

    Exit status 1 when a question was lost or decided twice, or a process did not survive what it should; see
    docs/chaos.md. Ctrl-C drains and reports.
    """
    from latentbus.chaos.options import ChaosOptions
    from latentbus.chaos.run import run_chaos
    from latentbus.reports.safe_console import SafeConsole
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import Stop, run

    configure_logging("error")
    options = ChaosOptions(
        questions=questions,
        faults=faults,
        seed=random.SystemRandom().randrange(1_000_000) if seed is None else seed,
        kinds=tuple(kind or FaultKind),
        workers=workers,
        sites=sites,
        cameras_per_site=cameras,
        interval_s=interval,
        deadline_s=deadline,
        codec=codec,
        json_file=json_file,
        work_dir=work_dir,
    )
    console = SafeConsole(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH

    async def run_and_report(stop: Stop) -> int:
        report = await run_chaos(options, stop, console)
        report.print(console)
        if options.json_file is not None:
            report.write_json(options.json_file)
        write_page(markdown, "Faults on real processes", report.as_markdown())
        return report.exit_status

    raise typer.Exit(run(run_and_report, drain_timeout_s=900))
