"""What a demo run is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from latentbus.reports.output_files import json_target, svg_target
from pipeline.config.camera_settings import MAX_INTERVAL_S
from pipeline.config.edge_settings import MAX_UPLINK_KBPS, FirstPrefixRule
from pipeline.config.worker_settings import MAX_BATCH_FRAMES


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Options of ``latentbus demo``.

    Attributes:
        duration_s: seconds until it drains by itself; None runs until it is stopped.
        uplink_kbps: rate of the site's uplink, every byte on the wire counted.
        cameras: number of rendered cameras; ignored with own videos.
        workers: worker processes.
        interval_s: time between frames of a camera.
        seed: seed of the rendered cameras.
        videos: own video files, one camera each.
        questions: what to ask of own videos.
        json_file: where every figure is written.
        picture_file: where the live table is drawn at the end, as SVG; None for nowhere.
        work_dir: clips, generated settings and logs.
        compare: compute the other rows of the summary from the same frames afterwards.
        record: log of everything on the broker, None for none.
        batch_frames: frames in one batch of a worker's model at most.
        first_prefix: what the first message of a frame carries, as in the edge's settings.
        models: directory with the model and its codec; None for the bundled ones.
        dashboard: serve the dashboard beside it, and open it in a browser.
    """

    duration_s: Annotated[
        float | None, typer.Option("--duration", help="Seconds to run; until Ctrl-C unless given.", min=1)
    ] = None
    uplink_kbps: Annotated[
        float, typer.Option(help="Uplink of the site, every byte on the wire counted.", min=1, max=MAX_UPLINK_KBPS)
    ] = 64
    cameras: Annotated[int, typer.Option(help="Rendered cameras.", min=1, max=16)] = 4
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=16)] = 2
    interval_s: Annotated[
        float, typer.Option("--interval", help="Seconds between frames of a camera.", min=0.1, max=MAX_INTERVAL_S)
    ] = 1.0
    seed: Annotated[int, typer.Option(help="Seed of the rendered cameras.", min=0)] = 7
    videos: Annotated[
        tuple[Path, ...],
        typer.Option("--video", help="Your own video in place of the rendered ones; repeatable."),
    ] = ()
    questions: Annotated[
        tuple[str, ...], typer.Option("--question", help="What to ask of your own videos; repeatable.")
    ] = ()
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.", callback=json_target)
    ] = None
    picture_file: Annotated[
        Path | None,
        typer.Option("--picture", help="Draw the live table at its end to this SVG file.", callback=svg_target),
    ] = None
    work_dir: Annotated[Path, typer.Option(help="Clips, generated settings and logs.")] = Path(".demo")
    compare: Annotated[
        bool, typer.Option(help="Compute the other rows of the summary from the same frames afterwards.")
    ] = True
    record: Annotated[Path | None, typer.Option(help="Log everything on the broker to this MCAP file.")] = None
    batch_frames: Annotated[
        int,
        typer.Option(
            help="Frames in one batch of a worker's model; 1 makes a replay repeat it exactly.",
            min=1,
            max=MAX_BATCH_FRAMES,
        ),
    ] = 16
    first_prefix: Annotated[
        FirstPrefixRule,
        typer.Option(
            help="What the first message of a frame carries: the prefix of the fewest expected bytes, of the shortest "
            "expected delay, always the base prefix, or everything."
        ),
    ] = "base"
    models: Annotated[
        Path | None,
        typer.Option(
            help="Directory of latentbus codec calibrate, or laid out as the bundled models; the bundled ones unless "
            "given.",
            file_okay=False,
        ),
    ] = None
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Serve the dashboard beside it, and open it in a browser.")
    ] = False
