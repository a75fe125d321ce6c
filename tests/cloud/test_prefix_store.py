from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import pipeline.codec.latent
from cloud_workers.prefix_store import PrefixStore
from pipeline.codec.bitstream import decode_chunk
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prediction import KeyFramePrediction
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.effects import ChunkData, InferencePass, KeyData
from schemas.errors import BitstreamError
from schemas.types import FrameId
from tests.cloud.tiny_codec import LATENT_COUNT, LATENT_DIM, decode_whole, encode, random_symbols


def inference_pass(latent: EncodedLatent, *bounds: int, camera: str = "gate", sequence: int = 0) -> InferencePass:
    """A pass over the chunks between the bounds, which start at 0."""
    pairs = list(zip((0, *bounds), bounds, strict=False))
    chunks = tuple(ChunkData(start, stop, latent.payload(start, stop)) for start, stop in pairs)
    return InferencePass(camera, FrameId(1, sequence), 1, chunks, bounds[-1], (), len(bounds))


@pytest.fixture
def store(codec_dir: Path) -> PrefixStore:
    return PrefixStore(FrequencyTables.load(codec_dir / TABLES_FILE), load_prefix_decoder(codec_dir), max_frames=2)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Ranges that were range-decoded, in order."""
    ranges: list[tuple[int, int]] = []

    def counting(
        payload: bytes, start: int, stop: int, tables: FrequencyTables, given: KeyFramePrediction | None = None
    ) -> NDArray[np.int32]:
        ranges.append((start, stop))
        return decode_chunk(payload, start, stop, tables, given)

    monkeypatch.setattr(pipeline.codec.latent, "decode_chunk", counting)
    return ranges


def test_a_chunk_is_decoded_once(store: PrefixStore, codec_dir: Path, decoded: list[tuple[int, int]]) -> None:
    symbols = random_symbols(1, seed=2)[0]
    latent = encode(symbols, codec_dir)
    for bounds in ((3,), (3, 5), (3, 5, LATENT_COUNT), (3, 5, LATENT_COUNT)):
        found = store.symbols(inference_pass(latent, *bounds))
        np.testing.assert_array_equal(found[: bounds[-1]], symbols[: bounds[-1]])
        assert not found[bounds[-1] :].any()
    assert decoded == [(0, 3), (3, 5), (5, LATENT_COUNT)]


def test_frames_do_not_mix(store: PrefixStore, codec_dir: Path) -> None:
    frames = random_symbols(2, seed=3)
    for camera, sequence in (("gate", 0), ("yard", 0), ("gate", 1)):
        for symbols in frames[:1] if sequence == 0 and camera == "gate" else frames[1:]:
            whole = inference_pass(encode(symbols, codec_dir), LATENT_COUNT, camera=camera, sequence=sequence)
            np.testing.assert_array_equal(store.symbols(whole), symbols)


def test_a_shorter_pass_sees_no_further_than_it_asks(store: PrefixStore, codec_dir: Path) -> None:
    symbols = random_symbols(1, seed=4)[0]
    latent = encode(symbols, codec_dir)
    store.symbols(inference_pass(latent, LATENT_COUNT))
    found = store.symbols(inference_pass(latent, 3))
    np.testing.assert_array_equal(found[:3], symbols[:3])
    assert not found[3:].any()


def test_the_store_is_bounded_and_a_dropped_frame_is_decoded_again(
    store: PrefixStore, codec_dir: Path, decoded: list[tuple[int, int]]
) -> None:
    latents = [encode(symbols, codec_dir) for symbols in random_symbols(3, seed=5)]
    for sequence, latent in enumerate(latents):
        store.symbols(inference_pass(latent, 3, sequence=sequence))
    assert len(store) == 2
    decoded.clear()
    store.symbols(inference_pass(latents[2], 3, 5, sequence=2))
    assert decoded == [(3, 5)]
    decoded.clear()
    store.symbols(inference_pass(latents[0], 3, 5, sequence=0))
    assert decoded == [(0, 3), (3, 5)]


def test_the_store_is_bounded_in_bytes(codec_dir: Path) -> None:
    a_frame = LATENT_COUNT * (4 * LATENT_DIM + 1)
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    store = PrefixStore(tables, load_prefix_decoder(codec_dir), max_bytes=3 * a_frame + 1)
    for sequence, symbols in enumerate(random_symbols(5, seed=6)):
        store.symbols(inference_pass(encode(symbols, codec_dir), 3, sequence=sequence))
    assert len(store) == 3


def test_bad_chunks_raise_and_leave_nothing_behind(store: PrefixStore, codec_dir: Path) -> None:
    good, other = (encode(symbols, codec_dir) for symbols in random_symbols(2, seed=7))
    broken: list[tuple[Any, ...]] = [
        (ChunkData(0, 3, b"\xff" * 40),),
        (ChunkData(0, 3, good.payload(0, 3)), ChunkData(4, 5, good.payload(4, 5))),
        (ChunkData(0, 3, good.payload(0, 3)), ChunkData(2, 5, other.payload(2, 5))),
        (ChunkData(0, LATENT_COUNT + 1, good.payload(0, 3)),),
    ]
    for chunks in broken:
        with pytest.raises(BitstreamError):
            store.symbols(InferencePass("gate", FrameId(1, 0), 1, chunks, 5, (), 1))
        assert len(store) == 0
    np.testing.assert_array_equal(store.symbols(inference_pass(good, 3, LATENT_COUNT)), good.symbols)


def test_frames_given_a_key_frame_are_read_with_it_and_it_is_decoded_once(
    store: PrefixStore, codec_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_symbols, fresh = random_symbols(2, seed=9)
    latent = encode(np.where(np.arange(LATENT_DIM) < 3, fresh, key_symbols), codec_dir)
    key_latent = encode(key_symbols, codec_dir)
    key = KeyData(7, key_latent.payload(0, LATENT_COUNT))
    foretold = latent.given(key_latent.as_key())
    payload = foretold.payload(0, LATENT_COUNT)
    keys_decoded: list[bytes] = []

    def counting(payload: bytes, start: int, stop: int, tables: FrequencyTables) -> NDArray[np.int32]:
        keys_decoded.append(payload)
        return decode_chunk(payload, start, stop, tables)

    monkeypatch.setattr("cloud_workers.prefix_store.decode_chunk", counting)
    for sequence in (8, 9):
        chunks = (ChunkData(0, LATENT_COUNT, payload, key),)
        found = store.symbols(InferencePass("gate", FrameId(1, sequence), 1, chunks, LATENT_COUNT, (), 1))
        np.testing.assert_array_equal(found, latent.symbols)
    assert keys_decoded == [key.payload]
    # Opened again without the key frame, the same latents go on.
    mixed = (ChunkData(0, 3, foretold.payload(0, 3), key), ChunkData(3, LATENT_COUNT, latent.payload(3, LATENT_COUNT)))
    found = store.symbols(InferencePass("gate", FrameId(1, 10), 1, mixed, LATENT_COUNT, (), 1))
    np.testing.assert_array_equal(found, latent.symbols)


def test_a_damaged_key_frame_is_an_error_of_the_bitstream(store: PrefixStore, codec_dir: Path) -> None:
    latent = encode(random_symbols(1, seed=10)[0], codec_dir)
    payload = latent.given(latent.as_key()).payload(0, LATENT_COUNT)
    chunks = (ChunkData(0, LATENT_COUNT, payload, KeyData(1, b"\xff" * 40)),)
    with pytest.raises(BitstreamError):
        store.symbols(InferencePass("gate", FrameId(1, 2), 1, chunks, LATENT_COUNT, (), 1))
    tables = FrequencyTables(FrequencyTables.load(codec_dir / TABLES_FILE).frequencies)
    plain = PrefixStore(tables, load_prefix_decoder(codec_dir))
    with pytest.raises(BitstreamError, match="this codec does not know"):
        plain.symbols(InferencePass("gate", FrameId(1, 2), 1, chunks, LATENT_COUNT, (), 1))


def test_tokens_of_several_prefixes_come_in_one_batch(store: PrefixStore, codec_dir: Path) -> None:
    symbols = random_symbols(2, seed=8)
    tokens = store.tokens(list(symbols), [LATENT_COUNT, LATENT_COUNT])
    for row in (0, 1):
        torch.testing.assert_close(tokens[row], decode_whole(symbols[row]))
    shorter = store.tokens(list(symbols), [3, LATENT_COUNT])
    torch.testing.assert_close(shorter[1], tokens[1])
    assert not torch.equal(shorter[0], tokens[0])
