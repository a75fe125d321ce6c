"""Frequency tables: what fitting promises and what loading refuses."""

from __future__ import annotations

from pathlib import Path

import constriction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pipeline.codec.tables import FREQUENCY_TOTAL, FrequencyTables
from schemas.errors import ArtifactError, StateError


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 40), st.floats(0.0, 60.0))
def test_fitted_rows_sum_to_the_total_with_every_entry_present(
    seed: int, support: int, frames: int, scale: float
) -> None:
    symbols = np.rint(np.random.default_rng(seed).laplace(scale=scale, size=(frames, 3, 2))).astype(np.int32)
    table = FrequencyTables.fit(symbols, support).frequencies
    assert table.min() >= 1
    assert (table.sum(axis=2, dtype=np.int64) == FREQUENCY_TOTAL).all()


def test_code_length_of_calibration_symbols_is_near_their_entropy() -> None:
    rng = np.random.default_rng(0)
    symbols = rng.choice([-1, 0, 1, 2], p=[0.1, 0.6, 0.2, 0.1], size=(8000, 2, 3)).astype(np.int32)
    entropy = -sum(p * np.log2(p) for p in (0.1, 0.6, 0.2, 0.1))
    tables = FrequencyTables.fit(symbols, 4)
    bits = tables.symbol_bits(symbols, 0, 2)
    assert bits.mean() == pytest.approx(entropy, rel=0.01)
    np.testing.assert_allclose(tables.mean_latent_bits(), bits.sum(axis=2).mean(axis=0), rtol=0.01)


def test_smoothing_pays_on_frames_outside_the_calibration() -> None:
    rng = np.random.default_rng(0)
    symbols = np.rint(rng.laplace(scale=2.0, size=(2000, 4, 1))).astype(np.int32)
    few, others = symbols[:30], symbols[30:]
    plain, smoothed = (FrequencyTables.fit(few, 31, smoothing).symbol_bits(others, 0, 4).mean() for smoothing in (0, 1))
    assert smoothed < plain - 0.1


def test_an_escape_costs_what_the_formula_says() -> None:
    tables = FrequencyTables.fit(np.zeros((100, 1, 1), np.int32), 3)
    escape = 16 - np.log2(float(tables.frequencies[0, 0, -1]))
    for symbol, length in ((4, 1), (-5, 2), (6, 2), (7, 3), (1003, 10)):
        bits = tables.symbol_bits(np.array([[[symbol]]], np.int32), 0, 1).sum()
        assert bits == pytest.approx(escape + 4 + (length - 1) + 1)


def test_coder_weights_make_the_coder_exact() -> None:
    """The coder's interval of each entry is the integer frequency: no float rounding stands between the two sides."""
    rng = np.random.default_rng(3)
    tables = FrequencyTables.fit(np.rint(rng.laplace(scale=3, size=(50, 1, 1))).astype(np.int32), 7)
    family = constriction.stream.model.Categorical(perfect=False)
    unit = (2**64 - 1) >> 24
    below = 0
    for entry, frequency in enumerate(tables.frequencies[0, 0].tolist()):
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(np.array([entry], np.int32), family, tables.coder_weights(0, 1))
        _, (lower, width) = coder.pos()
        assert lower == below * 256 * unit
        if entry + 1 < tables.frequencies.shape[2]:  # the last one takes the remainder of the range as well
            assert width == frequency * 256 * unit
        below += frequency


def test_tables_survive_the_disk(tmp_path: Path) -> None:
    tables = FrequencyTables.fit(np.arange(-6, 6, dtype=np.int32).reshape(2, 2, 3), 2)
    tables.save(tmp_path / "tables.safetensors")
    loaded = FrequencyTables.load(tmp_path / "tables.safetensors")
    np.testing.assert_array_equal(loaded.frequencies, tables.frequencies)
    assert (loaded.latent_count, loaded.latent_dim, loaded.support) == (2, 3, 2)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tables.safetensors"
    with pytest.raises(ArtifactError, match="copy the whole codec folder"):
        FrequencyTables.load(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ArtifactError, match="not frequency tables"):
        FrequencyTables.load(path)
    wrong = np.full((1, 1, 4), 1 << 14, dtype=np.uint16)
    for broken in (wrong[0], wrong.astype(np.int32), wrong - 1, wrong[:, :, :3].copy()):
        save_file({"frequencies": np.ascontiguousarray(broken)}, path)
        with pytest.raises(ArtifactError, match="not frequency tables"):
            FrequencyTables.load(path)
    save_file({"frequencies": wrong}, path)
    assert FrequencyTables.load(path).support == 1


def test_shapes_that_do_not_fit_are_our_own_bug() -> None:
    tables = FrequencyTables.fit(np.zeros((2, 3, 4), np.int32), 1)
    with pytest.raises(StateError):
        tables.symbol_bits(np.zeros((1, 2, 4), np.int32), 0, 3)
    with pytest.raises(StateError):
        FrequencyTables.fit(np.zeros((0, 3, 4), np.int32), 1)
    with pytest.raises(StateError):
        FrequencyTables.fit(np.zeros((1, 3, 4), np.int32), 0)
