"""``latentbus bench uplink``: what a question costs on the wire, with and without aliases and shared segments."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from latentbus import __version__
from latentbus.bench.uplink_options import UplinkBenchOptions
from latentbus.bench.uplink_sites import BEFORE, CAMERAS, VARIANTS, SiteCount, Variant, site
from latentbus.fleet.launcher import Launcher
from latentbus.reports.output_files import write_json

_AFTER: Final = VARIANTS[-1]


@dataclass(frozen=True, slots=True)
class UplinkRow:
    """What one site came to.

    Attributes:
        variant: how its messages left.
        tls: its connection was encrypted.
        count: what was counted.
    """

    variant: Variant
    tls: bool
    count: SiteCount

    @property
    def question_bytes(self) -> float:
        """Bytes on the wire from the edge, for each question that ended."""
        return self.count.up.wire_bytes / max(1, self.count.questions)

    def to_json(self) -> dict[str, Any]:
        """The figures of the row."""
        count = self.count
        return {
            "variant": self.variant.name,
            "tls": self.tls,
            "uplink_wire_bytes_per_question": round(self.question_bytes, 1),
            "questions": count.questions,
            "answered": count.outcomes["answered"],
            "delay_ms_p50": round(1000 * median(count.delays_s)) if count.delays_s else None,
            "frames": count.frames,
            "messages": count.messages,
            "tls_records": count.up.records,
            "tcp_segments": count.up.segments,
            "wire_bytes": count.up.wire_bytes,
            "charged_bytes": count.charged_bytes,
            "bare_acknowledgements": count.up.bare_segments,
            "downlink_wire_bytes": count.down.all_wire_bytes,
        }


@dataclass(frozen=True, slots=True)
class UplinkReport:
    """Everything that was measured.

    Attributes:
        rows: all sites.
    """

    rows: Sequence[UplinkRow]

    def row(self, variant: Variant, *, tls: bool) -> UplinkRow:
        """The row of a variant."""
        return next(row for row in self.rows if (row.variant, row.tls) == (variant, tls))

    def saving(self, *, tls: bool) -> float:
        """Share of the bytes a question that both together save."""
        return 1.0 - self.row(_AFTER, tls=tls).question_bytes / self.row(BEFORE, tls=tls).question_bytes

    def to_json(self, options: UplinkBenchOptions) -> dict[str, Any]:
        """Every figure, with what it was measured with."""
        return {
            "latentbus": __version__,
            "cameras": len(CAMERAS),
            "interval_s": options.interval_s,
            "duration_s": options.duration_s,
            "saving_tls": round(self.saving(tls=True), 3),
            "saving_plain": round(self.saving(tls=False), 3),
            "sites": [row.to_json() for row in self.rows],
        }

    def print(self, console: Console) -> None:
        """Show what matters."""
        table = Table(title=f"{len(CAMERAS)} cameras on one uplink, before and after")
        for name in ("variant", "TLS", "wire bytes a question", "questions", "messages", "segments", "against before"):
            table.add_column(name, justify="left" if name == "variant" else "right")
        for row in self.rows:
            ratio = row.question_bytes / self.row(BEFORE, tls=row.tls).question_bytes
            table.add_row(
                row.variant.name,
                "yes" if row.tls else "no",
                f"{row.question_bytes:.1f}",
                f"{row.count.questions:,}",
                f"{row.count.messages:,}",
                f"{row.count.up.segments:,}",
                f"{ratio - 1:+.1%}",
            )
        console.print(table)


async def bench_uplink(options: UplinkBenchOptions, say: Callable[[str], None]) -> UplinkReport:
    """Measure every variant: before and after at the same time, with TLS and without, then each part by itself.

    Raises:
        LocalError: a process failed.
    """
    _, aliases, together, _ = VARIANTS
    rounds = (((BEFORE, _AFTER), True), ((BEFORE, _AFTER), False), ((aliases, together), True))
    rows: list[UplinkRow] = []
    with tempfile.TemporaryDirectory(prefix="latentbus-bench-", ignore_cleanup_errors=True) as name:
        for number, (variants, tls) in enumerate(rounds):
            say(f"{' and '.join(variant.name for variant in variants)}, {'with' if tls else 'without'} TLS")
            rows += await _round(variants, Path(name) / str(number), tls, options)
    return UplinkReport(rows)


async def _round(variants: Sequence[Variant], folder: Path, tls: bool, options: UplinkBenchOptions) -> list[UplinkRow]:
    async with Launcher(folder) as launcher, AsyncExitStack() as stack:
        sites = [
            await stack.enter_async_context(
                site(variant, launcher, folder / variant.name, tls=tls, interval_s=options.interval_s)
            )
            for variant in variants
        ]
        await asyncio.gather(*(one.warm() for one in sites))
        counts = await asyncio.gather(*(one.count(options.duration_s) for one in sites))
    return [UplinkRow(variant, tls, count) for variant, count in zip(variants, counts, strict=True)]


def write_report(report: UplinkReport, options: UplinkBenchOptions) -> None:
    """Write the figures as JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_json(options.json_file, report.to_json(options))
