"""``latentbus replay-cameras``: the frames of a log, offered to live workers by virtual cameras."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, PortOption, broker_settings
from latentbus.commands.playing import KEYS, play
from latentbus.options.option_set import with_option_sets
from latentbus.replay.options import CameraOptions, CameraPartOptions, LocalOptions
from latentbus.reports.output_files import json_target

if TYPE_CHECKING:
    from rich.console import Console

    from latentbus.replay.report import CameraReport
    from pipeline.node.runtime import Stop

EPILOG = (
    f"{KEYS} Example: latentbus replay-cameras run.mcap --rate 10 --local-workers 1 --record again.mcap, then "
    "latentbus compare run.mcap again.mcap"
)


@with_option_sets
def replay_cameras(
    options: CameraPartOptions,
    cameras: CameraOptions,
    local: LocalOptions,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what came of it to this file.", callback=json_target)
    ] = None,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Let the cameras of a log meet live workers again: its frames, at its times, over an uplink of your choice."""
    from latentbus.replay.run import replay_cameras as replay_as_cameras
    from pipeline.config.logs import configure_logging

    configure_logging("warning")
    broker = broker_settings(config, host, port)

    async def work(stop: Stop, console: Console) -> CameraReport:
        report = await replay_as_cameras(
            options, cameras, broker, stop, console, local=None if local.workers is None else local
        )
        report.print(console, options.logs)
        return report

    raise typer.Exit(play(work, json_file))
