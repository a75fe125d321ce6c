"""What ``latentbus replay`` and ``latentbus replay-cameras`` share: keys, console, figures and exit status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Protocol

    from rich.console import Console

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
_PLAIN_WIDTH = 120


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
