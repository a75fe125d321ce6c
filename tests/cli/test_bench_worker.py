"""``latentbus bench worker``: rows, keys, and what is compared with what."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latentbus.bench.options import WorkerBenchOptions
from latentbus.bench.worker import run
from latentbus.bench.worker.loop_lag import LoopLag
from latentbus.bench.worker.run import ROWS, Row, WorkerBench, bench_worker
from latentbus.cli import app

ROW = Row(4, 4, 30.0, 10.0, 10.0, 8.0, 3.0, 0.5, 1.0)
FOUND = WorkerBench("model in process", "some/vlm", "auto", 2, [replace(ROW, frames=16, questions=1), ROW], 12.0, 10**9)


def test_rows_of_a_small_run_hold_what_was_asked() -> None:
    told: list[str] = []
    found = asyncio.run(bench_worker(WorkerBenchOptions(threads=1, repeats=1), told.append, rows=((2, 1), (1, 2))))
    assert told == ["loading the model", "2 x 1", "1 x 2"]
    assert [(row.frames, row.questions) for row in found.rows] == [(2, 1), (1, 2)]
    for row in found.rows:
        assert row.questions_per_s_generate is not None
        assert row.questions_per_s_sequential == max(row.questions_per_s_generate, row.questions_per_s_one_by_one)
        assert row.speedup == pytest.approx(row.questions_per_s_batched / row.questions_per_s_sequential, abs=0.02)
        assert row.same_answers == 1.0
    assert found.engine == "model in process"
    assert found.loop_lag_ms_p99 >= 0


def test_the_report_has_the_figures_of_4_frames_with_4_questions() -> None:
    report = FOUND.as_dict()
    assert report["questions_per_s_batched"] == 30.0
    assert report["questions_per_s_sequential"] == 10.0
    assert report["speedup"] == 3.0
    assert list(report["rows"]) == ["16 x 1", "4 x 4"]
    assert ROWS == ((16, 1), (4, 4), (1, 16))


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"rows": [replace(ROW, speedup=2.9)]}, ["speedup below 3"]),
        ({"loop_lag_ms_p99": 50.5}, ["loop_lag_ms_p99 over 50"]),
    ],
)
def test_what_is_not_as_it_should_be_is_named(changes: dict[str, object], missed: list[str]) -> None:
    assert replace(FOUND, **changes).missed() == missed  # type: ignore[arg-type]


@pytest.mark.parametrize(("speedup", "status"), [(3.5, 0), (2.0, 1)])
def test_the_command_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speedup: float, status: int
) -> None:
    async def measured(options: WorkerBenchOptions, progress: object) -> WorkerBench:
        assert (options.threads, options.precision) == (2, "bf16")
        return replace(FOUND, rows=[replace(ROW, speedup=speedup)])

    monkeypatch.setattr(run, "bench_worker", measured)
    file = tmp_path / "worker.json"
    result = CliRunner().invoke(app, ["bench", "worker", "--precision", "bf16", "--json", str(file)])
    assert result.exit_code == status, result.output
    report = json.loads(file.read_text())
    assert report["speedup"] == speedup
    assert report["loop_lag_ms_p99"] == 12.0


async def test_a_loop_that_is_blocked_lags() -> None:
    async with LoopLag() as lag:
        await asyncio.sleep(0)
        time.sleep(0.06)  # noqa: ASYNC251 - blocks the loop on purpose
        async with asyncio.timeout(20):
            while not lag.lags_ms:  # noqa: ASYNC110 - what is waited for is the loop itself
                await asyncio.sleep(0)
    assert lag.lags_ms[0] >= 50
    lag.lags_ms[:] = [1.0, 2.0, 9.0]
    assert lag.percentile_ms(50) == 2.0
    assert LoopLag().percentile_ms(99) == 0.0
