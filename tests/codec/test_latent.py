"""A frame's latent at the edge and at the worker."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec.latent import EncodedLatent, PrefixAssembler
from pipeline.codec.tables import FrequencyTables
from schemas.errors import BitstreamError, StateError

LATENTS = 6


def make_latent(seed: int) -> tuple[EncodedLatent, FrequencyTables]:
    rng = np.random.default_rng(seed)
    symbols = np.rint(rng.laplace(scale=2.0, size=(40, LATENTS, 4))).astype(np.int32)
    tables = FrequencyTables.fit(symbols, 5)
    return EncodedLatent(symbols[0], tables), tables


ranges = st.tuples(st.integers(0, LATENTS - 1), st.integers(1, LATENTS)).filter(lambda pair: pair[0] < pair[1])


@given(st.integers(0, 20), st.lists(ranges, max_size=12))
def test_chunks_in_any_order_become_the_prefix_that_they_cover(seed: int, chunks: list[tuple[int, int]]) -> None:
    latent, tables = make_latent(seed)
    assembler = PrefixAssembler(tables)
    covered: set[int] = set()
    size_bytes = 0
    for start, stop in chunks:
        payload = latent.payload(start, stop)
        is_new = not covered.issuperset(range(start, stop))
        assert assembler.add(start, stop, payload) is is_new
        size_bytes += len(payload) if is_new else 0
        covered.update(range(start, stop))
    expected = next((index for index in range(LATENTS) if index not in covered), LATENTS)
    symbols, length = assembler.prefix()
    assert length == assembler.prefix_length == expected
    assert assembler.payload_bytes == size_bytes
    np.testing.assert_array_equal(symbols[:length], latent.symbols[:length])
    assert not symbols[length:].any()


def test_size_is_that_of_the_prefix_as_one_chunk() -> None:
    latent, _ = make_latent(3)
    sizes = [latent.size_bytes(stop) for stop in range(1, LATENTS + 1)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(latent.payload(0, LATENTS))


def test_a_contradicting_chunk_is_refused_and_changes_nothing() -> None:
    latent, tables = make_latent(0)
    other, _ = make_latent(1)
    assembler = PrefixAssembler(tables)
    assembler.add(0, 3, latent.payload(0, 3))
    contradicting = EncodedLatent(other.symbols, tables)
    with pytest.raises(BitstreamError, match="contradicts"):
        assembler.add(1, 5, contradicting.payload(1, 5))
    symbols, length = assembler.prefix()
    assert length == 3
    np.testing.assert_array_equal(symbols[:3], latent.symbols[:3])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, LATENTS + 1), (2, 2), (3, 1)])
def test_a_sender_cannot_name_latents_that_do_not_exist(start: int, stop: int) -> None:
    _, tables = make_latent(0)
    with pytest.raises(BitstreamError, match="not a range"):
        PrefixAssembler(tables).add(start, stop, b"\0")


def test_symbols_of_another_codec_are_refused() -> None:
    _, tables = make_latent(0)
    with pytest.raises(StateError):
        EncodedLatent(np.zeros((LATENTS, 5), np.int32), tables)
