"""What ``latentbus what-if`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from latentbus.reports.output_files import json_target


@dataclass(frozen=True, slots=True)
class WhatIfOptions:
    """What is asked for.

    Attributes:
        logs: log files, merged by time.
        codec: codec folder that the log was recorded with; None takes what the log says, and the bundled one.
        recorded_kbps: uplink of every recorded site, where the log does not say it.
        site_kbps: see :class:`~latentbus.what_if.simulate.Changes`, as the following.
        workers: workers in the pool.
        frame_ms: time of the model for a frame.
        base_latents: prefix that opens a frame.
        order: order of the uplinks.
        stop_file: another stop rule.
        risk: takes the score at its word: an answer is safe when it is at least 1 - risk.
        json_file: where every figure is written.
    """

    logs: Annotated[tuple[Path, ...], typer.Argument(help="Logs of one run, taken together.", metavar="IN.mcap")]
    codec: Annotated[
        Path | None, typer.Option(help="Codec folder that the log was recorded with; the bundled one else.")
    ] = None
    recorded_kbps: Annotated[
        float | None, typer.Option(help="Uplink of each site in the log, where it does not say.", min=0.1)
    ] = None
    site_kbps: Annotated[
        float | None, typer.Option("--uplink-kbps", help="Uplink of each site; the recorded one else.", min=1)
    ] = None
    workers: Annotated[int | None, typer.Option(help="Workers in the pool.", min=1, max=10_000)] = None
    frame_ms: Annotated[float | None, typer.Option(help="Model time of a frame.", min=0)] = None
    base_latents: Annotated[
        int | None, typer.Option(help="Prefix that opens each frame; the recorded one else.", min=1)
    ] = None
    order: Annotated[
        str | None,
        typer.Option(help="'first come first served', 'round robin' or 'expected gain' (the edge's)."),
    ] = None
    stop_file: Annotated[Path | None, typer.Option("--stop", help="stop.json of another calibration.")] = None
    risk: Annotated[float | None, typer.Option(help="Stop at a score of 1 - risk, not calibrated.", min=0, max=1)] = (
        None
    )
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.", callback=json_target)
    ] = None
