"""What ``stop.json`` holds: the score of an answer, the watch over shifts, and the file itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.codec.stop_file import StopFile, load_stop_file, save_stop_file
from pipeline.codec.stop_score import FEATURES, AdditiveScore, ErrorModel, StopScore
from pipeline.codec.stop_shift import WINDOW_PASSES, ScoreQuantiles, ShiftDetector
from pipeline.codec.stop_statistics import StopStatistics
from schemas.errors import ArtifactError
from schemas.types import AnswerType

YES_NO, COUNT = AnswerType.YES_NO, AnswerType.COUNT


def some_score() -> StopScore:
    rising = AdditiveScore(0.5, ((-10.0, 0.0, 10.0),) * len(FEATURES), ((-1.0, 0.0, 1.0),) * len(FEATURES))
    return StopScore(8, ErrorModel((4, 8), (0.5, 0.25), (-0.5, -0.5)), {YES_NO: rising}, by_frame=True)


def features_of(score: StopScore, probability: list[float], length: int = 4) -> NDArray[np.float64]:
    return score.features(
        length,
        probability=probability,
        margin=probability,
        entropy_nats=0.3,
        agrees_with_blind=False,
        blind_probability=0.5,
        code_bits=400.0,
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(1, 8))
def test_a_score_is_a_chance(probability: list[float], length: int) -> None:
    score = some_score()
    found = score.score(features_of(score, probability, length), YES_NO)
    assert found.shape == (len(probability),)
    assert ((found >= 0) & (found <= 1)).all()


def test_a_surer_answer_scores_higher_and_an_unknown_type_nothing() -> None:
    score = some_score()
    low, high = score.score(features_of(score, [0.6, 0.95]), YES_NO)
    assert low < high
    assert score.score(features_of(score, [0.99]), AnswerType.TEXT).tolist() == [0.0]


def test_the_error_model_reads_the_rung_below() -> None:
    model = some_score().errors
    assert model.log_error(6, 100.0) == model.log_error(4, 100.0) == pytest.approx(0.5 - 0.5 * math.log(100))
    assert model.log_error(2, 100.0) == model.log_error(4, 100.0)
    assert model.log_error(8, 0.0) == pytest.approx(0.25)


def quantiles() -> ScoreQuantiles:
    rng = np.random.default_rng(0)
    return ScoreQuantiles.of({YES_NO: rng.beta(5, 1, 2_000).tolist(), COUNT: rng.beta(2, 2, 2_000).tolist()})


def test_frames_like_those_of_the_calibration_raise_no_alarm() -> None:
    detector = ShiftDetector(quantiles())
    rng = np.random.default_rng(1)
    for _ in range(60 * WINDOW_PASSES):
        kind = YES_NO if rng.random() < 0.8 else COUNT  # another mix of types than in the calibration
        detector.note(kind, float(rng.beta(5, 1) if kind is YES_NO else rng.beta(2, 2)))
        assert not detector.shifted
    assert 0 < detector.distance < detector.calibration.threshold


def test_other_scores_raise_it_and_their_return_lifts_it() -> None:
    detector = ShiftDetector(quantiles())
    rng = np.random.default_rng(2)
    changes = [detector.note(YES_NO, float(rng.beta(2, 2))) for _ in range(WINDOW_PASSES)]
    alarmed = detector.shifted
    assert alarmed
    assert changes == [False] * (WINDOW_PASSES - 1) + [True]
    changes = [detector.note(YES_NO, float(rng.beta(5, 1))) for _ in range(WINDOW_PASSES)]
    assert detector.shifted != alarmed
    assert changes[-1]


def test_a_type_that_was_never_calibrated_says_nothing() -> None:
    detector = ShiftDetector(quantiles())
    assert not any(detector.note(AnswerType.TEXT, 0.0) for _ in range(3 * WINDOW_PASSES))


CURVE: dict[str, object] = {"knots": [0.0, 1.0], "values": [0.0, 1.0]}


def whole_file() -> StopFile:
    return StopFile.calibrated(
        (4, 8),
        {YES_NO: 0.9},
        risk=0.02,
        score=some_score(),
        shift=quantiles(),
        statistics=StopStatistics((4, 8), (100.0,), {YES_NO: ((0.5, 0.25), (1.0, 1.0))}),
        calibrated_on={"frames": 7},
    )


def test_other_risks_and_the_length_at_once_survive_the_file(tmp_path: Path) -> None:
    made = StopFile.calibrated(
        (4, 8),
        {YES_NO: 0.9},
        risk=0.02,
        score=None,
        shift=None,
        statistics=StopStatistics((4, 8), (), {YES_NO: ((0.5,), (1.0,))}),
        calibrated_on={},
        by_risk={0.1: {YES_NO: 0.5}, 0.005: {YES_NO: 0.99}},
        at_once=7,
    )
    save_stop_file(tmp_path, made)
    assert load_stop_file(tmp_path) == made
    assert list(made.rule.by_risk) == [0.005, 0.1]
    for wrong in ({"at_once": 8}, {"at_once": 4}, {"at_once": "x"}, {"by_risk": [{"risk": 2, "thresholds": {}}]}):
        (tmp_path / "stop.json").write_text(json.dumps(made.as_json() | wrong))
        with pytest.raises(ArtifactError, match="calibrate-stop"):
            load_stop_file(tmp_path)


def test_a_stop_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_stop_file(tmp_path, whole_file())
    assert load_stop_file(tmp_path) == whole_file()
    rule = load_stop_file(tmp_path).rule
    assert rule.is_safe(YES_NO, 4, 0.91)
    assert not rule.is_safe(YES_NO, 4, 0.89)
    assert not rule.is_safe(COUNT, 4, 1.0), "a type that was not calibrated waits"
    assert rule.is_safe(COUNT, 8, 0.0)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("score", {"features": ["smell"]}),
        ("score", {"models": {"yes_no": {"bias": 0.0, "curves": []}}}),
        ("score", {"models": {"yes_no": {"bias": 0.0, "curves": [CURVE | {"values": [0.0]}] * len(FEATURES)}}}),
        ("score", {"models": {"yes_no": {"bias": 0.0, "curves": [CURVE | {"knots": [1.0, 0.0]}] * len(FEATURES)}}}),
        ("score", {"models": {"yes_no": {"bias": float("inf"), "curves": [CURVE] * len(FEATURES)}}}),
        ("score", {"models": {"yes_no": {"curves": [CURVE] * len(FEATURES)}}}),
        ("score", {"models": [7]}),
        ("score", {"judged": "twice"}),
        ("statistics", {"by_frame": "no"}),
        ("statistics", {"by_frame": None}),
        ("statistics", {"size_edges_bytes": [2.0, 1.0]}),
        ("score", {"errors": {"rungs": [8, 4], "offsets": [0, 0], "slopes": [0, 0]}}),
        ("score", {"errors": None}),
        ("score", {"latent_count": 0}),
        ("shift", {"quantiles": {"yes_no": [0.5, 0.1]}}),
        ("shift", {"quantiles": {"yes_no": [0.5]}}),
        ("shift", {"frames": 0}),
        ("statistics", {"safe_share": {"yes_no": [[2.0, 0.5], [1.0, 1.0]]}}),
    ],
)
def test_a_damaged_part_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, part: str, change: dict[str, object]
) -> None:
    data = whole_file().as_json()
    data[part] = data[part] | change
    (tmp_path / "stop.json").write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="calibrate-stop"):
        load_stop_file(tmp_path)
