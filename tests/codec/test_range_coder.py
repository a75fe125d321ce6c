"""The coder in Python and constriction's make the same bytes, and read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec import bitstream, range_coder
from pipeline.codec.bitstream import decode_chunk, encode_chunk
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.tables import MAX_SYMBOL, FrequencyTables
from schemas.errors import BitstreamError

LATENTS, DIM = 6, 5


@contextmanager
def in_python() -> Iterator[None]:
    before = bitstream.model, bitstream.queue
    assert before[0] is not range_coder, "constriction is installed here"
    bitstream.model = bitstream.queue = range_coder
    try:
        yield
    finally:
        bitstream.model, bitstream.queue = before


def tables(seed: int, spread: float) -> FrequencyTables:
    rng = np.random.default_rng(seed)
    return FrequencyTables.fit(np.rint(rng.normal(0, spread, (40, LATENTS, DIM))).astype(np.int32), 9)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.1, 1.0, 6.0]),
    scale=st.sampled_from([0.0, 0.5, 3.0, 40.0, 20_000.0]),
    start=st.integers(0, LATENTS - 1),
)
def test_both_make_the_same_bytes(seed: int, spread: float, scale: float, start: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = np.rint(rng.normal(0, 1, (LATENTS - start, DIM)) * scale)
    symbols = np.clip(drawn, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)
    by = tables(seed, spread)
    expected = encode_chunk(symbols, start, by)
    with in_python():
        assert encode_chunk(symbols, start, by) == expected
        assert np.array_equal(decode_chunk(expected, start, LATENTS, by), symbols)


@settings(max_examples=150)
@given(payload=st.binary(min_size=1, max_size=40), seed=st.integers(0, 50))
def test_both_read_the_same_of_any_bytes(payload: bytes, seed: int) -> None:
    def read() -> list[list[int]] | None:
        try:
            found: list[list[int]] = decode_chunk(payload, 0, LATENTS, by).tolist()
        except BitstreamError:
            return None
        return found

    by = tables(seed, 2.0)
    expected = read()
    with in_python():
        assert read() == expected


def test_both_code_frames_given_a_key_frame_alike() -> None:
    rng = np.random.default_rng(3)
    fitted = FrequencyTables.fit(rng.integers(-4, 5, (64, LATENTS, DIM)).astype(np.int32), 9)
    weights = np.zeros((2, 2, bitstream_contexts()), dtype=np.uint16)
    weights[0] = [[24_000], [8_000]]
    by = FrequencyTables(fitted.frequencies, weights)
    key = EncodedLatent(rng.integers(-4, 5, (LATENTS, DIM)).astype(np.int32), by)
    latent = EncodedLatent(key.symbols, by, key.as_key())
    expected = latent.payload(0, LATENTS)
    with in_python():
        again = EncodedLatent(key.symbols, by, key.as_key())
        assert again.payload(0, LATENTS) == expected
        assert np.array_equal(decode_chunk(expected, 0, LATENTS, by, key.as_key()), key.symbols)


def bitstream_contexts() -> int:
    from pipeline.codec.prediction import CONTEXTS

    return CONTEXTS


@pytest.mark.parametrize("size", [2, 3, 17, 1 << 20])
def test_the_last_symbol_of_a_uniform_model_has_what_is_left(size: int) -> None:
    model = range_coder.Uniform(size)
    left, width = model.interval(size - 1)
    assert left + width == 1 << range_coder.PRECISION_BITS
    assert model.symbol(left) == model.symbol((1 << range_coder.PRECISION_BITS) - 1) == size - 1
