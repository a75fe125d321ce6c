"""``latentbus bench replay``: how fast logs are written, played, opened and recovered on this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from latentbus import __version__
from latentbus.bench.log_files import RecoverResult, SeekTimes, recover_everywhere, seek_times, write_log
from latentbus.bench.options import NEEDED_RECORD_HZ, BenchOptions
from latentbus.bench.publishers import require_publisher
from latentbus.bench.record_and_replay import RecordRun, fastest_without_loss, replay_rate_hz
from latentbus.reports.output_files import write_json
from schemas.errors import ConfigError

NEEDED_SEEK_MS: Final = 100
_PERCENTILE: Final = 0.95


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Everything that was measured.

    Attributes:
        counted: runs of the recorder that count.
        tried: all of them.
        replay_hz: messages a second of each replay.
        log_bytes: size of the log that was opened.
        seek: times to its first message.
        cut_bytes: size of the log that was cut.
        recovered: what came of that.
    """

    counted: list[RecordRun]
    tried: list[RecordRun]
    replay_hz: list[float]
    log_bytes: int
    seek: SeekTimes
    cut_bytes: int
    recovered: RecoverResult

    @property
    def record_msgs_per_s(self) -> float:
        """Median rate of the runs that count."""
        return median(run.recorded_hz for run in self.counted)

    @property
    def recorded_loss(self) -> int:
        """Messages lost in the runs that count."""
        return sum(run.lost for run in self.counted)

    @property
    def seek_ms_p95(self) -> float:
        """95 % of the cold openings took at most so long."""
        return self.seek.cold_ms[min(len(self.seek.cold_ms) - 1, int(_PERCENTILE * len(self.seek.cold_ms)))]

    @property
    def recover_ok(self) -> bool:
        """Whether each cut gave back exactly what is whole."""
        return not self.recovered.wrong

    def to_json(self, options: BenchOptions) -> dict[str, Any]:
        """Every figure."""
        return {
            "record_msgs_per_s": round(self.record_msgs_per_s, 1),
            "recorded_loss": self.recorded_loss,
            "replay_msgs_per_s": round(median(self.replay_hz), 1),
            "seek_ms_p95": round(self.seek_ms_p95, 3),
            "recover_ok": self.recover_ok,
            "record_runs": [
                {
                    "offered_msgs_per_s": round(run.offered_hz, 1),
                    "recorded_msgs_per_s": round(run.recorded_hz, 1),
                    "sent": run.sent,
                    "lost": run.lost,
                    "repeated": run.repeated,
                    "recorder_busy": _rounded(run.recorder_busy),
                    "broker_busy": _rounded(run.broker_busy),
                    "counts": run in self.counted,
                }
                for run in self.tried
            ],
            "replay_runs_msgs_per_s": [round(rate, 1) for rate in self.replay_hz],
            "payload_bytes": options.payload_bytes,
            "publishers": options.publishers,
            "seek_log_bytes": self.log_bytes,
            "seek_ms_p50": round(median(self.seek.cold_ms), 3),
            "seek_ms_max": round(self.seek.cold_ms[-1], 3),
            "seek_warm_ms_p50": round(median(self.seek.warm_ms), 3),
            "seek_cache_dropped": _rounded(self.seek.dropped),
            "recover_log_bytes": self.cut_bytes,
            "recover_cuts": self.recovered.cuts,
            "recover_wrong_cuts": self.recovered.wrong,
            "recover_ms_per_cut": round(1000 * self.recovered.seconds / max(1, self.recovered.cuts), 3),
            "cores": os.cpu_count(),
            "version": __version__,
        }

    def print(self, console: Console) -> None:
        """Print the table, and what limits the rate."""
        table = Table("figure", "median", "runs", "needed")
        table.add_row(
            "recorded messages a second, QoS 1",
            f"{self.record_msgs_per_s:,.0f}",
            _runs(run.recorded_hz for run in self.counted),
            f"{NEEDED_RECORD_HZ:,}",
        )
        table.add_row("lost of them", f"{self.recorded_loss:,}", _runs(run.lost for run in self.counted), "0")
        table.add_row("replayed messages a second", f"{median(self.replay_hz):,.0f}", _runs(self.replay_hz), "")
        table.add_row(
            f"ms to open {self.log_bytes / 1e9:.2f} GB cold",
            f"{median(self.seek.cold_ms):.1f}",
            f"95 %: {self.seek_ms_p95:.1f}, most: {self.seek.cold_ms[-1]:.1f}, warm: {median(self.seek.warm_ms):.1f}",
            f"95 %: {NEEDED_SEEK_MS}",
        )
        table.add_row(
            "cuts that recover",
            f"{self.recovered.cuts - len(self.recovered.wrong):,}",
            f"of {self.recovered.cuts:,}, {1000 * self.recovered.seconds / max(1, self.recovered.cuts):.1f} ms each",
            "all",
        )
        console.print(table)
        console.print(self.limit())

    def limit(self) -> str:
        """What keeps the recorder from a higher rate, as far as the runs tell."""
        fastest = max(self.tried, key=lambda run: run.offered_hz)
        if not fastest.lost and fastest.recorded_hz < 0.99 * fastest.offered_hz:
            reason = "what the publishers and the broker deliver, not the recorder"
        elif fastest.recorder_busy is not None and fastest.recorder_busy > 0.8:
            reason = f"the recorder's one core, busy to {fastest.recorder_busy:.0%}"
        elif fastest.broker_busy is not None and fastest.broker_busy > 0.8:
            reason = f"the broker's one core, busy to {fastest.broker_busy:.0%}"
        elif fastest.lost:
            reason = "the broker's queue for one client, which was full for a moment; other processes share the cores"
        else:
            reason = "not found: no run lost a message"
        return f"the rate is limited by: {reason} (fastest try: {fastest.sentence()})"


async def bench_replay(options: BenchOptions, console: Console) -> BenchReport:
    """Measure everything.

    Args:
        options: how much.
        console: told what goes on.

    Raises:
        ConfigError: ``mosquitto_pub`` is missing, or the folder cannot be used.
        LocalError: a process failed.
    """
    require_publisher()
    async with _work_folder(options) as folder:

        def say(line: str) -> None:
            console.print(f"[dim]{line}[/]")

        say(f"recording from {options.publishers} mosquitto_pub, {options.payload_bytes} bytes each at QoS 1")
        counted, tried, log = await fastest_without_loss(folder / "record", options, say)
        replay_hz = []
        for number in range(options.repeats):
            replay_hz.append(await replay_rate_hz(folder / f"replay-{number + 1}", log))
            say(f"replayed {replay_hz[-1]:,.0f} messages a second")
        log.unlink()
        seek, log_bytes = await _with_progress(console, "large log", lambda show: _seek(folder, options, show))
        recovered, cut_bytes = await _with_progress(console, "cut log", lambda show: _recover(folder, options, show))
    return BenchReport(counted, tried, replay_hz, log_bytes, seek, cut_bytes, recovered)


def write_report(report: BenchReport, options: BenchOptions) -> None:
    """Write the figures as JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_json(options.json_file, report.to_json(options))


Show = Callable[[str, float], None]


def _seek(folder: Path, options: BenchOptions, show: Show) -> tuple[SeekTimes, int]:
    path = folder / "large.mcap"
    write_log(path, options.seek_log_bytes, options.payload_bytes, lambda share: show("writing a large log", share))
    times = seek_times(path, options.probes, lambda share: show("opening it cold", share))
    size_bytes = path.stat().st_size
    path.unlink()
    return times, size_bytes


def _recover(folder: Path, options: BenchOptions, show: Show) -> tuple[RecoverResult, int]:
    path = folder / "whole.mcap"
    write_log(
        path, options.recover_log_bytes, options.payload_bytes, lambda share: show("writing a log", share), close=False
    )
    size_bytes = path.stat().st_size
    return recover_everywhere(path, folder, lambda share: show("cutting and recovering it", share)), size_bytes


async def _with_progress(console: Console, name: str, work: Callable[[Show], tuple[Any, int]]) -> tuple[Any, int]:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task(name, total=1.0)
        return await asyncio.to_thread(
            work, lambda what, share: progress.update(task, description=what, completed=share)
        )


@asynccontextmanager
async def _work_folder(options: BenchOptions) -> AsyncIterator[Path]:
    """A folder that is gone afterwards, with room for the largest log and its copy."""
    try:
        if options.work_dir is not None:
            await asyncio.to_thread(options.work_dir.mkdir, parents=True, exist_ok=True)
        name = await asyncio.to_thread(tempfile.mkdtemp, prefix="latentbus-bench-", dir=options.work_dir)
    except OSError as error:
        raise ConfigError("--work-dir", f"{options.work_dir}: {error.strerror}") from None
    folder = Path(name)
    try:
        free_bytes = shutil.disk_usage(folder).free
        # A log is put into larger chunks by writing it anew beside itself.
        if free_bytes < 2.2 * options.seek_log_bytes:
            needed = 2.2 * options.seek_log_bytes / 1e9
            raise ConfigError("--work-dir", f"{free_bytes / 1e9:.1f} GB are free there, {needed:.1f} are needed")
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _runs(values: Any) -> str:
    return ", ".join(f"{value:,.0f}" for value in values)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
