"""Training the reference VLM: it learns, goes on where it was cut off, and starts from a saved model."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.codec.spec import hash_vlm
from schemas.errors import ArtifactError, ConfigError
from tests.scenes.photo_files import write_photo_folder
from training.reference_vlm import loop, pool
from training.reference_vlm import train as command
from training.reference_vlm.config import BUDGETS, ModelSize, StageBudget, TrainingBudget
from training.reference_vlm.model import build_model
from training.reference_vlm.tokenizer import build_processor, train_tokenizer
from training.reference_vlm.vocabulary import Vocabulary
from training.run import RunSettings

TINY = ModelSize(vision_width=32, vision_heads=2, vision_layers=1, text_width=32, text_heads=2, text_layers=2)
SMOKE = replace(BUDGETS["smoke"], model=TINY)
NOTHING = StageBudget(0, 2, 1e-3)
FEW_FRAMES = TrainingBudget(
    model=TINY, rendered=4, photographs=0, detail=2, tower=NOTHING, captions=NOTHING, questions=NOTHING
)
"""No steps at all: what comes out is what went in."""


class CutOffError(Exception):
    """The end of a run in the middle of it."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("photos") / "classes")


_tokenizer_of = cache(train_tokenizer)


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares what takes seconds and is the same for every run; the test of the whole command spares nothing."""
    monkeypatch.setattr(command, "train_tokenizer", _tokenizer_of)
    monkeypatch.setattr(pool, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))


def train(output: Path, cache_dir: Path, lines: list[str] | None = None, **options: Any) -> dict[str, Any]:
    seed, resume = options.pop("seed", 5), options.pop("resume", True)
    run = RunSettings(cache_dir, seed, 1, resume=resume, progress=(lines if lines is not None else []).append)
    return command.train_reference_vlm(output, run, **options)


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_tiny_training_learns_and_saves(photos: Path, tmp_path: Path) -> None:
    budget = TrainingBudget(
        model=TINY,
        rendered=48,
        photographs=16,
        detail=8,
        tower=StageBudget(100, 6, 3e-3),
        captions=StageBudget(12, 4, 3e-3),
        questions=StageBudget(6, 4, 1e-3),
    )
    output, cache_dir = tmp_path / "out", tmp_path / "cache"
    lines: list[str] = []
    report = train(output, cache_dir, lines, photos=photos, budget=budget)
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if line.startswith("tower: step")]
    assert len(losses) == 2
    assert losses[1] < 0.9 * losses[0]
    assert report["frames"] == {"rendered": 48, "photographs": 16, "detail": 8}
    assert {name: stage["steps"] for name, stage in report["stages"].items()} == {
        "tower": 100,
        "captions": 12,
        "questions": 6,
    }
    assert "start" not in report
    assert json.loads((output / "training.json").read_text()) == report
    first = weights_of(output)
    again: list[str] = []
    train(output, cache_dir, again, photos=photos, budget=budget)
    assert any("tower: continues at step 100, 100% done" in line for line in again)
    assert weights_of(output) == first


@pytest.mark.usefixtures("quick_start")
def test_a_run_that_is_cut_off_ends_as_one_that_is_not(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in every sixth step: within the tower, between captions and questions, and within questions."""
    whole = train(tmp_path / "whole", tmp_path / "cache", photos=photos, budget=SMOKE)
    (run_dir,) = (tmp_path / "cache").iterdir()
    # The same frames; what was learned is left behind.
    shutil.copytree(run_dir / "frames", tmp_path / "again" / run_dir.name / "frames")
    share_done, taken = loop.share_done, 0

    def every_sixth_fails(step: int, spent_s: float, budget: StageBudget) -> float:
        nonlocal taken
        taken += 1
        if taken == 6:
            raise CutOffError
        return share_done(step, spent_s, budget)

    monkeypatch.setattr(loop, "_CHECKPOINT_EVERY_S", -1.0)
    monkeypatch.setattr(loop, "share_done", every_sixth_fails)
    lines: list[str] = []
    for _ in range(3):
        with pytest.raises(CutOffError):
            train(tmp_path / "pieces", tmp_path / "again", lines, photos=photos, budget=SMOKE)
        assert not (tmp_path / "pieces").exists()
        taken = 0
    pieces = train(tmp_path / "pieces", tmp_path / "again", lines, photos=photos, budget=SMOKE)
    assert "tower: continues at step 5, 83% done" in lines
    assert "captions: continues at step 4, 100% done" in lines
    assert "questions: continues at step 5, 83% done" in lines
    assert weights_of(tmp_path / "pieces") == weights_of(tmp_path / "whole")
    steps = [{name: stage["steps"] for name, stage in report["stages"].items()} for report in (whole, pieces)]
    assert steps[0] == steps[1] == {"tower": 6, "captions": 4, "questions": 6}


def saved_model(folder: Path, seed: int, vocabulary: Vocabulary, size: ModelSize = TINY) -> Path:
    tokenizer = _tokenizer_of(vocabulary)
    build_model(size, tokenizer, seed=seed).to(torch.bfloat16).save_pretrained(folder)
    build_processor(tokenizer, size).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("quick_start")
def test_a_run_goes_on_from_a_saved_model_and_another_start_is_another_run(tmp_path: Path) -> None:
    first, second = (saved_model(tmp_path / f"start{seed}", seed, Vocabulary.of()) for seed in (1, 2))
    (first / "training.json").write_text('{"seed": 1}')
    cache_dir = tmp_path / "cache"
    untouched = train(tmp_path / "a", cache_dir, start_from=first, budget=FEW_FRAMES)
    assert weights_of(tmp_path / "a") == weights_of(first)
    assert untouched["start"] == {"vlm": hash_vlm(first), "training": {"seed": 1}}
    assert untouched["stages"] == {}
    learning = replace(FEW_FRAMES, questions=StageBudget(2, 2, 1e-3))
    runs = {}
    for name, start in (("first", first), ("second", second), ("none", None), ("again", first)):
        lines: list[str] = []
        runs[name] = train(tmp_path / name, cache_dir, lines, start_from=start, budget=learning)
        assert any("continues" in line for line in lines) == (name == "again")
    assert runs["second"]["start"] == {"vlm": hash_vlm(second), "training": None}
    assert len({weights_of(tmp_path / name) for name in ("first", "second", "none")}) == 3
    assert weights_of(tmp_path / "again") == weights_of(tmp_path / "first")
    before, after = load_file(first / "model.safetensors"), load_file(tmp_path / "first" / "model.safetensors")
    moved = {name: (after[name].float() - value.float()).abs().max().item() for name, value in before.items()}
    assert 0 < max(moved.values()) < 0.05, "two steps lead away from the start, and not far"


@pytest.mark.usefixtures("quick_start")
def test_other_photographs_are_another_run(photos: Path, tmp_path: Path) -> None:
    more = write_photo_folder(tmp_path / "more", per_class=41)
    for library in (photos, more, None):
        train(tmp_path / "out", tmp_path / "cache", photos=library, budget=replace(FEW_FRAMES, photographs=2))
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.usefixtures("quick_start")
def test_a_start_that_does_not_fit_is_refused_before_any_frame_is_awaited(tmp_path: Path) -> None:
    wider = saved_model(tmp_path / "wider", 1, Vocabulary.of(), replace(TINY, text_width=48))
    speaks = saved_model(tmp_path / "speaks", 1, Vocabulary.of([("frog", "frogs")]))
    damaged = saved_model(tmp_path / "damaged", 1, Vocabulary.of())
    (damaged / "model.safetensors").write_bytes(b"no weights")
    wrong_report = saved_model(tmp_path / "wrong_report", 1, Vocabulary.of())
    (wrong_report / "training.json").write_bytes(b"{")
    for folder, problem in (
        (wider, "another size or vocabulary"),
        (speaks, "another size or vocabulary"),
        (damaged, "no usable model"),
        (wrong_report, "not readable"),
        (tmp_path / "nowhere", "save_pretrained"),
    ):
        lines: list[str] = []
        with pytest.raises(ArtifactError, match=problem) as caught:
            train(tmp_path / "out", tmp_path / "cache", lines, start_from=folder, budget=FEW_FRAMES)
        assert str(folder) in caught.value.path
        assert "first frames are ready" not in lines


def test_an_unknown_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="enormous"):
        train(tmp_path, tmp_path, budget="enormous")
