"""How far a replay is: a bar on a terminal, a line now and then elsewhere. On standard error."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from analysis.replay.selection import TimeRange
from latentbus.replay.player import Player

_TERMINAL_PERIOD_S: Final = 0.2
_LINE_PERIOD_S: Final = 5.0
_NS: Final = 1e9


async def show_progress(console: Console, player: Player, part: TimeRange, counts: Callable[[], str]) -> None:
    """Show position, rate and counts, until cancelled.

    Args:
        console: where.
        player: what is shown.
        part: what is played of the log.
        counts: what was done so far, in words.
    """
    if not console.is_terminal:
        while True:
            await asyncio.sleep(_LINE_PERIOD_S)
            if player.begun:
                console.print(_line(player, part, counts()))
    with Progress(
        BarColumn(), TextColumn("{task.description}"), console=console, transient=True, auto_refresh=False
    ) as progress:
        task = progress.add_task("", total=part.duration_s)
        while True:
            await asyncio.sleep(_TERMINAL_PERIOD_S)
            if not player.begun:
                continue
            progress.update(task, completed=_position_s(player, part), description=_line(player, part, counts()))
            progress.refresh()


def rate_text(rate: float) -> str:
    """A rate in words."""
    return "as fast as possible" if rate == math.inf else f"{rate:g}x"


def _line(player: Player, part: TimeRange, counts: str) -> str:
    how = "paused" if player.paused else rate_text(player.rate)
    return f"{_position_s(player, part):.1f} of {part.duration_s:.1f} s, {how}, {counts}"


def _position_s(player: Player, part: TimeRange) -> float:
    return min(max(0.0, (player.position_ns - part.start_ns) / _NS), part.duration_s)
