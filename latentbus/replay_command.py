"""``latentbus replay``: a recorded log played again, verbatim or as virtual cameras."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from latentbus.arguments import checked_name
from latentbus.broker_options import BrokerConfigOption, HostOption, PortOption, broker_settings
from latentbus.output_files import json_target
from latentbus.replay.options import CameraOptions, Deadlines, LocalOptions, QuestionSource, ReplayMode, ReplayOptions

EPILOG = (
    "Examples: latentbus replay run.mcap --rate 2 --exclude 'lb/v2/status/#' | latentbus replay run.mcap "
    "--mode cameras --rate 10 --local-workers 1 --record again.mcap | latentbus replay run.mcap --start 30 "
    "--duration 10 --remap-camera gate=gate-2 --loop | latentbus replay run.mcap --simulate --uplink-kbps 16"
)
_CAMERAS = "With --mode cameras: "
_BOTH = "With --mode cameras or --simulate: "
_SIMULATE = "With --simulate: "
_PLAIN_WIDTH = 120


def replay(
    logs: Annotated[list[Path], typer.Argument(help="Logs to play, merged by time.", metavar="IN.mcap")],
    mode: Annotated[
        ReplayMode,
        typer.Option(help="verbatim publishes what was recorded; cameras offers its frames to live workers."),
    ] = ReplayMode.VERBATIM,
    rate: Annotated[float, typer.Option(help="Log seconds in a second.", min=0.01, max=10_000)] = 1.0,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as possible; deadlines stay as recorded.")] = False,
    start: Annotated[
        str | None, typer.Option(help="Where to begin: seconds from the start, or a time (2026-05-04T10:00:00Z).")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds of the log to play.", min=0.001)] = None,
    until: Annotated[str | None, typer.Option(help="Where to end, as --start.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="MQTT topic filter to take; repeatable. Cameras: of the open message.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="MQTT topic filter to leave out; repeatable.")] = None,
    remap_camera: Annotated[list[str] | None, typer.Option(help="OLD=NEW renames a camera; repeatable.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end.")] = False,
    retained: Annotated[
        bool,
        typer.Option("--retained", help="Verbatim: replace what the broker retains; left out and said otherwise."),
    ] = False,
    start_paused: Annotated[bool, typer.Option("--start-paused", help="Begin paused; space goes on.")] = False,
    delay: Annotated[float, typer.Option(help="Seconds to wait before the first message.", min=0)] = 0,
    codec: Annotated[
        Path | None, typer.Option(help=_BOTH + "codec folder that the log was recorded with; the bundled one else.")
    ] = None,
    pool_codec: Annotated[
        Path | None, typer.Option(help=_CAMERAS + "codec folder of the workers: same tables, another decoder.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help=_CAMERAS + "pool to ask; the recorded one else.")] = None,
    site: Annotated[
        str | None, typer.Option(help=_CAMERAS + "one site for all cameras, under this name (a secured broker's).")
    ] = None,
    base_latents: Annotated[
        int | None, typer.Option(help=_BOTH + "prefix that opens each frame; the recorded one else.", min=1)
    ] = None,
    uplink_kbps: Annotated[
        float | None, typer.Option(help=_BOTH + "limit of each site's uplink, in log time; none else.", min=1)
    ] = None,
    deadlines: Annotated[
        Deadlines, typer.Option(help=_CAMERAS + "divide deadlines by the rate, or keep the recorded ones.")
    ] = Deadlines.SCALED,
    keep_rate: Annotated[
        bool,
        typer.Option("--keep-rate", help=_CAMERAS + "do not wait for workers that fall behind; shows overload."),
    ] = False,
    questions: Annotated[
        QuestionSource | None, typer.Option(help=_CAMERAS + "whose question texts count where broker and log differ.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help=_CAMERAS + "log of what they send and hear, for latentbus compare.")
    ] = None,
    local_workers: Annotated[
        int | None, typer.Option(help=_CAMERAS + "start a private broker and so many workers.", min=1, max=16)
    ] = None,
    worker_config: Annotated[
        Path | None, typer.Option(help="Settings of the local workers; one frame a batch and one thread else.")
    ] = None,
    work_dir: Annotated[Path, typer.Option(help="Settings and logs of the local workers.")] = Path(".replay"),
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Play nothing: compute what another uplink, pool or policy would do.")
    ] = False,
    recorded_kbps: Annotated[
        float | None, typer.Option(help=_SIMULATE + "uplink of each site in the log, where it does not say.", min=0.1)
    ] = None,
    workers: Annotated[int | None, typer.Option(help=_SIMULATE + "workers in the pool.", min=1, max=10_000)] = None,
    frame_ms: Annotated[float | None, typer.Option(help=_SIMULATE + "model time of a frame.", min=0)] = None,
    order: Annotated[
        str | None,
        typer.Option(help=_SIMULATE + "'first come first served', 'round robin' or 'expected gain' (the edge's)."),
    ] = None,
    stop_file: Annotated[
        Path | None, typer.Option("--stop", help=_SIMULATE + "stop.json of another calibration.")
    ] = None,
    risk: Annotated[
        float | None, typer.Option(help=_SIMULATE + "stop at a score of 1 - risk, not calibrated.", min=0, max=1)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what came of it to this file.", callback=json_target)
    ] = None,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Play a log: publish what was recorded, let its cameras meet live workers again, or simulate what might have been.

    On a terminal: space pauses, the right arrow or s lets one message go, + and - change the rate, q quits. Exit
    status: 0 all of it was played, 1 something was refused, lost or is not in the log, 2 wrong settings.
    """
    from latentbus.replay.report import write_figures
    from latentbus.replay.run import replay_cameras, replay_verbatim
    from latentbus.safe_console import SafeConsole
    from pipeline.logs import configure_logging
    from pipeline.recording.remap import parse_camera_map
    from pipeline.recording.selection import parse_moment
    from pipeline.runtime import Stop, run
    from schemas.errors import ConfigError

    configure_logging("warning")
    options = ReplayOptions(
        logs=tuple(logs),
        rate=math.inf if fast else rate,
        start=None if start is None else parse_moment(start, "--start"),
        duration_s=duration,
        until=None if until is None else parse_moment(until, "--until"),
        include=tuple(topic or ()),
        exclude=tuple(exclude or ()),
        cameras=parse_camera_map(remap_camera or ()),
        loop=loop,
        paused=start_paused,
        delay_s=delay,
        retained=retained,
    )
    camera_options = CameraOptions(
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
    if simulate:
        from latentbus.what_if import WhatIfOptions, run_what_if

        shared = CameraOptions(codec=codec, base_latents=base_latents, uplink_kbps=uplink_kbps)
        played = (mode, options, camera_options, local_workers, worker_config)
        if played != (ReplayMode.VERBATIM, ReplayOptions(tuple(logs)), shared, None, None):
            raise ConfigError("--simulate", "it plays nothing: leave out --mode, --rate and what else is for playing")
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
        return
    if (recorded_kbps, workers, frame_ms, order, stop_file, risk) != (None,) * 6:
        raise ConfigError("replay", "an option of the simulator was given: add --simulate")
    if retained and mode is ReplayMode.CAMERAS:
        raise ConfigError("--retained", "it is for --mode verbatim: virtual cameras publish under names of their own")
    _refuse_mixture(mode, camera_options, local_workers, worker_config)
    broker = broker_settings(config, host, port)
    console = SafeConsole(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    local = None if local_workers is None else LocalOptions(local_workers, worker_config, work_dir)

    async def play(stop: Stop) -> int:
        stop.set_ready()
        if mode is ReplayMode.VERBATIM:
            verbatim = await replay_verbatim(options, broker, stop, console)
            verbatim.print(console)
            status, figures = verbatim.exit_status, verbatim.figures()
        else:
            report = await replay_cameras(options, camera_options, broker, stop, console, local=local)
            report.print(console, options.logs)
            status, figures = report.exit_status, report.figures()
        if json_file is not None:
            write_figures(json_file, figures)
        return status

    raise typer.Exit(run(play, drain_timeout_s=30))


def _refuse_mixture(
    mode: ReplayMode, cameras: CameraOptions, local_workers: int | None, worker_config: Path | None
) -> None:
    """Options that would be ignored are errors."""
    from schemas.errors import ConfigError

    if mode is ReplayMode.VERBATIM and (cameras != CameraOptions() or local_workers is not None):
        raise ConfigError("replay", "an option of virtual cameras was given: add --mode cameras")
    if worker_config is not None and local_workers is None:
        raise ConfigError("--worker-config", "it is for local workers: add --local-workers 1")
