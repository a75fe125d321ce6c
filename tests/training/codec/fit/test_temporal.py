"""Key frames on clips: what they save where something stays, and where nothing does; and the fit of their tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.codec.prediction import CONTEXTS
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.stop_file import StopFile
from pipeline.codec.stop_statistics import StopStatistics
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.wire_bytes import open_wire_bytes
from schemas.types import AnswerType
from tests.cloud.tiny_codec import write_codec, write_vlm
from training.codec.fit.prediction import LEVELS, fit_prediction
from training.codec.fit.temporal import FRAMES_PER_S, Clips, measure_temporal, row
from training.run import RunSettings


def clips(changing: float, seed: int) -> list[NDArray[np.int32]]:
    """Four clips of 20 frames of 6 x 10 symbols, of which a share is drawn anew from frame to frame."""
    rng = np.random.default_rng(seed)

    def fresh() -> NDArray[np.int32]:
        return np.clip(np.rint(rng.normal(0, 1.5, (6, 10))), -7, 7).astype(np.int32)

    found = []
    for _ in range(4):
        frames = [fresh()]
        for _ in range(19):
            frames.append(np.where(rng.random((6, 10)) < changing, fresh(), frames[-1]))
        found.append(np.stack(frames))
    return found


def pairs(shares: tuple[float, ...]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Key frames and the frames after them, of which each share of the symbols is drawn anew in a part of the pairs."""
    before, now = [], []
    for number, share in enumerate(shares):
        for clip in clips(share, number):
            before.append(np.repeat(clip[:1], len(clip) - 1, axis=0))
            now.append(clip[1:])
    return np.concatenate(before), np.concatenate(now)


@pytest.fixture(scope="module")
def tables() -> FrequencyTables:
    plain = FrequencyTables.fit(np.concatenate(clips(1.0, 9) * 3), 7)
    return FrequencyTables(plain.frequencies, fit_prediction(pairs((0.0, 0.01, 0.05, 0.2, 1.0)), plain))


def test_levels_reach_from_much_change_to_none(tables: FrequencyTables) -> None:
    weights = tables.prediction
    assert weights is not None
    assert weights.shape == (LEVELS + 1, 2, CONTEXTS)
    by_static = weights[:, 0].astype(np.int64).mean(axis=1)
    assert list(by_static) == sorted(by_static, reverse=True)
    assert not weights[-1].any()


def test_little_is_lost_where_frames_have_nothing_in_common(tables: FrequencyTables) -> None:
    measured = row(clips(1.0, 1), tables, 10)
    assert measured["symbols_unchanged"] < 0.4
    assert -12 < measured["saved_percent"] < 2
    # The policy sees that, and makes no key frame.
    assert measured["policy"] == {
        "key_frames_share": 0.0,
        "saved_percent_payload": 0.0,
        "saved_percent_wire": 0.0,
        "wire_bytes": measured["policy"]["wire_bytes_by_itself"],
        "wire_bytes_by_itself": measured["policy"]["wire_bytes_by_itself"],
    }


def test_what_stays_is_saved(tables: FrequencyTables) -> None:
    measured = row(clips(0.01, 1), tables, 10)
    assert measured["frames"] == 80
    assert measured["symbols_unchanged"] > 0.9
    assert 60 < measured["saved_percent"] < 90
    assert measured["payload_bytes_given_key"] < measured["payload_bytes"]
    slower = row(clips(0.01, 1), tables, 2)
    assert slower["frames"] == 16
    assert slower["saved_percent"] < measured["saved_percent"]


def test_with_the_stop_rule_as_many_bytes_as_its_policy_expects(tables: FrequencyTables) -> None:
    shares = dict.fromkeys(AnswerType, ((0.5,), (1.0,)))
    stop = StopFile.calibrated(
        (3, 6),
        dict.fromkeys(AnswerType, 0.9),
        risk=0.02,
        score=None,
        shift=None,
        statistics=StopStatistics((3, 6), (), shares),
        calibrated_on={},
    )
    policy = row(clips(1.0, 1), tables, 10, stop)["policy"]
    assert policy["saved_percent_wire_with_stop_rule"] == 0
    still = row(clips(0.01, 1) * 4, tables, 10, stop)["policy"]
    # Half of the passes are safe: cheaper to send the whole at once, with three questions.
    whole_bytes = still["wire_bytes_by_itself"] + open_wire_bytes(20, 3) - open_wire_bytes(20, 1)
    assert still["wire_bytes_by_itself_with_stop_rule"] == pytest.approx(whole_bytes, abs=1)
    keys_cost = still["wire_bytes"] - still["wire_bytes_by_itself"]
    keys_cost_too = still["wire_bytes_with_stop_rule"] - still["wire_bytes_by_itself_with_stop_rule"]
    assert keys_cost_too == pytest.approx(keys_cost, abs=2)


def test_clips_are_drawn_encoded_fitted_and_written(tmp_path: Path) -> None:
    vlm = write_vlm(tmp_path / "vlm")
    lines: list[str] = []
    folder = write_codec(tmp_path / "klt", vlm)
    before = load_codec_spec(folder)
    run = RunSettings(tmp_path / "cache", threads=1, progress=lines.append)
    report = measure_temporal(vlm, folder, run, Clips(1, 2))
    assert set(report["cameras"]) == {"cuts", "fixed", "still"}
    for rows in report["cameras"].values():
        assert [measured["frames_per_s"] for measured in rows] == list(FRAMES_PER_S)
        assert [measured["frames"] for measured in rows] == [2, 4, 10, 20]
    assert len(lines) == 3 + 3 * len(FRAMES_PER_S)
    assert load_codec_spec(folder) == before
    written = measure_temporal(vlm, folder, run, Clips(1, 2), write=True)
    after = load_codec_spec(folder)
    assert after.fingerprint != before.fingerprint
    assert written["fingerprint"] == after.fingerprint4.hex()
    assert written["cameras"] == report["cameras"]
    prediction = FrequencyTables.load(folder / TABLES_FILE).prediction
    assert prediction is not None
    assert len(prediction) == LEVELS + 1
