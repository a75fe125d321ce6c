"""``latentbus bench replay`` in a tiny form: its figures are there and true; never how fast this machine is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from latentbus.bench import record_and_replay
from latentbus.bench.log_files import recover_everywhere, seek_times, write_log
from latentbus.bench.options import BenchOptions
from latentbus.bench.publishers import payload
from latentbus.bench.record_and_replay import RecordRun, fastest_without_loss
from latentbus.bench.replay import bench_replay, write_report
from latentbus.cli import app
from latentbus.fleet.usage import cpu_s
from pipeline.recording.reader import LogReader
from schemas.errors import ConfigError

TINY = BenchOptions(
    publishers=2,
    payload_bytes=100,
    first_hz=200,
    most_hz=200,
    record_s=1.0,
    repeats=1,
    seek_log_bytes=400_000,
    probes=3,
    recover_log_bytes=30_000,
)


@pytest.mark.broker
@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="no mosquitto_pub on PATH")
async def test_every_figure_is_measured(tmp_path: Path) -> None:
    options = BenchOptions(
        **{name: getattr(TINY, name) for name in TINY.__slots__}
        | {"work_dir": tmp_path / "work", "json_file": tmp_path / "replay.json"}
    )
    report = await bench_replay(options, Console(stderr=True))
    write_report(report, options)
    figures = json.loads((tmp_path / "replay.json").read_text())
    assert figures["record_msgs_per_s"] > 0
    assert figures["recorded_loss"] == 0
    assert figures["replay_msgs_per_s"] > 0
    assert figures["seek_ms_p95"] > 0
    assert figures["recover_ok"] is True
    (run,) = report.counted
    assert run.sent == 200
    assert run.recorded_hz == pytest.approx(200, rel=0.5)
    assert figures["recover_cuts"] == figures["recover_log_bytes"] // 1000
    assert figures["seek_log_bytes"] >= 400_000
    assert names_in(tmp_path / "work") == []  # nothing is left behind
    printed = Console(record=True, width=120)
    report.print(printed)
    assert "recorded messages a second" in printed.export_text()


def test_a_log_is_recovered_at_every_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.mcap"
    messages = write_log(path, 60_000, 100, lambda share: None, close=False)
    result = recover_everywhere(path, tmp_path, lambda share: None)
    assert messages >= 600
    assert result.cuts == path.stat().st_size // 1000
    assert result.wrong == []


def test_a_recovery_that_misses_something_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from analysis.recover import recover
    from latentbus.bench import log_files

    path = tmp_path / "log.mcap"
    write_log(path, 30_000, 100, lambda share: None, close=False)

    def one_too_few(source: Path, target: Path) -> object:
        done = recover(source, target)
        return replace(done, messages=done.messages - 1)

    monkeypatch.setattr(log_files, "recover", one_too_few)
    assert recover_everywhere(path, tmp_path, lambda share: None).wrong


def test_the_large_log_is_one_as_the_recorder_leaves_it(tmp_path: Path) -> None:
    path, crashed = tmp_path / "log.mcap", tmp_path / "crashed.mcap"
    messages = write_log(path, 6_000_000, 300, lambda share: None)
    write_log(crashed, 6_000_000, 300, lambda share: None, close=False)
    with LogReader(path) as reader, LogReader(crashed) as unfinished:
        assert reader.complete
        assert not unfinished.complete
        assert reader.message_count == unfinished.message_count == messages
        # The flush timer's chunks were put together.
        assert len(reader.index.chunks) * 4 <= len(unfinished.index.chunks)
    times = seek_times(path, 4, lambda share: None)
    assert len(times.cold_ms) == len(times.warm_ms) == 4
    assert times.cold_ms == sorted(times.cold_ms)


def test_lines_have_the_size_and_are_all_different() -> None:
    lines = {payload(publisher, number, 50) for publisher in range(3) for number in range(100)}
    assert len(lines) == 300
    assert {len(line) for line in lines} == {50}
    assert not any(b"\n" in line for line in lines)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def climb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit_hz: float, *, unlucky: int = 0
) -> tuple[list[float], list[float]]:
    """Rates that were tried and that counted, with a recorder that loses something above its limit."""
    runs = 0

    async def record_run(_folder: Path, _options: BenchOptions, rate_hz: float) -> tuple[RecordRun, Path]:
        nonlocal runs
        runs += 1
        lost = int(rate_hz > limit_hz or runs == unlucky)
        log = tmp_path / f"{runs}.mcap"
        log.write_bytes(b"")
        return RecordRun(rate_hz, rate_hz, 100, lost, 0, None, None), log

    monkeypatch.setattr(record_and_replay, "record_run", record_run)
    counted, tried, log = await fastest_without_loss(
        tmp_path, BenchOptions(first_hz=100, most_hz=1_000, factor=2, repeats=2), lambda line: None
    )
    assert names_in(tmp_path) == [log.name]  # the others are deleted
    return [run.offered_hz for run in tried], [run.offered_hz for run in counted]


async def test_the_rate_rises_until_something_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert await climb(monkeypatch, tmp_path, 250) == ([100, 200, 400, 200, 200], [200, 200])


async def test_a_loss_at_the_first_rate_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert await climb(monkeypatch, tmp_path, 50) == ([100, 100], [100, 100])


async def test_a_loss_in_a_repetition_begins_again_below(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried, counted = await climb(monkeypatch, tmp_path, 500, unlucky=6)
    assert (tried, counted) == ([100, 200, 400, 800, 400, 400, 200, 200], [200, 200])


def test_processor_time_of_nobody_is_unknown() -> None:
    assert cpu_s(None) is None
    assert cpu_s(2**30) is None


async def test_a_missing_publisher_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install mosquitto-clients"):
        await bench_replay(TINY, Console(stderr=True))


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="no mosquitto_pub on PATH")
async def test_a_disk_without_room_is_refused_at_once(tmp_path: Path) -> None:
    options = BenchOptions(work_dir=tmp_path, seek_log_bytes=10**18)
    with pytest.raises(ConfigError, match="GB are free there"):
        await bench_replay(options, Console(stderr=True))
    assert names_in(tmp_path) == []


def test_the_command_explains_itself() -> None:
    shown = CliRunner().invoke(app, ["bench", "replay", "--help"], env={"COLUMNS": "120"}).output
    for option in ("--json", "--quick", "--work-dir", "Examples:"):
        assert option in shown
