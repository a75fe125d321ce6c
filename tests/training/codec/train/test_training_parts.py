"""What a training on pictures consists of: sets, questions, the cache's bound, looks, and options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from latentbus.cli import app
from schemas.errors import ConfigError
from schemas.types import AnswerType
from training.codec.calibrate.make import LatentSize
from training.codec.calibrate.questions import PictureQuestions
from training.codec.calibrate.sets import divide, fewest_of, order_of
from training.codec.data import Asked
from training.codec.fit.rate_curve import CurvePoint
from training.codec.stop.learn_then_test import Promise
from training.codec.train.feature_cache import make_room, pictures_that_fit
from training.codec.train.looks import Look, Looks, Rungs
from training.codec.train.plan import LEARNED, CodecTraining, Learning
from training.codec.train.questions import GENERAL, learning_questions
from training.run import silent


def test_what_other_sets_do_not_need_is_learned_from() -> None:
    promise = Promise(0.05)
    sets = divide(order_of(50_000, video=False, seed=0), promise, "coco", video=False, plan=LEARNED).sizes
    assert sets == {
        "train": 45_300, "tables": 2_000, "selection": 300, "score": 400, "policy": 400, "calibration": 1_000,
        "report": 600,
    }  # fmt: skip
    fewest = fewest_of(promise, LEARNED)
    assert divide(order_of(111, video=False, seed=0), promise, "few", video=False, plan=LEARNED).sizes == fewest
    strict = divide(order_of(9_000, video=False, seed=0), Promise(0.002), "strict", video=False, plan=LEARNED).sizes
    assert strict["calibration"] == fewest_of(Promise(0.002), LEARNED)["calibration"] > 1_000


def test_pictures_that_one_has_questions_about_are_held_out() -> None:
    asked = list(range(0, 400, 4))
    order = order_of(400, video=False, seed=0, asked=asked)
    sets = divide(order, Promise(0.1), "photos", video=False, asked=len(asked), plan=LEARNED)
    assert all(row in asked for name in LEARNED.asked for row in sets.rows(name))
    assert LEARNED.asked[0] == "selection"


def test_questions_to_learn_from_are_any_texts() -> None:
    general = learning_questions(PictureQuestions.read(None), 200, 4, seed=3)
    assert general == learning_questions(PictureQuestions.read(None), 200, 4, seed=3)
    assert {text for texts in general for text in texts} == set(GENERAL)
    assert all(len(set(texts)) == 4 for texts in general)
    item = Asked(0, "A car?", AnswerType.YES_NO, "a", "yes", "own")
    named = PictureQuestions((), {"a.png": (item,)}, Path("questions.jsonl"))
    assert learning_questions(named, 2, 4, seed=0) == [["A car?"], ["A car?"]]


def test_tokens_of_other_runs_make_room_the_oldest_first(tmp_path: Path) -> None:
    def kept(name: str, size: int, used: int) -> Path:
        path = tmp_path / f"pictures-{name}" / "cache" / "tokens.npy"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
        path.with_suffix(".json").write_text("{}")
        os.utime(path, (used, used))
        return path

    old, new, mine = kept("old", 4_000, 1), kept("new", 4_000, 2), kept("mine", 4_000, 0)
    lines: list[str] = []
    make_room(tmp_path, tmp_path / "pictures-mine", 4_000, 12e-6, lines.append)
    assert lines == []
    make_room(tmp_path, tmp_path / "pictures-mine", 4_000, 9e-6, lines.append)
    assert (old.exists(), new.exists(), mine.exists()) == (False, True, True)
    assert not old.with_suffix(".json").exists()
    assert len(lines) == 1
    make_room(tmp_path / "none", tmp_path / "none" / "pictures-a", 4_000, 1.0, silent)


def test_the_cache_decides_how_many_pictures_are_taken() -> None:
    assert pictures_that_fit(50_000, (64, 576), 50.0) == 50_000
    assert pictures_that_fit(50_000, (64, 576), 1.0) == 13_563
    with pytest.raises(ConfigError, match="tokens of a picture take 73728 bytes"):
        pictures_that_fit(50_000, (64, 576), 5e-5)


def point(size: float, agreement: float, error: float) -> CurvePoint:
    return CurvePoint(1, size, error, 0.0, agreement, {})


def test_looks_are_at_the_sizes_of_the_closed_form() -> None:
    rungs = Rungs.of([point(10, 0.5, 0.9), point(20, 0.7, 0.5)])
    look = rungs.look([point(5, 0.4, 1.0), point(15, 0.8, 0.4), point(25, 0.9, 0.2)], 7, counts=True)
    assert (look.agreement, look.error) == pytest.approx(((0.6 + 0.85) / 2, (0.7 + 0.3) / 2))
    assert (look.step, look.whole_bytes, look.counts) == (7, 25, True)


def test_a_training_ends_when_patience_runs_out_and_goes_on_where_it_was(tmp_path: Path) -> None:
    looks = Looks(tmp_path / "looks.json", patience=2)
    looks.rungs = Rungs((10.0,), (0.5,), (0.9,))
    for step, agreement, error, counts in ((0, 0.5, 0.9, False), (5, 0.4, 0.8, False), (10, 0.6, 0.7, True)):
        looks.add(Look(step, agreement, error, 9.0, counts))
    assert looks.best is not None
    assert looks.best.step == 10
    looks.add(Look(15, 0.6, 0.7, 9.0, True))
    assert not looks.is_over(), "one look without a better one, of two"
    looks.add(Look(20, 0.6, 0.69, 9.0, True))
    assert (looks.best.step, looks.is_over()) == (20, False), "as many answers agree, with less error"
    for step in (25, 30):
        looks.add(Look(step, 0.59, 0.1, 9.0, True))
    assert looks.is_over()
    again = Looks(tmp_path / "looks.json", patience=2)
    assert again.as_dict() == looks.as_dict()
    again.go_back_to(27)
    assert (again.at(30), again.is_over(), again.rungs) == (None, False, looks.rungs)
    early = Looks(tmp_path / "early.json", patience=1)
    early.rungs = looks.rungs
    for step in (0, 5, 10):
        early.add(Look(step, 0.5 - step / 100, 0.9, 9.0, step == 10))
    assert early.is_over()
    assert early.best is not None
    assert early.best.step == 0


def test_a_batch_is_not_smaller_than_its_parts() -> None:
    with pytest.raises(ConfigError, match="7 frames are fewer than 2 processes x 4 parts"):
        Learning(batch=7, processes=2, accumulate=4)
    with pytest.raises(ConfigError, match="'fp16' is none of auto, bf16, fp32"):
        Learning(precision="fp16")  # type: ignore[arg-type]


def test_processes_and_parts_do_not_change_what_is_learned() -> None:
    alone, shared = Learning(), Learning(processes=4, accumulate=2)
    assert alone.settings == shared.settings
    size = LatentSize(8, 12, 60)
    assert alone.budget(size, 100, 1) == shared.budget(size, 100, 1)
    assert (alone.budget(size, 100, 1).view_frames, alone.budget(size, 90_000, 1).asked_frames) == (24, 20_000)


def test_options_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def train(*arguments: Any) -> dict[str, Any]:
        given.extend(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("training.codec.train.work.train_on_pictures", train)
    arguments = ["codec", "train", "--vlm", "org/m", "--images", "p", "--output", str(tmp_path), "--steps", "10"]
    further = ["--batch", "16", "--processes", "2", "--cache-gb", "3", "--risk", "0.1", "--patience", "2"]
    result = CliRunner().invoke(app, [*arguments, *further])
    assert result.exit_code == 130
    assert "the same command goes on where it was" in result.output
    wanted = given[-1]
    assert isinstance(wanted, CodecTraining)
    assert wanted.learning == Learning(steps=10, batch=16, processes=2, patience=2)
    assert (wanted.calibration.max_pictures, wanted.calibration.promise.risk, wanted.cache_gb) == (50_000, 0.1, 3.0)
    assert np.isfinite(wanted.learning.learning_rate)
    defaults = CliRunner().invoke(app, arguments[:-2])
    assert defaults.exit_code == 130
    assert given[-1] == CodecTraining()
