"""``latentbus replay``: the messages of a log, published again as they were recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, PortOption, broker_settings
from latentbus.commands.playing import KEYS, play
from latentbus.options.option_set import with_option_sets
from latentbus.replay.options import ReplayOptions
from latentbus.reports.output_files import json_target

if TYPE_CHECKING:
    from rich.console import Console

    from latentbus.replay.report import VerbatimReport
    from pipeline.node.runtime import Stop

EPILOG = (
    f"{KEYS} Examples: latentbus replay run.mcap --rate 2 --exclude 'lb/v2/status/#' | latentbus replay run.mcap "
    "--start 30 --duration 10 --remap-camera gate=gate-2 --loop"
)


@with_option_sets
def replay(
    options: ReplayOptions,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what came of it to this file.", callback=json_target)
    ] = None,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Publish the messages of a log again, as they were recorded."""
    from latentbus.replay.run import replay_verbatim
    from pipeline.config.logs import configure_logging

    configure_logging("warning")
    broker = broker_settings(config, host, port)

    async def work(stop: Stop, console: Console) -> VerbatimReport:
        report = await replay_verbatim(options, broker, stop, console)
        report.print(console)
        return report

    raise typer.Exit(play(work, json_file))
