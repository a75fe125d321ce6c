"""Options that ``latentbus replay`` and ``latentbus replay-cameras`` share: which part of which logs, and how fast."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Protocol

    from rich.console import Console

    from latentbus.replay.options import ReplayOptions
    from pipeline.node.runtime import Stop

    class Report(Protocol):
        """What came of a replay."""

        @property
        def exit_status(self) -> int:
            """0 when all of it was played."""

        def figures(self) -> dict[str, Any]:
            """Plain data for a file."""


KEYS = (
    "On a terminal: space pauses, the right arrow or s lets one message go, + and - change the rate, q quits. Exit "
    "status: 0 all of it was played, 1 something was refused or lost, 2 wrong settings."
)
LogsArgument = Annotated[list[Path], typer.Argument(help="Logs to play, merged by time.", metavar="IN.mcap")]
RateOption = Annotated[float, typer.Option(help="Log seconds in a second.", min=0.01, max=10_000)]
FastOption = Annotated[bool, typer.Option("--fast", help="As fast as possible; deadlines stay as recorded.")]
StartOption = Annotated[
    str | None, typer.Option(help="Where to begin: seconds from the start, or a time (2026-05-04T10:00:00Z).")
]
DurationOption = Annotated[float | None, typer.Option(help="Seconds of the log to play.", min=0.001)]
UntilOption = Annotated[str | None, typer.Option(help="Where to end, as --start.")]
ExcludeOption = Annotated[list[str] | None, typer.Option(help="MQTT topic filter to leave out; repeatable.")]
RemapOption = Annotated[list[str] | None, typer.Option(help="OLD=NEW renames a camera; repeatable.")]
LoopOption = Annotated[bool, typer.Option("--loop", help="Begin again at the end.")]
PausedOption = Annotated[bool, typer.Option("--start-paused", help="Begin paused; space goes on.")]
DelayOption = Annotated[float, typer.Option(help="Seconds to wait before the first message.", min=0)]
_PLAIN_WIDTH = 120


def replay_options(
    logs: list[Path],
    *,
    rate: float,
    fast: bool,
    start: str | None,
    duration: float | None,
    until: str | None,
    topic: list[str] | None,
    exclude: list[str] | None,
    remap_camera: list[str] | None,
    loop: bool,
    start_paused: bool,
    delay: float,
    retained: bool = False,
) -> ReplayOptions:
    """What the shared options ask for.

    Raises:
        ConfigError: a moment or a pair of names cannot be read.
    """
    from analysis.replay.remap import parse_camera_map
    from analysis.replay.selection import parse_moment
    from latentbus.replay.options import ReplayOptions

    return ReplayOptions(
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


def play(work: Callable[[Stop, Console], Awaitable[Report]], json_file: Path | None) -> int:
    """Run a replay until it is over or stopped, and write its figures.

    Args:
        work: plays, and prints what came of it.
        json_file: for the figures.

    Returns:
        The exit status.
    """
    from latentbus.replay.report import write_figures
    from latentbus.reports.safe_console import SafeConsole
    from pipeline.node.runtime import run

    console = SafeConsole(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH

    async def main(stop: Stop) -> int:
        stop.set_ready()
        report = await work(stop, console)
        if json_file is not None:
            write_figures(json_file, report.figures())
        return report.exit_status

    return run(main, drain_timeout_s=30)
