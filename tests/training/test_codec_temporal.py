"""Prediction from the previous frame: what it saves where there is something to predict, and where there is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.codec.tables import FrequencyTables
from tests.cloud.tiny_codec import write_codec, write_vlm
from training.codec.temporal import FRAMES_PER_S, _row, measure_temporal


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


@pytest.fixture(scope="module")
def tables() -> FrequencyTables:
    return FrequencyTables.fit(np.concatenate(clips(1.0, 9) * 3), 7)


def test_nothing_is_saved_where_frames_have_nothing_in_common(tables: FrequencyTables) -> None:
    row = _row(clips(1.0, 0), clips(1.0, 1), tables, 10)
    assert -2 < row["saved_percent"] < 2


def test_what_stays_is_saved(tables: FrequencyTables) -> None:
    row = _row(clips(0.1, 0), clips(0.1, 1), tables, 10)
    # An entropy coder needs about 0.47 bits to say whether a symbol stayed, and the 2.6 bits of one in ten.
    assert 70 < row["saved_percent"] < 85
    assert row["payload_bytes_predicted"] < row["payload_bytes"]
    # One key frame in ten, then headers as well.
    assert row["saved_percent_with_key_frames"] == pytest.approx(0.9 * row["saved_percent"], abs=0.2)
    assert 0 < row["saved_percent_wire_with_key_frames"] < row["saved_percent_with_key_frames"]
    # The key frame is further back than the frame before, and two in twenty frames are key frames themselves.
    assert row["from_key_frame"]["pairs_scored"] == 4 * 18
    assert row["from_key_frame"]["symbols_unchanged"] < row["symbols_unchanged"]
    assert 0 < row["from_key_frame"]["saved_percent_with_key_frames"] < row["saved_percent_with_key_frames"]
    slower = _row(clips(0.1, 0), clips(0.1, 1), tables, 2)
    assert slower["pairs_scored"] == 4 * 15
    assert slower["saved_percent"] < row["saved_percent"]


def test_clips_are_drawn_encoded_and_compared(tmp_path: Path) -> None:
    vlm = write_vlm(tmp_path / "vlm")
    lines: list[str] = []
    folder = write_codec(tmp_path / "klt", vlm)
    report = measure_temporal(vlm, folder, clips=1, seconds=2, threads=1, progress=lines.append)
    assert set(report["cameras"]) == {"cuts", "fixed", "still"}
    for rows in report["cameras"].values():
        assert [row["frames_per_s"] for row in rows] == list(FRAMES_PER_S)
        assert [row["pairs_scored"] for row in rows] == [10, 15, 18, 19]
    assert len(lines) == 3 * 5
