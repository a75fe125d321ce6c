"""What ``latentbus status`` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.markup import escape
from rich.table import Table

from latentbus.client.overview import Overview
from latentbus.reports.safe_console import SafeConsole
from schemas.counting import counted

_STYLES: Final = {"critical": "red", "warning": "yellow", "info": "dim"}
UNSEEN: Final = "This identity may not read the status of workers, so nothing is said about pools."


def print_overview(overview: Overview, console: SafeConsole | None = None) -> None:
    """Print what is wrong, then pools, workers, sites and cameras.

    Args:
        overview: of the fleet.
        console: where to; the standard output unless given.
    """
    console = console or SafeConsole(highlight=False)
    for problem in overview.problems:
        style = _STYLES[problem.severity]
        console.print(f"[{style}]{problem.severity}[/]  {escape(problem.text)}", soft_wrap=True)
        console.print(f"    [dim]-> {escape(problem.advice)}[/]", soft_wrap=True)
    if not overview.problems:
        console.print("[green]good[/]  nothing is wrong, as far as the statuses tell" if overview.sites else "no sites")
    if not overview.workers_are_seen:
        console.print(f"[dim]{UNSEEN}[/]")
    _table(
        console,
        ("pool", "workers", "backlog", "sites", "codec"),
        (
            (pool.pool, pool.workers, f"{pool.frames} of {pool.capacity}", pool.sites, " ".join(pool.fingerprints))
            for pool in overview.pools
        ),
    )
    _table(
        console,
        ("worker", "", "pool", "frames", "codec"),
        (
            (
                worker.worker,
                _online(worker.online),
                worker.pool or "-",
                f"{worker.frames} of {worker.capacity}",
                worker.fingerprint,
            )
            for worker in overview.workers
        ),
    )
    _table(
        console,
        ("site", "", "pool", "cameras", "uplink", "codec"),
        (
            (site.site, _online(site.online), site.pool or "-", site.cameras, site.uplink, site.fingerprint)
            for site in overview.sites
        ),
    )
    _table(
        console,
        ("camera", "", "site", "problem"),
        (
            (camera.camera, _online(camera.online), camera.site or "-", camera.problem or "")
            for camera in overview.cameras
        ),
    )
    online = sum(camera.online for camera in overview.cameras)
    console.print(
        f"[dim]{counted(len(overview.sites), 'site')}, {online} of {counted(len(overview.cameras), 'camera')} online, "
        f"{counted(sum(worker.online for worker in overview.workers), 'worker')} online[/]"
    )


def _online(online: bool) -> str:
    return "online" if online else "offline"


def _table(console: SafeConsole, names: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        cells = [escape(str(cell)) for cell in row]
        table.add_row(*(f"[red]{cell}[/]" if cell == "offline" else cell for cell in cells))
    if table.row_count:
        console.print()
        console.print(table)
