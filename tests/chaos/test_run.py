"""Real processes, real faults: nothing is lost and nothing decided twice."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from latentbus.chaos.options import ChaosOptions
from latentbus.chaos.plan import FaultKind
from latentbus.chaos.run import run_chaos
from latentbus.fleet.process import ProcessEndedError
from latentbus.fleet.settings import write_patient_codec
from pipeline.codec.spec import load_codec_spec
from pipeline.codec.stop_file import load_stop_rule
from pipeline.node.runtime import Stop, first_latentbus_error
from schemas.types import AnswerType
from tests.integration.conftest import models_dir

__all__ = ["models_dir"]

KINDS = (
    FaultKind.KILL_WORKER,
    FaultKind.FREEZE_WORKER,
    FaultKind.KILL_EDGE,
    FaultKind.KILL_BROKER,
    FaultKind.CUT_LINK,
)
SEED = 57
"""A plan that begins with a freeze that outlasts every lease, so that frames are opened again (those of ad-hoc queries
surely: no newer frame supersedes them), and ends with the restart of a worker: the others need not wait for it."""
UPLINK_KBPS = 32.0
"""So thin that a frame is under way for long enough: a worker that is killed or stopped when it is seen to own one has
then not finished it already, on a fast machine or a busy one."""
PATIENCE_S = 110.0
"""Far beyond what it takes; a machine that is busy with other things is no failure."""


def test_a_patient_codec_is_the_same_codec_with_another_stop_rule(models_dir: Path, tmp_path: Path) -> None:
    source = models_dir / "codecs" / "meta_autoencoder"
    spec = load_codec_spec(source)

    patient = load_codec_spec(write_patient_codec(source, tmp_path / "codec"))

    assert patient.fingerprint == spec.fingerprint
    assert patient.base_latents == spec.ladder[0]
    rule = load_stop_rule(tmp_path / "codec")
    safe = [rule.is_safe(AnswerType.YES_NO, rung, 1.0) for rung in spec.ladder]
    assert safe == [False] * (len(spec.ladder) - 1) + [True]


@pytest.mark.broker
async def test_a_fleet_under_fire_loses_nothing_and_decides_nothing_twice(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(models_dir))
    options = ChaosOptions(
        questions=100, faults=5, seed=SEED, kinds=KINDS, workers=2, sites=2, cameras_per_site=2, interval_s=1.5,
        standing_per_ad_hoc=1, deadline_s=15.0, uplink_kbps=UPLINK_KBPS, work_dir=tmp_path,
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=120)

    async with asyncio.timeout(PATIENCE_S):
        report = await run_chaos(options, Stop(), console)

    assert report.exit_status == 0, report
    assert report.asked >= options.questions
    assert report.terminal + report.died_with_edge + report.unheard == report.asked
    assert report.asked_ad_hoc > 5
    assert report.faults == dict.fromkeys(map(str, KINDS), 1)
    assert all(strike["hit"] > 0 for strike in report.strikes)
    assert report.reopened > 0
    assert report.by_outcome["answered"] > 0
    report.write_json(tmp_path / "chaos.json")
    assert json.loads((tmp_path / "chaos.json").read_text())["lost"] == 0
    report.print(console)


@pytest.mark.broker
async def test_a_fleet_that_does_not_start_says_why_and_leaves_nothing_behind(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(tmp_path / "nothing"))
    codec = models_dir / "codecs" / "meta_autoencoder"
    options = ChaosOptions(workers=1, sites=1, codec=codec, work_dir=tmp_path)

    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(BaseExceptionGroup) as raised:
            await run_chaos(options, Stop(), Console(file=io.StringIO()))

    error = first_latentbus_error(raised.value)
    assert isinstance(error, ProcessEndedError)
    assert "no such folder" in str(error)
    assert (tmp_path / "run" / "w1.log").is_file()
    assert not asyncio.all_tasks() - {asyncio.current_task()}
