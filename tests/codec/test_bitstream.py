"""The bitstream: round trips, sizes, independence of chunks, hostile bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.codec.bitstream import decode_chunk, encode_chunk
from pipeline.codec.tables import FREQUENCY_TOTAL, MAX_SYMBOL, FrequencyTables
from schemas.errors import BitstreamError, StateError
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES

CODER_LOSS_BITS = 0.02
"""What 24-bit arithmetic may lose a symbol at worst: a range of 2**32 cut to 8 bits of precision."""


def random_tables(seed: int, latents: int, channels: int, support: int) -> FrequencyTables:
    """Tables as a calibration makes them: scales fall along the latent."""
    rng = np.random.default_rng(seed)
    scale = 4.0 * support * np.exp(-np.arange(latents * channels) / 8).reshape(latents, channels)
    return FrequencyTables.fit(
        np.rint(rng.laplace(scale=scale, size=(64, latents, channels))).astype(np.int32), support
    )


@st.composite
def coded(draw: st.DrawFn) -> tuple[FrequencyTables, NDArray[np.int32]]:
    latents, channels = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    tables = random_tables(draw(st.integers(0, 99)), latents, channels, draw(st.sampled_from([1, 2, 7, 31])))
    symbol = st.one_of(st.just(0), st.integers(-3, 3), st.integers(-40, 40), st.integers(-MAX_SYMBOL, MAX_SYMBOL))
    flat = draw(st.lists(symbol, min_size=latents * channels, max_size=latents * channels))
    return tables, np.array(flat, dtype=np.int32).reshape(latents, channels)


@given(coded(), st.data())
def test_any_symbols_come_back_from_any_range(
    case: tuple[FrequencyTables, NDArray[np.int32]], data: st.DataObject
) -> None:
    tables, symbols = case
    start = data.draw(st.integers(0, len(symbols) - 1))
    stop = data.draw(st.integers(start + 1, len(symbols)))
    payload = encode_chunk(symbols[start:stop], start, tables)
    np.testing.assert_array_equal(decode_chunk(payload, start, stop, tables), symbols[start:stop])


@given(coded())
def test_a_chunk_is_at_most_one_byte_longer_than_its_code_length(
    case: tuple[FrequencyTables, NDArray[np.int32]],
) -> None:
    tables, symbols = case
    bits = tables.symbol_bits(symbols[None], 0, len(symbols)).sum()
    # An escape is at most 4 coder symbols.
    assert len(encode_chunk(symbols, 0, tables)) <= (bits + 4 * CODER_LOSS_BITS * symbols.size) / 8 + 1


def test_typical_chunks_stay_within_a_byte_without_any_allowance() -> None:
    tables = random_tables(1, 40, 32, 15)
    rng = np.random.default_rng(2)
    p = tables.frequencies.astype(np.float64) / FREQUENCY_TOTAL
    excess = []
    for _ in range(50):
        drawn = (p.cumsum(axis=2) < rng.random((40, 32, 1))).sum(axis=2)
        symbols = (np.minimum(drawn, 30) - 15).astype(np.int32)
        for start, stop in ((0, 40), (0, 5), (5, 11), (39, 40)):
            bits = tables.symbol_bits(symbols[None, start:stop], start, stop).sum()
            excess.append(len(encode_chunk(symbols[start:stop], start, tables)) - bits / 8)
    assert max(excess) < 1.0
    assert min(excess) > -1.0, "fewer bytes than the entropy coder can need: the tables are not what is coded with"


@given(coded(), st.data())
def test_bytes_of_a_range_depend_on_its_own_symbols_only(
    case: tuple[FrequencyTables, NDArray[np.int32]], data: st.DataObject
) -> None:
    tables, symbols = case
    start = data.draw(st.integers(0, len(symbols) - 1))
    stop = data.draw(st.integers(start + 1, len(symbols)))
    other = np.full_like(symbols, 5)
    other[start:stop] = symbols[start:stop]
    assert encode_chunk(other[start:stop], start, tables) == encode_chunk(symbols[start:stop], start, tables)


@given(st.binary(min_size=0, max_size=80), st.integers(0, 5), st.sampled_from([1, 7]))
def test_any_bytes_decode_to_symbols_with_that_code_or_raise(payload: bytes, seed: int, support: int) -> None:
    tables = random_tables(seed, 4, 6, support)
    try:
        symbols = decode_chunk(payload, 1, 4, tables)
    except BitstreamError:
        return
    assert encode_chunk(symbols, 1, tables) == payload


@settings(max_examples=50)
@given(coded(), st.binary(min_size=1, max_size=4))
def test_appended_and_missing_bytes_are_refused(case: tuple[FrequencyTables, NDArray[np.int32]], tail: bytes) -> None:
    tables, symbols = case
    payload = encode_chunk(symbols, 0, tables)
    with pytest.raises(BitstreamError):
        decode_chunk(payload + bytes(len(tail)), 0, len(symbols), tables)
    cut = payload[:-1]
    if cut:
        try:
            decoded = decode_chunk(cut, 0, len(symbols), tables)
        except BitstreamError:
            pass
        else:
            assert not np.array_equal(decoded, symbols)


def test_oversized_payload_is_refused_before_any_work() -> None:
    tables = random_tables(0, 2, 2, 1)
    with pytest.raises(BitstreamError, match="not in 1") as caught:
        decode_chunk(bytes(MAX_LATENT_PAYLOAD_BYTES + 1), 0, 2, tables)
    assert (caught.value.start, caught.value.stop) == (0, 2)


def test_only_the_canonical_escape_is_accepted() -> None:
    """An escape that names a symbol inside the support would give two codes for one symbol."""
    tables = random_tables(0, 1, 1, 2)
    accepted = set()
    for first in range(256):
        for second in range(256):
            try:
                symbols = decode_chunk(bytes([first, second]), 0, 1, tables)
            except BitstreamError:
                continue
            value = int(symbols[0, 0])
            assert value not in accepted
            accepted.add(value)
    assert accepted


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (2, 1), (0, 3), (0, 0)])
def test_a_range_outside_the_latent_is_our_own_bug(start: int, count: int) -> None:
    tables = random_tables(0, 2, 3, 1)
    with pytest.raises(StateError):
        encode_chunk(np.zeros((count, 3), np.int32), start, tables)
    with pytest.raises(StateError):
        decode_chunk(b"\0", start, start + count, tables)


def test_symbols_beyond_the_wire_are_our_own_bug() -> None:
    tables = random_tables(0, 1, 1, 1)
    for value in (MAX_SYMBOL + 1, -MAX_SYMBOL - 1, np.iinfo(np.int32).min):
        with pytest.raises(StateError):
            encode_chunk(np.array([[value]], np.int32), 0, tables)
    with pytest.raises(StateError):
        encode_chunk(np.zeros((1, 2), np.int32), 0, tables)
