"""``latentbus replay``: the messages of a log, published again as they were recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, PortOption, broker_settings
from latentbus.commands.playing import (
    KEYS,
    DelayOption,
    DurationOption,
    ExcludeOption,
    FastOption,
    LogsArgument,
    LoopOption,
    PausedOption,
    RateOption,
    RemapOption,
    StartOption,
    UntilOption,
    play,
    replay_options,
)
from latentbus.reports.output_files import json_target

if TYPE_CHECKING:
    from rich.console import Console

    from latentbus.replay.report import VerbatimReport
    from pipeline.node.runtime import Stop

EPILOG = (
    f"{KEYS} Examples: latentbus replay run.mcap --rate 2 --exclude 'lb/v2/status/#' | latentbus replay run.mcap "
    "--start 30 --duration 10 --remap-camera gate=gate-2 --loop"
)


def replay(
    logs: LogsArgument,
    rate: RateOption = 1.0,
    fast: FastOption = False,
    start: StartOption = None,
    duration: DurationOption = None,
    until: UntilOption = None,
    topic: Annotated[list[str] | None, typer.Option(help="MQTT topic filter to take; repeatable.")] = None,
    exclude: ExcludeOption = None,
    remap_camera: RemapOption = None,
    loop: LoopOption = False,
    retained: Annotated[
        bool, typer.Option("--retained", help="Replace what the broker retains; left out and said otherwise.")
    ] = False,
    start_paused: PausedOption = False,
    delay: DelayOption = 0,
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
    options = replay_options(
        logs,
        rate=rate,
        fast=fast,
        start=start,
        duration=duration,
        until=until,
        topic=topic,
        exclude=exclude,
        remap_camera=remap_camera,
        loop=loop,
        start_paused=start_paused,
        delay=delay,
        retained=retained,
    )
    broker = broker_settings(config, host, port)

    async def work(stop: Stop, console: Console) -> VerbatimReport:
        report = await replay_verbatim(options, broker, stop, console)
        report.print(console)
        return report

    raise typer.Exit(play(work, json_file))
