"""What a replay is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from analysis.replay.selection import Moment, parse_moment
from latentbus.options.arguments import checked_name
from latentbus.options.option_set import Typed
from schemas.errors import ConfigError


def _camera_map(pairs: list[str]) -> dict[str, str]:
    from analysis.replay.remap import parse_camera_map  # it knows messages, which --help need not load

    return parse_camera_map(pairs)


class Deadlines(StrEnum):
    """How much time the queries of virtual cameras get."""

    SCALED = "scaled"
    """The recorded time divided by the rate."""
    RECORDED = "recorded"
    """The recorded time, at any rate."""


class QuestionSource(StrEnum):
    """Whose standing questions count when the broker retains others than the log has."""

    LOG = "log"
    BROKER = "broker"


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """Options that ``latentbus replay`` and ``latentbus replay-cameras`` have.

    Attributes:
        logs: the files, merged by time.
        rate: log seconds in a second; infinite is as fast as possible.
        fast: the rate is infinite.
        start: where in the log to begin; None is its start.
        duration_s: how much of the log, in log time; None is all.
        until: where in the log to end; None is its end.
        include: topic filters to take; none takes all.
        exclude: topic filters to leave out.
        cameras: new names of cameras by recorded ones.
        loop: begin again at the end.
        paused: begin paused.
        delay_s: time to wait before the first message.
        retained: a verbatim replay replaces what the broker retains; else messages that would do so are left out.
    """

    logs: Annotated[tuple[Path, ...], typer.Argument(help="Logs to play, merged by time.", metavar="IN.mcap")]
    rate: Annotated[float, typer.Option(help="Log seconds in a second.", min=0.01, max=10_000)] = 1.0
    fast: Annotated[bool, typer.Option("--fast", help="As fast as possible; deadlines stay as recorded.")] = False
    start: Annotated[
        Moment | None,
        typer.Option(help="Where to begin: seconds from the start, or a time (2026-05-04T10:00:00Z)."),
        Typed(str, partial(parse_moment, option="--start")),
    ] = None
    duration_s: Annotated[float | None, typer.Option("--duration", help="Seconds of the log to play.", min=0.001)] = (
        None
    )
    until: Annotated[
        Moment | None,
        typer.Option(help="Where to end, as --start."),
        Typed(str, partial(parse_moment, option="--until")),
    ] = None
    include: Annotated[tuple[str, ...], typer.Option("--topic", help="MQTT topic filter to take; repeatable.")] = ()
    exclude: Annotated[tuple[str, ...], typer.Option(help="MQTT topic filter to leave out; repeatable.")] = ()
    cameras: Annotated[
        dict[str, str],
        typer.Option("--remap-camera", help="OLD=NEW renames a camera; repeatable."),
        Typed(list[str], _camera_map),
    ] = field(default_factory=dict)
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end.")] = False
    retained: Annotated[
        bool, typer.Option("--retained", help="Replace what the broker retains; left out and said otherwise.")
    ] = False
    paused: Annotated[bool, typer.Option("--start-paused", help="Begin paused; space goes on.")] = False
    delay_s: Annotated[float, typer.Option("--delay", help="Seconds to wait before the first message.", min=0)] = 0

    def __post_init__(self) -> None:
        if self.fast:
            object.__setattr__(self, "rate", math.inf)


@dataclass(frozen=True, slots=True)
class CameraPartOptions(ReplayOptions):
    """The same for virtual cameras, which publish frames anew and have nothing to replace on the broker."""

    include: Annotated[
        tuple[str, ...], typer.Option("--topic", help="MQTT topic filter of open messages to take; repeatable.")
    ] = ()
    retained: bool = False


@dataclass(frozen=True, slots=True)
class CameraOptions:
    """What virtual cameras can be told beyond that.

    Attributes:
        codec: folder of the codec that the log was recorded with; None is the bundled one.
        pool_codec: folder of the codec that the workers have, with the same tables and another decoder; None is the
            recorded one.
        pool: pool to open frames to; None is the recorded one.
        site: one site for all cameras, under this name; None is one for each recorded site.
        base_latents: prefix that opens each frame; None is the recorded one.
        uplink_kbps: rate of each site's uplink in log time, all bytes on the wire counted; None has no limit.
        deadlines: how much time the queries get.
        keep_rate: offer frames at the rate even when workers fall behind, to see what overload does; else they wait.
        questions: whose standing questions count where they differ; None refuses to choose.
        record: log of what the virtual cameras send and hear; None writes none.
    """

    codec: Annotated[
        Path | None, typer.Option(help="Codec folder that the log was recorded with; the bundled one else.")
    ] = None
    pool_codec: Annotated[
        Path | None, typer.Option(help="Codec folder of the workers: same tables, another decoder.")
    ] = None
    pool: Annotated[
        str | None,
        typer.Option(help="Pool to ask; the recorded one else."),
        Typed(str, partial(checked_name, "--pool")),
    ] = None
    site: Annotated[
        str | None,
        typer.Option(help="One site for all cameras, under this name (a secured broker's)."),
        Typed(str, partial(checked_name, "--site")),
    ] = None
    base_latents: Annotated[
        int | None, typer.Option(help="Prefix that opens each frame; the recorded one else.", min=1)
    ] = None
    uplink_kbps: Annotated[
        float | None, typer.Option(help="Limit of each site's uplink, in log time; none else.", min=1)
    ] = None
    deadlines: Annotated[Deadlines, typer.Option(help="Divide deadlines by the rate, or keep the recorded ones.")] = (
        Deadlines.SCALED
    )
    keep_rate: Annotated[
        bool, typer.Option("--keep-rate", help="Do not wait for workers that fall behind; shows overload.")
    ] = False
    questions: Annotated[
        QuestionSource | None, typer.Option(help="Whose question texts count where broker and log differ.")
    ] = None
    record: Annotated[Path | None, typer.Option(help="Log of what they send and hear, for latentbus compare.")] = None


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """A private broker and workers of the replay's own.

    Attributes:
        workers: how many; None starts nothing.
        worker_config: settings file whose worker section they take; None is one thread and one frame a batch.
        work_dir: settings and logs of the workers.

    Raises:
        ConfigError: settings for workers that do not start.
    """

    workers: Annotated[
        int | None,
        typer.Option("--local-workers", help="Start a private broker and so many workers.", min=1, max=16),
    ] = None
    worker_config: Annotated[
        Path | None,
        typer.Option(help="Settings of the local workers; one frame a batch and one thread else."),
    ] = None
    work_dir: Annotated[Path, typer.Option(help="Settings and logs of the local workers.")] = Path(".replay")

    def __post_init__(self) -> None:
        if self.worker_config is not None and self.workers is None:
            raise ConfigError("--worker-config", "it is for local workers: add --local-workers 1")
