"""A codec from one's own model and pictures: made, answered through, made again after a kill, refused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from cloud_workers.loading import load_worker_model
from cloud_workers.pass_engine import PassDone
from edge_nodes.encoder import OnnxEncoder
from latentbus.cli import app
from pipeline.codec.bundled import models_in
from pipeline.codec.spec import load_codec_spec
from pipeline.codec.stop_file import load_stop_file
from pipeline.config.worker_settings import WorkerSettings
from pipeline.protocol.effects import ChunkData, InferencePass, PassQuery
from pipeline.scenes.video import write_clip
from schemas.errors import ArtifactError, ConfigError, TooFewPicturesError
from schemas.types import AnswerType, FrameId
from tests.cloud.engines import THREAD
from tests.protocol.questions import content
from tests.tiny_models import write_tiny_model
from tests.training.codec.calibrate.picture_files import picture, write_pictures
from training.codec.calibrate import tokens as token_files
from training.codec.calibrate.card import expect_lines
from training.codec.calibrate.picture_work import CodecCalibration
from training.codec.calibrate.sets import CLOSED_FORM
from training.codec.calibrate.tokens import fill_tokens
from training.codec.calibrate.work import calibrate_codec
from training.codec.stop.learn_then_test import Promise
from training.run import RunSettings, silent

ROOT = Path(__file__).parents[4]
COUNT = 64
WANTED = CodecCalibration(promise=Promise(0.3))
"""Nine pictures prove it, 53 do in all."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `vlm` and `photos`."""
    folder = tmp_path_factory.mktemp("own")
    write_tiny_model("llava", folder / "vlm")
    write_pictures(folder / "photos", COUNT)
    return folder


def run(cache: Path, lines: list[str] | None = None) -> RunSettings:
    return RunSettings(cache, threads=1, progress=silent if lines is None else lines.append)


@pytest.fixture(scope="module")
def made(root: Path) -> dict[str, Any]:
    """What a calibration reports; its result is in `root / "out"`."""
    return calibrate_codec(str(root / "vlm"), root / "photos", root / "out", run(root / "cache"), WANTED)


def answered(folder: Path, pixels: NDArray[np.uint8]) -> tuple[str, str]:
    """The answer of a worker through the codec, and its problem."""
    models = models_in(folder)
    spec = load_codec_spec(models.codec)
    (latent,) = OnnxEncoder(models.codec).encode([pixels])
    worker = load_worker_model(WorkerSettings(vlm=str(models.vlm), codec=models.codec, threads=1), THREAD)
    chunk = ChunkData(0, spec.latent_count, latent.payload(0, spec.latent_count))
    query = PassQuery("q", content("q", "Is there a car?", AnswerType.YES_NO))
    (result,) = asyncio.run(
        worker.engine.run([InferencePass("gate", FrameId(1, 1), 1, (chunk,), spec.latent_count, (query,), 1)])
    )
    assert isinstance(result, PassDone)
    return result.answers[0].text, result.answers[0].problem


def test_the_result_is_one_directory_that_a_fleet_runs_on(root: Path, made: dict[str, Any]) -> None:
    codec = root / "out" / "codec"
    spec = load_codec_spec(codec)
    spec.check_vlm(root / "vlm")
    assert spec.vlm_id == "vlm"
    assert sorted(path.name for path in codec.iterdir()) == [
        "README.md", "calibration.json", "codec.json", "codec.safetensors", "encoder.onnx", "stop.json",
        "tables.safetensors",
    ]  # fmt: skip
    assert json.loads((codec / "calibration.json").read_text()) == made
    assert made["codec"]["fingerprint4"] == spec.fingerprint4.hex()
    assert made["parity"]["unexplained"] == 0
    stop = load_stop_file(codec)
    assert (stop.rule.ladder, stop.rule.risk) == (spec.ladder, 0.3)
    assert stop.statistics is not None
    text, problem = answered(root / "out", picture(3, (100, 80)))
    assert problem == ""
    assert text


def test_sets_are_disjoint_and_the_report_is_of_its_own(made: dict[str, Any]) -> None:
    assert set(made["pictures"]["sets"]) == set(CLOSED_FORM.shares)
    assert sum(made["pictures"]["sets"].values()) == made["pictures"]["usable"] == COUNT
    expect = made["expect"]
    assert (expect["pictures"], expect["questions"]) == (made["pictures"]["sets"]["report"], 4 * expect["pictures"])


def test_it_says_what_to_expect(root: Path, made: dict[str, Any]) -> None:
    expect = made["expect"]
    rungs = [row["latents"] for row in expect["rates"] if row["on_ladder"]]
    assert rungs == made["stop"]["ladder"] == list(load_codec_spec(root / "out" / "codec").ladder)
    sizes = [row["payload_bytes"] for row in expect["rates"]]
    assert sizes == sorted(sizes)
    assert expect["rates"][-1]["feature_error"] < expect["rates"][0]["feature_error"] < 1.1
    assert expect["uncompressed"]["agreement"] == 1.0
    assert expect["empty_prefix"]["wire_bytes"] == expect["constant_answer"]["wire_bytes"] == 0
    assert expect["measure"] == "agreement"
    at_least = {row["risk"]: row["pictures_at_least"] for row in expect["risks"]}
    assert at_least == {0.3: 53, 0.1: 73, 0.05: 103, 0.02: 193, 0.01: 343, 0.005: 642}
    strict = next(row for row in expect["risks"] if row["risk"] == 0.02)
    assert not strict["early_answers_proven"]
    assert strict["calibration_pictures_estimated"] is None or strict["calibration_pictures_estimated"] >= 149
    text = "\n".join(expect_lines(made))
    card = (root / "out" / "codec" / "README.md").read_text()
    assert text in card
    for part in ("nothing: empty prefix", "nothing: always the most frequent answer", "| 0.02 | 193 | about "):
        assert part in text
    assert made["codec"]["fingerprint"] in card
    assert "camera shaken" in card
    assert not any(str(folder) in card for folder in (root, ROOT))


def test_key_frames_save_most_where_nothing_is_new(made: dict[str, Any]) -> None:
    saved = {row["change"]: row["saved_percent"] for row in made["key_frames"]}
    assert saved["nothing new"] > 30
    assert saved["nothing new"] > saved["light and something moved"]


def test_done_stages_are_skipped_and_another_risk_needs_no_tower(root: Path, made: dict[str, Any]) -> None:
    lines: list[str] = []
    with pytest.raises(ConfigError, match=r"holds a finished codec, version 1 for vlm: .* or add --overwrite"):
        calibrate_codec(str(root / "vlm"), root / "photos", root / "out", run(root / "cache", lines), WANTED)
    assert lines == []
    again = calibrate_codec(str(root / "vlm"), root / "photos", root / "again", run(root / "cache", lines), WANTED)
    assert again == made
    assert [line.endswith("done before") for line in lines if " of 5, " in line] == [True] * 5
    lines.clear()
    other = CodecCalibration(promise=Promise(0.25))
    calibrate_codec(str(root / "vlm"), root / "photos", root / "other", run(root / "cache", lines), other)
    assert [line.endswith("done before") for line in lines if " of 5, " in line] == [True, True, False, False, False]


def test_labels_give_accuracy(root: Path, made: dict[str, Any], tmp_path: Path) -> None:
    questions = tmp_path / "labels.jsonl"
    rows = [
        {"frame": f"{number:03}.png", "text": "Is it red?", "answer_type": "yes_no", "truth": "yes"}
        for number in range(COUNT - 10)
    ]
    questions.write_text("\n".join(map(json.dumps, rows)))
    wanted = CodecCalibration(questions=questions, promise=Promise(0.3))
    report = calibrate_codec(str(root / "vlm"), root / "photos", tmp_path / "out", run(tmp_path / "cache"), wanted)
    assert report["expect"]["measure"] == "accuracy"
    assert all(row["accuracy"] is not None for row in report["expect"]["rates"])
    assert "| sent | payload bytes | wire bytes | agreement | 95 % | accuracy |" in expect_lines(report)
    assert report["questions"] == {"file": "labels.jsonl", "texts": ["Is it red?"], "a_frame": 3}


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl", "gemma3"])
def test_models_of_other_families_are_calibrated_alike(root: Path, family: str, tmp_path: Path) -> None:
    vlm = write_tiny_model(family, tmp_path / family)
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"text": "Is there a car?", "answer_type": "yes_no"}\n')
    wanted = CodecCalibration(questions, Promise(0.3), questions_a_frame=1, vlm_id=f"tiny/{family}")
    report = calibrate_codec(str(vlm), root / "photos", tmp_path / "out", run(tmp_path / "cache"), wanted)
    assert report["codec"]["vlm_id"] == f"tiny/{family}"
    assert report["parity"]["unexplained"] == 0
    assert report["expect"]["rates"][-1]["feature_error"] < 1
    text, problem = answered(tmp_path / "out", picture(5))
    assert problem == ""
    assert text


def test_a_video_is_calibrated_on_stretches_of_time(root: Path, tmp_path: Path) -> None:
    clip = tmp_path / "gate.mp4"
    write_clip(clip, seed=4, duration_s=14.0, fps=5.0, questions={}, camera="gate")
    wanted = CodecCalibration(promise=Promise(0.3), every_s=0.2)
    report = calibrate_codec(str(root / "vlm"), clip, tmp_path / "out", run(tmp_path / "cache"), wanted)
    pictures = report["pictures"]
    assert (pictures["video"], pictures["source"], pictures["usable"]) == (True, "gate.mp4", 70)
    assert sum(pictures["sets"].values()) == 70 - 10
    (saved,) = report["key_frames"]
    assert saved["change"] == "frames of the video"
    assert saved["saved_percent"] > 0
    card = (tmp_path / "out" / "codec" / "README.md").read_text()
    assert "each one stretch of time" in card
    assert "Frames of one video resemble each other" in card
    asks_pictures = tmp_path / "questions.jsonl"
    asks_pictures.write_text('{"frame": "a.png", "text": "A car?", "answer_type": "yes_no"}\n')
    with pytest.raises(ConfigError, match="of a video every frame is asked the same"):
        calibrate_codec(
            str(root / "vlm"), clip, tmp_path / "no", run(tmp_path / "cache"), CodecCalibration(questions=asks_pictures)
        )


def test_the_command_says_how_to_go_on_after_ctrl_c(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.codec.calibrate.work.calibrate_codec", interrupted)
    arguments = ["codec", "calibrate", "--vlm", "v", "--images", str(root / "photos"), "--output", str(tmp_path / "o")]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 130
    assert "the same command goes on" in found.output


def test_a_killed_run_goes_on_and_ends_with_the_same_codec(root: Path, made: dict[str, Any], tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "latentbus", "codec", "calibrate", "--vlm", str(root / "vlm"), "--images",
        str(root / "photos"), "--risk", "0.3", "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"),
        "--threads", "1",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("KLT fitted"):
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.close()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    lines: list[str] = []
    calibrate_codec(str(root / "vlm"), root / "photos", tmp_path / "out", run(tmp_path / "cache", lines), WANTED)
    assert [line.endswith("done before") for line in lines if " of 5, " in line] == [True, True, False, False, False]
    for name in ("codec.json", "codec.safetensors", "tables.safetensors", "stop.json"):
        assert (tmp_path / "out" / "codec" / name).read_bytes() == (root / "out" / "codec" / name).read_bytes(), name


class Tower:
    """Tokens are means of patches; gives out after so many passes."""

    def __init__(self, passes: int, value: float = 1.0) -> None:
        self.left, self.value = passes, value
        self.frames = 0

    def of_frames(self, frames: NDArray[np.uint8]) -> Tensor:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.frames += len(frames)
        return self.value * torch.from_numpy(frames.reshape(len(frames), 4, -1)[:, :, :3].astype(np.float32))


class Pictures:
    """In the model's size already."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels, self.size_px = pixels, pixels.shape[1]

    def of(self, rows: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        return (self.pixels[row] for row in rows)


def test_visual_tokens_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "_SAVE_EVERY_S", 0.0)
    frames = Pictures(np.stack([picture(number, (32, 32)) for number in range(40)]))
    rows, path = list(range(39, -1, -1)), tmp_path / "tokens.npy"

    def fill(tower: Tower) -> Tensor:
        return fill_tokens(path, tower, frames, rows, (4, 3), silent, source="tiny")  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        fill(Tower(1))
    second = Tower(9)
    tokens = fill(second)
    assert second.frames == 24
    torch.testing.assert_close(tokens, Tower(1).of_frames(frames.pixels[rows]).half())
    third = Tower(9)
    fill(third)
    assert third.frames == 0
    with pytest.raises(ArtifactError, match="not finite in half precision"):
        fill_tokens(tmp_path / "o.npy", Tower(9, 1e6), frames, rows, (4, 3), silent, source="t")  # type: ignore[arg-type]


def test_what_cannot_be_calibrated_says_why(root: Path, tmp_path: Path) -> None:
    def calibrate(vlm: str, wanted: CodecCalibration = WANTED, output: Path = tmp_path / "out") -> None:
        calibrate_codec(vlm, root / "photos", output, run(tmp_path / "cache"), wanted)

    with pytest.raises(TooFewPicturesError, match=r"64 pictures can be used, 103 are needed: .*59 for its thresholds"):
        calibrate(str(root / "vlm"), CodecCalibration())
    with pytest.raises(ConfigError, match=r"--vlm: no such folder: \./nothing"):
        calibrate("./nothing")
    code = shutil.copytree(root / "vlm", tmp_path / "code")
    config = json.loads((code / "config.json").read_text())
    (code / "config.json").write_text(
        json.dumps({**config, "model_type": "own", "auto_map": {"AutoConfig": "own.Config"}})
    )
    with pytest.raises(ArtifactError, match=r"brings code of its own .* which is never run"):
        calibrate(str(code))
    (code / "config.json").write_text(json.dumps({**config, "model_type": "vipllava"}))
    with pytest.raises(ArtifactError, match=r"of type 'vipllava', which is not supported: use one of type smolvlm"):
        calibrate(str(code))
    with pytest.raises(ArtifactError, match="it reads frames of 32 px, not of 64 px"):
        calibrate(str(root / "vlm"), CodecCalibration(promise=Promise(0.3), frame_px=64))
    with pytest.raises(ArtifactError, match="cuts no tiles"):
        calibrate(str(root / "vlm"), CodecCalibration(promise=Promise(0.3), tiles_per_edge=2))
    (tmp_path / "taken" / "vlm").mkdir(parents=True)
    with pytest.raises(ConfigError, match="taken/vlm is in the way"):
        calibrate(str(root / "vlm"), output=tmp_path / "taken")
    assert not (tmp_path / "out").exists()


def test_a_model_of_the_hub_is_pinned_to_its_commit(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = shutil.copytree(root / "vlm", tmp_path / "snapshots" / commit)
    asked: list[tuple[str, str | None]] = []

    def download(hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((hub_id, revision))
        assert not any("py" in pattern or "bin" in pattern for pattern in allow_patterns)
        if hub_id == "org/missing":
            raise OSError("no such repository")
        return str(snapshot)

    monkeypatch.setattr("training.codec.calibrate.model.snapshot_download", download)
    lines: list[str] = []
    calibrate_codec("org/tiny@v1", root / "photos", tmp_path / "out", run(root / "cache", lines), WANTED)
    assert asked == [("org/tiny", "v1")]
    assert load_codec_spec(tmp_path / "out" / "codec").vlm_id == f"org/tiny@{commit}"
    assert f"pinned to org/tiny@{commit}" in lines
    with pytest.raises(ArtifactError, match=r"org/missing: the hub does not give it \(no such repository\)"):
        calibrate_codec("org/missing", root / "photos", tmp_path / "none", run(tmp_path / "cache"), WANTED)
