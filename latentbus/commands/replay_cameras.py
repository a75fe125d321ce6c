"""``latentbus replay-cameras``: the frames of a log, offered to live workers by virtual cameras."""

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
from latentbus.options.arguments import checked_name
from latentbus.replay.options import CameraOptions, Deadlines, LocalOptions, QuestionSource
from latentbus.reports.output_files import json_target
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from latentbus.replay.report import CameraReport
    from pipeline.node.runtime import Stop

EPILOG = (
    f"{KEYS} Example: latentbus replay-cameras run.mcap --rate 10 --local-workers 1 --record again.mcap, then "
    "latentbus compare run.mcap again.mcap"
)


def replay_cameras(
    logs: LogsArgument,
    rate: RateOption = 1.0,
    fast: FastOption = False,
    start: StartOption = None,
    duration: DurationOption = None,
    until: UntilOption = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="MQTT topic filter of open messages to take; repeatable.")
    ] = None,
    exclude: ExcludeOption = None,
    remap_camera: RemapOption = None,
    loop: LoopOption = False,
    start_paused: PausedOption = False,
    delay: DelayOption = 0,
    codec: Annotated[
        Path | None, typer.Option(help="Codec folder that the log was recorded with; the bundled one else.")
    ] = None,
    pool_codec: Annotated[
        Path | None, typer.Option(help="Codec folder of the workers: same tables, another decoder.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Pool to ask; the recorded one else.")] = None,
    site: Annotated[
        str | None, typer.Option(help="One site for all cameras, under this name (a secured broker's).")
    ] = None,
    base_latents: Annotated[
        int | None, typer.Option(help="Prefix that opens each frame; the recorded one else.", min=1)
    ] = None,
    uplink_kbps: Annotated[
        float | None, typer.Option(help="Limit of each site's uplink, in log time; none else.", min=1)
    ] = None,
    deadlines: Annotated[
        Deadlines, typer.Option(help="Divide deadlines by the rate, or keep the recorded ones.")
    ] = Deadlines.SCALED,
    keep_rate: Annotated[
        bool, typer.Option("--keep-rate", help="Do not wait for workers that fall behind; shows overload.")
    ] = False,
    questions: Annotated[
        QuestionSource | None, typer.Option(help="Whose question texts count where broker and log differ.")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Log of what they send and hear, for latentbus compare.")] = None,
    local_workers: Annotated[
        int | None, typer.Option(help="Start a private broker and so many workers.", min=1, max=16)
    ] = None,
    worker_config: Annotated[
        Path | None, typer.Option(help="Settings of the local workers; one frame a batch and one thread else.")
    ] = None,
    work_dir: Annotated[Path, typer.Option(help="Settings and logs of the local workers.")] = Path(".replay"),
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
    if worker_config is not None and local_workers is None:
        raise ConfigError("--worker-config", "it is for local workers: add --local-workers 1")
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
    )
    cameras = CameraOptions(
        codec=codec,
        pool_codec=pool_codec,
        pool=checked_name("--pool", pool),
        site=checked_name("--site", site),
        base_latents=base_latents,
        uplink_kbps=uplink_kbps,
        deadlines=deadlines,
        keep_rate=keep_rate,
        questions=questions,
        record=record,
    )
    broker = broker_settings(config, host, port)
    local = None if local_workers is None else LocalOptions(local_workers, worker_config, work_dir)

    async def work(stop: Stop, console: Console) -> CameraReport:
        report = await replay_as_cameras(options, cameras, broker, stop, console, local=local)
        report.print(console, options.logs)
        return report

    raise typer.Exit(play(work, json_file))
