"""``latentbus demo``: the whole system on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbus.reports.output_files import json_target, svg_target
from pipeline.config.settings import MAX_BATCH_FRAMES, MAX_INTERVAL_S, MAX_UPLINK_KBPS, FirstPrefixRule

EPILOG = (
    "Examples: latentbus demo --duration 60 --json out.json | latentbus demo --video street.mp4 "
    "--question 'is there a person?'"
)


def demo(
    duration: Annotated[float | None, typer.Option(help="Seconds to run; until Ctrl-C unless given.", min=1)] = None,
    uplink_kbps: Annotated[
        float, typer.Option(help="Uplink of the site, every byte on the wire counted.", min=1, max=MAX_UPLINK_KBPS)
    ] = 64,
    cameras: Annotated[int, typer.Option(help="Rendered cameras.", min=1, max=16)] = 4,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=16)] = 2,
    interval: Annotated[
        float, typer.Option(help="Seconds between frames of a camera.", min=0.1, max=MAX_INTERVAL_S)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the rendered cameras.", min=0)] = 7,
    video: Annotated[
        list[Path] | None, typer.Option(help="Your own video in place of the rendered ones; repeatable.")
    ] = None,
    question: Annotated[list[str] | None, typer.Option(help="What to ask of your own videos; repeatable.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.", callback=json_target)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the live table at its end to this SVG file.", callback=svg_target)
    ] = None,
    work_dir: Annotated[Path, typer.Option(help="Clips, generated settings and logs.")] = Path(".demo"),
    compare: Annotated[
        bool, typer.Option(help="Compute the other rows of the summary from the same frames afterwards.")
    ] = True,
    record: Annotated[Path | None, typer.Option(help="Log everything on the broker to this MCAP file.")] = None,
    batch_frames: Annotated[
        int,
        typer.Option(
            help="Frames in one batch of a worker's model; 1 makes a replay repeat it exactly.",
            min=1,
            max=MAX_BATCH_FRAMES,
        ),
    ] = 16,
    first_prefix: Annotated[
        FirstPrefixRule,
        typer.Option(
            help="What the first message of a frame carries: the prefix of the fewest expected bytes, of the shortest "
            "expected delay, always the base prefix, or everything."
        ),
    ] = "base",
) -> None:
    """Run the whole system on this machine: broker, one site of cameras on a thin uplink, and workers."""
    from latentbus.demo.options import DemoOptions
    from latentbus.demo.run import run_demo
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import run

    configure_logging("warning")
    options = DemoOptions(
        duration_s=duration,
        uplink_kbps=uplink_kbps,
        cameras=cameras,
        workers=workers,
        interval_s=interval,
        seed=seed,
        videos=tuple(video or ()),
        questions=tuple(question or ()),
        json_file=json_file,
        picture_file=picture,
        work_dir=work_dir,
        compare=compare,
        record=record,
        batch_frames=batch_frames,
        first_prefix=first_prefix,
    )
    # The drain of the edge is bounded by itself; then the comparison runs, which a second Ctrl-C ends.
    raise typer.Exit(run(lambda stop: run_demo(options, stop), drain_timeout_s=900))
