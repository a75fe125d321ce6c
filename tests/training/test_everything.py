"""Everything from one command: a tiny model, its codecs and all that hangs on them; broken off and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from edge_nodes.encoder import OnnxEncoder
from latentbus.cli import app
from pipeline.codec.gate_file import find_gate_file
from pipeline.codec.spec import ENCODER_FILES, load_codec_spec
from pipeline.codec.stop_file import load_stop_rule
from schemas.errors import ConfigError
from schemas.types import AnswerType
from tests.cloud.tiny_codec import write_vlm
from tests.training.reference_vlm.random_lite0 import random_lite0
from training.codec import data
from training.codec.config import BUDGETS
from training.codec.evaluate.frames import QUICK
from training.codec.fit import int8, temporal, train
from training.codec.fit.temporal import Clips
from training.codec.gate import clips
from training.codec.gate.calibrate import GateCalibration
from training.codec.stop.calibrate import StopCalibration
from training.codec.stop.learn_then_test import Promise
from training.codec.stop.verify import StopVerification
from training.everything import Everything, WholeBudget, stages_of
from training.reference_vlm import loop
from training.reference_vlm.config import StageBudget
from training.reference_vlm.pretrained import imagenet
from training.reference_vlm.pretrained.model import VlmSize
from training.reference_vlm.pretrained.train import ThirdBudget
from training.run import RunSettings
from training.stages import StagedWork

STEPS = StageBudget(2, 2, 1e-3)
TINY = WholeBudget(
    ThirdBudget(VlmSize(64, 32, 2, 2), STEPS, STEPS, STEPS, questions=3, watched=2, watch_every=2, evaluated=2),
    {
        "small": replace(
            BUDGETS["smoke"],
            train_frames=24,
            table_frames=16,
            asked_frames=8,
            latent_count=4,
            latent_dim=8,
            klt_bytes=10.0,
            target_bytes=8.0,
            steps=4,
        )
    },
    {"small": replace(QUICK, frames=4, selection=4, prefixes=2, image_settings=1, feature_settings=1)},
    vlm_frames=2,
    clips=Clips(1, 1.0),
    calibration=StopCalibration(Promise(0.3), frames=20),
    verification=StopVerification(Promise(0.3), frames=20, resplits=2),
    gate=GateCalibration(Promise(0.3, by_type=True), clips=4, frames=3, still_clips=1),
)


class CutOffError(Exception):
    """The end of a run in the middle of it."""


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Drawing processes take seconds to start; what they draw is the same in threads."""
    for module in (data, temporal, clips):
        monkeypatch.setattr(module, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    monkeypatch.setattr(train, "PARITY_FRAMES", 4)
    monkeypatch.setattr(train, "CALIBRATION_FRAMES", 8)
    monkeypatch.setattr(train, "COMPARED_FRAMES", 4)
    # Untrained towers give all frames the same tokens in two bytes; these weights keep the range of what they see.
    weights = random_lite0(torch.Generator().manual_seed(3))
    monkeypatch.setattr(imagenet, "imagenet_weights", lambda: weights)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def work(root: Path, lines: list[str]) -> StagedWork:
    run = RunSettings(root / "cache", threads=1, progress=lines.append)
    return StagedWork(root / "out", stages_of(Everything(TINY), root / "out", run), lines.append)


@pytest.mark.timeout(600)  # half a minute of one core, on a machine that may be busy
def test_one_command_makes_everything_and_goes_on_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with monkeypatch.context() as patch:
        share_done, taken = loop.share_done, 0

        def fourth_fails(step: int, spent_s: float, budget: StageBudget) -> float:
            nonlocal taken
            taken += 1
            if taken == 4:
                raise CutOffError
            return share_done(step, spent_s, budget)

        patch.setattr(loop, "_CHECKPOINT_EVERY_S", -1.0)
        patch.setattr(loop, "share_done", fourth_fails)
        with pytest.raises(CutOffError):
            work(tmp_path, lines).run()
    assert {row.state for row in work(tmp_path, lines).plan()} == {"to do"}
    spent_s = work(tmp_path, lines).run()
    assert "pairs: continues at step 1, 50% done" in lines
    assert list(spent_s) == [
        "reference-vlm",
        "vlm-evaluation",
        *(f"small-{name}" for name in ("klt", "meta_autoencoder", "int8", "key-frames", "stop", "gate", "evaluation")),
        "models",
    ]
    models = tmp_path / "out" / "models"
    for name in ("klt", "meta_autoencoder"):
        spec = load_codec_spec(models / "codecs" / name)
        spec.check_vlm(models / "reference-vlm")
        assert load_stop_rule(models / "codecs" / name).ladder == spec.ladder
    for precision in ENCODER_FILES:
        assert OnnxEncoder(models / "codecs/meta_autoencoder", precision=precision).spec == spec
    gate = find_gate_file(models / "codecs/meta_autoencoder", load_codec_spec(models / "codecs/meta_autoencoder"))
    assert gate is not None
    assert "needs 12 clips at least, here are 4" in gate.closed[AnswerType.COUNT]
    compared = json.loads((tmp_path / "out/small-int8/int8.json").read_text())["int8"]
    assert 0.5 < compared["cosine"] <= 1
    assert compared["int8_bytes"] < compared["float_bytes"]
    report = json.loads((tmp_path / "out/small-evaluation/evaluation.json").read_text())
    assert {row["family"] for row in report["baselines"]} == {"images", "tokens", "features"}
    assert json.loads((tmp_path / "out/small-evaluation/verify.json").read_text())["resplits"] == 2
    assert work(tmp_path, lines).run() == {}


def test_a_plan_says_what_would_run_for_a_model_of_ones_own(tmp_path: Path) -> None:
    vlm = write_vlm(tmp_path / "vlm")
    done = CliRunner().invoke(app, ["train", "all", str(tmp_path / "out"), "--vlm", str(vlm), "--plan"])
    assert done.exit_code == 0, done.output
    assert "to do" in done.output
    assert "small-meta_autoencoder" in done.output
    assert "small-int8" in done.output
    assert not (tmp_path / "out").exists()


def test_an_unknown_point_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'large' is none of small, detailed"):
        stages_of(Everything(TINY, points=("large",)), tmp_path, RunSettings(tmp_path))


def test_ctrl_c_leaves_what_the_same_command_goes_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: StagedWork) -> dict[str, float]:
        raise KeyboardInterrupt

    vlm = write_vlm(tmp_path / "vlm")
    monkeypatch.setattr(StagedWork, "run", interrupted)
    done = CliRunner().invoke(app, ["train", "all", str(tmp_path / "out"), "--vlm", str(vlm)])
    assert done.exit_code == 130
    assert "the same command goes on" in done.output


def test_a_tower_without_convolutions_and_attention_is_not_quantised(tmp_path: Path) -> None:
    import onnx

    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "w"], ["tokens"], "patches")], "g", [], [])
    with pytest.raises(ConfigError, match="neither convolutions nor attention"):
        int8._tower_nodes(onnx.helper.make_model(graph))
