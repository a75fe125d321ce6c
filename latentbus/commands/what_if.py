"""``latentbus what-if``: what another uplink, pool or policy would have made of a recorded run, in the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbus.reports.output_files import json_target

EPILOG = "Example: latentbus what-if run.mcap site.mcap --uplink-kbps 16 --workers 1"


def what_if(
    logs: Annotated[list[Path], typer.Argument(help="Logs of one run, taken together.", metavar="IN.mcap")],
    codec: Annotated[
        Path | None, typer.Option(help="Codec folder that the log was recorded with; the bundled one else.")
    ] = None,
    recorded_kbps: Annotated[
        float | None, typer.Option(help="Uplink of each site in the log, where it does not say.", min=0.1)
    ] = None,
    uplink_kbps: Annotated[
        float | None, typer.Option(help="Uplink of each site; the recorded one else.", min=1)
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Workers in the pool.", min=1, max=10_000)] = None,
    frame_ms: Annotated[float | None, typer.Option(help="Model time of a frame.", min=0)] = None,
    base_latents: Annotated[
        int | None, typer.Option(help="Prefix that opens each frame; the recorded one else.", min=1)
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(help="'first come first served', 'round robin' or 'expected gain' (the edge's)."),
    ] = None,
    stop_file: Annotated[Path | None, typer.Option("--stop", help="stop.json of another calibration.")] = None,
    risk: Annotated[
        float | None, typer.Option(help="Stop at a score of 1 - risk, not calibrated.", min=0, max=1)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.", callback=json_target)
    ] = None,
) -> None:
    """Compute what another uplink, pool or policy would have made of a recorded run. Nothing is published."""
    from latentbus.reports.safe_console import SafeConsole
    from latentbus.what_if.run import WhatIfOptions, run_what_if
    from pipeline.config.logs import configure_logging

    configure_logging("warning")
    asked = WhatIfOptions(
        logs=tuple(logs),
        codec=codec,
        recorded_kbps=recorded_kbps,
        site_kbps=uplink_kbps,
        workers=workers,
        frame_ms=frame_ms,
        base_latents=base_latents,
        order=order,
        stop_file=stop_file,
        risk=risk,
        json_file=json_file,
    )
    run_what_if(asked, SafeConsole(stderr=True))
