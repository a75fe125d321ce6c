"""What a replay is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from analysis.replay.selection import Moment


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

    logs: tuple[Path, ...]
    rate: float = 1.0
    start: Moment | None = None
    duration_s: float | None = None
    until: Moment | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    cameras: dict[str, str] = field(default_factory=dict)
    loop: bool = False
    paused: bool = False
    delay_s: float = 0.0
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

    codec: Path | None = None
    pool_codec: Path | None = None
    pool: str | None = None
    site: str | None = None
    base_latents: int | None = None
    uplink_kbps: float | None = None
    deadlines: Deadlines = Deadlines.SCALED
    keep_rate: bool = False
    questions: QuestionSource | None = None
    record: Path | None = None


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """A private broker and workers of the replay's own.

    Attributes:
        workers: how many.
        config: settings file whose worker section they take; None is one thread and one frame a batch.
        work_dir: settings and logs of the workers.
    """

    workers: int
    config: Path | None = None
    work_dir: Path = Path(".replay")
