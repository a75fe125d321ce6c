"""Frames coded given a key frame: lossless, bounded, shorter where something stays, and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.codec.bitstream import decode_chunk, encode_chunk
from pipeline.codec.latent import EncodedLatent, PrefixAssembler
from pipeline.codec.prediction import CONTEXTS, KeyFramePrediction, contexts
from pipeline.codec.tables import FREQUENCY_TOTAL, MAX_SYMBOL, MIN_SAME_WEIGHT, FrequencyTables
from schemas.errors import ArtifactError, BitstreamError, StateError

LATENTS, DIM, SUPPORT = 6, 8, 5


def weights() -> NDArray[np.uint16]:
    """Three levels: much has changed, little, nothing."""
    found = np.zeros((3, 2, CONTEXTS), dtype=np.uint16)
    found[0] = [[50_000], [8_000]]
    found[1] = [[6_000], [3_000]]
    return found


def tables_of(seed: int) -> FrequencyTables:
    rng = np.random.default_rng(seed)
    symbols = np.rint(rng.laplace(scale=1.5, size=(60, LATENTS, DIM))).astype(np.int32)
    return FrequencyTables(FrequencyTables.fit(symbols, SUPPORT).frequencies, weights())


TABLES = tables_of(0)
values = st.integers(-9, 9) | st.sampled_from([-MAX_SYMBOL, MAX_SYMBOL, SUPPORT, -SUPPORT])
frames = st.lists(values, min_size=LATENTS * DIM, max_size=LATENTS * DIM).map(
    lambda flat: np.array(flat, dtype=np.int32).reshape(LATENTS, DIM)
)
ranges = st.tuples(st.integers(0, LATENTS - 1), st.integers(1, LATENTS)).filter(lambda pair: pair[0] < pair[1])


@given(key=frames, now=frames, bounds=ranges)
def test_any_symbols_come_back_given_any_key_frame(
    key: NDArray[np.int32], now: NDArray[np.int32], bounds: tuple[int, int]
) -> None:
    start, stop = bounds
    foretold = KeyFramePrediction(key, TABLES)
    payload = encode_chunk(now[start:stop], start, TABLES, foretold)
    np.testing.assert_array_equal(decode_chunk(payload, start, stop, TABLES, foretold), now[start:stop])
    for level in range(foretold.levels):
        rows = foretold.coder_weights(level, start, stop).astype(np.int64)
        assert (rows >= 0).all()
        # `FREQUENCY_TOTAL` in 24 bits, less the one that the coder adds to each entry.
        assert (rows.sum(axis=1) == (1 << 24) - rows.shape[1]).all()


# Many symbols in one byte, by luck: the range is narrow, and this byte with zeros after it lies in it. The level that
# promises the fewest bits needs 20 bytes for the same symbols.
LUCKY = b"\x91"
LUCKY_KEY = np.zeros((LATENTS, DIM), dtype=np.int32)
LUCKY_KEY.ravel()[[0, 5]] = 5, 1
LUCKY_KEY.ravel()[[4, 6, 7, 9, 13, 15, 16, 17, 21, 22, 25]] = -MAX_SYMBOL


@given(payload=st.binary(min_size=1, max_size=40), key=frames)
@example(payload=b"\x00", key=np.zeros((LATENTS, DIM), dtype=np.int32))
@example(payload=LUCKY, key=LUCKY_KEY)
def test_any_bytes_decode_to_symbols_with_one_code_at_their_level_or_raise(
    payload: bytes, key: NDArray[np.int32]
) -> None:
    foretold = KeyFramePrediction(key, TABLES)
    try:
        symbols = decode_chunk(payload, 0, LATENTS, TABLES, foretold)
    except BitstreamError:
        return
    assert np.abs(symbols).max() <= MAX_SYMBOL
    again = encode_chunk(symbols, 0, TABLES, foretold)
    np.testing.assert_array_equal(decode_chunk(again, 0, LATENTS, TABLES, foretold), symbols)
    with pytest.raises(BitstreamError, match="not the shortest code"):
        decode_chunk(payload + b"\x00", 0, LATENTS, TABLES, foretold)


def test_a_key_frame_codes_itself_in_a_byte_or_two() -> None:
    rng = np.random.default_rng(3)
    latent = EncodedLatent(rng.integers(-4, 5, (LATENTS, DIM)).astype(np.int32), TABLES)
    assert latent.size_bytes(LATENTS) > 15
    assert latent.given(latent.as_key()).size_bytes(LATENTS) == 1


@pytest.mark.parametrize("changing", [0.0, 0.1, 0.3, 1.0])
def test_the_level_follows_the_change_and_nothing_costs_more_than_the_level(changing: float) -> None:
    rng = np.random.default_rng(7)
    saved = []
    for _ in range(30):
        key = np.rint(rng.laplace(scale=1.5, size=(LATENTS, DIM))).astype(np.int32)
        fresh = np.rint(rng.laplace(scale=1.5, size=(LATENTS, DIM))).astype(np.int32)
        latent = EncodedLatent(np.where(rng.random(key.shape) < changing, fresh, key), TABLES)
        given_key = latent.given(KeyFramePrediction(key, TABLES))
        saved.append(1 - given_key.size_bytes(LATENTS) / latent.size_bytes(LATENTS))
        estimate = given_key.prefix_bytes()
        sizes = [given_key.size_bytes(stop) for stop in range(1, LATENTS + 1)]
        assert estimate[0] == 0
        assert np.abs(estimate[1:] - sizes).max() <= 1
    least = {0.0: 0.9, 0.1: 0.5, 0.3: 0.2, 1.0: -0.12}[changing]
    assert np.mean(saved) > least


@given(seed=st.integers(0, 30))
def test_sizes_of_prefixes_by_themselves_are_right_within_a_byte(seed: int) -> None:
    rng = np.random.default_rng(seed)
    latent = EncodedLatent(np.rint(rng.laplace(scale=3, size=(LATENTS, DIM))).astype(np.int32), TABLES)
    sizes = [latent.size_bytes(stop) for stop in range(1, LATENTS + 1)]
    assert np.abs(latent.prefix_bytes()[1:] - sizes).max() <= 1


def test_chunks_by_themselves_and_given_a_key_frame_become_one_prefix() -> None:
    rng = np.random.default_rng(5)
    key = rng.integers(-3, 4, (LATENTS, DIM)).astype(np.int32)
    latent = EncodedLatent(np.where(rng.random(key.shape) < 0.1, 2, key).astype(np.int32), TABLES)
    foretold = KeyFramePrediction(key, TABLES)
    assembler = PrefixAssembler(TABLES)
    assert assembler.add(0, 3, latent.given(foretold).payload(0, 3), foretold)
    assert assembler.add(3, LATENTS, latent.payload(3, LATENTS))
    symbols, length = assembler.prefix()
    assert length == LATENTS
    np.testing.assert_array_equal(symbols, latent.symbols)


def test_another_key_frame_is_noticed_or_gives_other_symbols() -> None:
    rng = np.random.default_rng(11)
    key, other = rng.integers(-3, 4, (2, LATENTS, DIM)).astype(np.int32)
    payload = EncodedLatent(key, TABLES, KeyFramePrediction(key, TABLES)).payload(0, LATENTS)
    try:
        found = decode_chunk(payload, 0, LATENTS, TABLES, KeyFramePrediction(other, TABLES))
    except BitstreamError:
        return
    assert not np.array_equal(found, key)


def test_contexts_say_how_large_and_how_rare() -> None:
    symbols = np.zeros((LATENTS, DIM), dtype=np.int32)
    symbols[0, 0], symbols[0, 1], symbols[0, 2] = 1, -7, MAX_SYMBOL
    found = contexts(symbols, TABLES)
    assert found.shape == (LATENTS, DIM)
    assert [int(value) // 8 for value in found[0, :4]] == [1, 2, 2, 0]
    share = TABLES.frequencies[0, 3, SUPPORT] / FREQUENCY_TOTAL
    assert int(found[0, 3]) % 8 == min(7, int(-np.log2(share)))


def test_codecs_without_a_prediction_say_so() -> None:
    plain = FrequencyTables(TABLES.frequencies)
    latent = EncodedLatent(np.zeros((LATENTS, DIM), dtype=np.int32), plain)
    assert not latent.can_be_key
    with pytest.raises(StateError, match="no tables for frames given a key frame"):
        latent.as_key()
    with pytest.raises(StateError, match=r"are not \[6, 8\]"):
        KeyFramePrediction(np.zeros((2, 2), dtype=np.int32), TABLES)


def test_weights_survive_the_disk_and_bad_ones_are_named(tmp_path: Path) -> None:
    TABLES.save(tmp_path / "tables.safetensors")
    prediction = FrequencyTables.load(tmp_path / "tables.safetensors").prediction
    assert prediction is not None
    np.testing.assert_array_equal(prediction, weights())
    greedy = weights()
    greedy[0, 0] = FREQUENCY_TOTAL - MIN_SAME_WEIGHT
    for wrong in (greedy, weights()[:, :1], weights().astype(np.int32), np.zeros((17, 2, CONTEXTS), dtype=np.uint16)):
        with pytest.raises(ValueError, match=r"levels|own symbol"):
            FrequencyTables(TABLES.frequencies, wrong)  # type: ignore[arg-type]
    (tmp_path / "tables.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(ArtifactError):
        FrequencyTables.load(tmp_path / "tables.safetensors")
