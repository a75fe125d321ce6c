"""A Meta AutoEncoder from one's own model and pictures: made, killed and resumed, by two processes, ended early."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import load_codec_spec
from pipeline.codec.stop_file import load_stop_file
from schemas.errors import ArtifactError, ConfigError, TooFewPicturesError
from tests.tiny_models import write_tiny_model
from tests.training.codec.calibrate.picture_files import picture, write_pictures
from tests.training.codec.calibrate.test_calibration import answered
from training.codec.calibrate.picture_work import CodecCalibration
from training.codec.calibrate.work import calibrate_codec
from training.codec.stop.learn_then_test import Promise
from training.codec.train import work
from training.codec.train.compare import compared_lines
from training.codec.train.loop import CHECKPOINT, LOOKS, LearnJob
from training.codec.train.plan import LEARNED, CodecTraining, Learning
from training.codec.train.processes import learn_together
from training.codec.train.work import train_on_pictures
from training.run import RunSettings, silent

ROOT = Path(__file__).parents[4]
COUNT = 64
CALIBRATION = CodecCalibration(promise=Promise(0.3), max_pictures=400, questions_a_frame=1)
"""Nine pictures prove it, 61 do in all."""
LEARNING = Learning(
    steps=12, batch=8, decoder_width=16, decoder_layers=1, evaluate_every=4, view_from=0.0, learning_rate=3e-3
)
WANTED = CodecTraining(CALIBRATION, LEARNING)
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `vlm`, `photos` and `questions.jsonl`."""
    folder = tmp_path_factory.mktemp("own")
    write_tiny_model("llava", folder / "vlm")
    write_pictures(folder / "photos", COUNT)
    (folder / "questions.jsonl").write_text('{"text": "Is there a car?", "answer_type": "yes_no"}\n')
    return folder


def wanted_of(root: Path) -> CodecTraining:
    return replace(WANTED, calibration=replace(CALIBRATION, questions=root / "questions.jsonl"))


def run(cache: Path, lines: list[str] | None = None) -> RunSettings:
    return RunSettings(cache, threads=1, progress=silent if lines is None else lines.append)


@pytest.fixture(scope="module")
def made(root: Path) -> tuple[dict[str, Any], LearnJob]:
    """What a training reports, after a calibration on the same pictures, and its job; the result is in `out`."""
    calibrate_codec(str(root / "vlm"), root / "photos", root / "klt", run(root / "cache"), wanted_of(root).calibration)
    jobs: list[LearnJob] = []

    def kept(job: LearnJob, *further: Any) -> None:
        jobs.append(job)
        learn_together(job, *further)

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "learn_together", kept)
        report = train_on_pictures(
            str(root / "vlm"), root / "photos", root / "out", run(root / "cache", lines), wanted_of(root)
        )
    done_before = [line.split(",")[1].split(":")[0].strip() for line in lines if line.endswith("done before")]
    assert done_before == ["pictures", "tokens"], "the calibration's"
    return report, jobs[0]


def test_the_result_is_a_directory_as_of_a_calibration(root: Path, made: tuple[dict[str, Any], LearnJob]) -> None:
    report, _ = made
    codec = root / "out" / "codec"
    spec = load_codec_spec(codec)
    spec.check_vlm(root / "vlm")
    assert spec.name == "meta_autoencoder"
    assert sorted(path.name for path in codec.iterdir()) == sorted(
        path.name for path in (root / "klt" / "codec").iterdir()
    )
    assert json.loads((codec / "calibration.json").read_text()) == report
    assert report["parity"]["unexplained"] == 0
    assert load_stop_file(codec).rule.ladder == spec.ladder
    assert set(report["pictures"]["sets"]) == set(LEARNED.shares)
    assert sum(report["pictures"]["sets"].values()) == COUNT
    text, problem = answered(root / "out", picture(3, (100, 80)))
    assert problem == ""
    assert text


def test_the_report_compares_with_the_klt_at_the_same_bytes(root: Path, made: tuple[dict[str, Any], LearnJob]) -> None:
    report, _ = made
    training = report["training"]
    beside = training["beside_klt"]
    assert beside["pictures"] == report["pictures"]["sets"]["report"]
    assert [row["latents"] for row in beside["rows"]] == [row["latents"] for row in report["expect"]["rates"]]
    for row, expected in zip(beside["rows"], report["expect"]["rates"], strict=True):
        assert row["payload_bytes"] == expected["payload_bytes"]
        assert row["agreement"] == expected["agreement"]
        assert row["difference"] == pytest.approx(row["agreement"] - row["klt_agreement"], abs=2e-4)
        assert 0 < row["klt_feature_error"] <= 1
    assert (training["steps"], training["processes"], training["held_out"]) == (12, 1, 8)
    assert [look["step"] for look in training["looks"]] == [0, 4, 8, 12]
    best = max(training["looks"], key=lambda look: (look["agreement"], -look["error"]))
    assert training["best_step"] == best["step"]
    card = (root / "out" / "codec" / "README.md").read_text()
    assert card.startswith("# Meta AutoEncoder for vlm\n\nMade by `latentbus codec train`.")
    assert "\n".join(compared_lines(report)) in card
    assert not any(str(folder) in card for folder in (root, ROOT))


def test_logs_are_read_by_tensorboard(root: Path, made: tuple[dict[str, Any], LearnJob]) -> None:
    from tensorboardX.proto.event_pb2 import Event

    scalars: dict[str, dict[int, float]] = {}
    for path in sorted((root / "out" / "logs").iterdir()):
        data = path.read_bytes()
        place = 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    assert set(scalars["held_out/agreement"]) == set(scalars["held_out/agreement_of_klt"]) == {0, 4, 8, 12}
    assert set(scalars["training/error"]) == {4, 8, 12}
    looks = {look["step"]: look["error"] for look in made[0]["training"]["looks"]}
    assert scalars["held_out/error"] == pytest.approx(looks, rel=1e-5)
    assert {"training/whole_bytes", "training/learning_rate", "training/divergence"} < set(scalars)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training.codec.train.test_train_on_pictures import RunSettings, train_on_pictures, wanted_of

def stop(line):
    print(line, flush=True)
    if line.startswith("held out, step 8"):
        os.kill(os.getpid(), signal.SIGKILL)

root, out, cache = map(Path, sys.argv[1:])
run = RunSettings(cache, threads=1, progress=stop)
train_on_pictures(str(root / "vlm"), root / "photos", out, run, wanted_of(root))
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_codec(
    root: Path, made: tuple[dict[str, Any], LearnJob], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), str(tmp_path / "out"), str(tmp_path / "cache")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-2_000:]
    assert not (tmp_path / "out" / "codec").exists()
    lines: list[str] = []
    train_on_pictures(
        str(root / "vlm"), root / "photos", tmp_path / "out", run(tmp_path / "cache", lines), wanted_of(root)
    )
    assert "continues at step 8" in lines
    assert [line[:16] for line in lines if line.startswith("held out")] == ["held out, step 1"]
    for name in ("codec.json", "codec.safetensors", "tables.safetensors", "stop.json"):
        assert (tmp_path / "out" / "codec" / name).read_bytes() == (root / "out" / "codec" / name).read_bytes(), name


def looks_of(job: LearnJob) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((job.run_dir / LOOKS).read_text())["looks"]
    return found


def begun_anew(job: LearnJob, folder: Path, **learning: Any) -> LearnJob:
    """The same training, from its first step."""
    changed = replace(job.learning, **learning)
    (folder / "run").mkdir(parents=True)
    return replace(job, run_dir=folder / "run", logs=folder / "logs", learning=changed)


def test_two_processes_learn_what_one_learns(made: tuple[dict[str, Any], LearnJob], tmp_path: Path) -> None:
    job = begun_anew(made[1], tmp_path, processes=2)
    lines: list[str] = []
    learn_together(job, lines.append, None)
    alone, shared = looks_of(made[1]), looks_of(job)
    assert [look["step"] for look in shared] == [0, 4, 8, 12]
    assert [look["error"] for look in shared] == pytest.approx([look["error"] for look in alone], rel=0.01)
    assert shared[0] == alone[0]
    states = [torch.load(each.run_dir / CHECKPOINT, weights_only=True) for each in (made[1], job)]
    for name in ("decoder.out.weight", "mean", "channel_synthesis"):
        torch.testing.assert_close(states[1]["model"][name], states[0]["model"][name], atol=2e-3, rtol=0.05)
    assert any(line.startswith("step 12 of 12") for line in lines)


def test_what_a_process_meets_is_an_error_of_ours(made: tuple[dict[str, Any], LearnJob], tmp_path: Path) -> None:
    job = replace(begun_anew(made[1], tmp_path, processes=2), vlm_dir=tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="nothing: no such folder"):
        learn_together(job, silent, None)
    gone = replace(job, vlm_dir=made[1].vlm_dir, klt=tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"--processes: process \d of 2 ended \(FileNotFoundError.*goes on"):
        learn_together(gone, silent, None)


def test_a_training_ends_early_when_nothing_gets_better(
    root: Path, made: tuple[dict[str, Any], LearnJob], tmp_path: Path
) -> None:
    budget = replace(made[1].budget, learning_rate=1e-12, steps=40)
    job = replace(begun_anew(made[1], tmp_path, evaluate_every=5, patience=2), budget=budget)
    lines: list[str] = []
    learn_together(job, lines.append, None)
    assert [look["step"] for look in looks_of(job)] == [0, 5, 10, 15, 20]
    assert lines[-1] == "no better for 2 looks: ends at step 20"
    learn_together(job, lines.append, None)
    assert lines[-2:] == ["continues at step 20", "no better for 2 looks: ends at step 20"]


@pytest.mark.parametrize("family", ["qwen3_vl"])
def test_models_with_prompts_of_their_own_learn_alike(root: Path, family: str, tmp_path: Path) -> None:
    vlm = write_tiny_model(family, tmp_path / family)
    wanted = replace(wanted_of(root), learning=replace(LEARNING, steps=2, evaluate_every=2, batch=4, accumulate=2))
    report = train_on_pictures(str(vlm), root / "photos", tmp_path / "out", run(tmp_path / "cache"), wanted)
    assert report["training"]["steps"] == 2
    assert load_transform(tmp_path / "out" / "codec").token_dim == 96, "with two deeper layers"
    text, problem = answered(tmp_path / "out", picture(5))
    assert problem == ""
    assert text


def test_what_cannot_be_trained_says_why(root: Path, tmp_path: Path) -> None:
    def train(wanted: CodecTraining) -> None:
        train_on_pictures(str(root / "vlm"), root / "photos", tmp_path / "out", run(tmp_path / "cache"), wanted)

    with pytest.raises(TooFewPicturesError, match=r"111 are needed: .*8 for the end of the training"):
        train(CodecTraining())
    with pytest.raises(TooFewPicturesError, match="20 pictures can be used"):
        train(replace(WANTED, cache_gb=20 * 1_024e-9))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert not (tmp_path / "out").exists()
