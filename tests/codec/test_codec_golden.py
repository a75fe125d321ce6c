"""Golden files: bytes that an earlier version wrote must decode, and be written again, for ever.

`python tests/codec/test_codec_golden.py` writes them; that is right only together with a new `format` of the codec
spec.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.bitstream import decode_chunk, encode_chunk
from pipeline.codec.prediction import CONTEXTS, KeyFramePrediction
from pipeline.codec.tables import MAX_SYMBOL, FrequencyTables

FOLDER = Path(__file__).parents[1] / "golden" / "codec"


def test_golden_chunks() -> None:
    tables = FrequencyTables.load(FOLDER / "tables.safetensors")
    cases = json.loads((FOLDER / "chunks.json").read_text())
    assert len(cases) >= 10
    for case in cases:
        symbols = np.array(case["symbols"], dtype=np.int32)
        start, payload = case["start"], bytes.fromhex(case["payload"])
        assert encode_chunk(symbols, start, tables) == payload
        np.testing.assert_array_equal(decode_chunk(payload, start, start + len(symbols), tables), symbols)


def test_golden_chunks_given_a_key_frame() -> None:
    tables = FrequencyTables.load(FOLDER / "tables_given_key.safetensors")
    cases = json.loads((FOLDER / "chunks_given_key.json").read_text())
    assert len(cases) >= 5
    for case in cases:
        symbols = np.array(case["symbols"], dtype=np.int32)
        foretold = KeyFramePrediction(np.array(case["key"], dtype=np.int32), tables)
        start, payload = case["start"], bytes.fromhex(case["payload"])
        assert encode_chunk(symbols, start, tables, foretold) == payload
        np.testing.assert_array_equal(decode_chunk(payload, start, start + len(symbols), tables, foretold), symbols)


def write() -> None:
    """Write the golden files anew."""
    rng = np.random.default_rng(20260)
    scale = 6.0 * np.exp(-np.arange(48) / 9).reshape(6, 8)
    frames = np.rint(rng.laplace(scale=scale, size=(200, 6, 8))).astype(np.int32)
    tables = FrequencyTables.fit(frames, 7)
    chunks = [(0, frames[0]), (0, frames[1][:1]), (1, frames[2][1:4]), (5, frames[3][5:]), (2, frames[4][2:])]
    chunks += [(0, np.zeros((6, 8), np.int32)), (5, np.zeros((1, 8), np.int32)), (0, 4 * frames[5])]
    chunks += [(3, np.full((2, 8), MAX_SYMBOL, np.int32)), (0, np.full((6, 8), -MAX_SYMBOL, np.int32))]
    chunks += [(4, np.arange(-8, 8, dtype=np.int32).reshape(2, 8))]
    FOLDER.mkdir(parents=True, exist_ok=True)
    tables.save(FOLDER / "tables.safetensors")
    cases = [
        {"start": start, "symbols": symbols.tolist(), "payload": encode_chunk(symbols, start, tables).hex()}
        for start, symbols in chunks
    ]
    (FOLDER / "chunks.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")
    write_given_key(frames, tables)


def write_given_key(frames: NDArray[np.int32], tables: FrequencyTables) -> None:
    """The same for chunks that are coded given a key frame."""
    weights = np.zeros((3, 2, CONTEXTS), dtype=np.uint16)
    weights[0, 0], weights[0, 1] = np.linspace(20_000, 50_000, CONTEXTS), 9_000
    weights[1, 0], weights[1, 1] = np.linspace(500, 9_000, CONTEXTS), 3_000
    tables = FrequencyTables(tables.frequencies, weights)
    tables.save(FOLDER / "tables_given_key.safetensors")
    rare = np.full((6, 8), -MAX_SYMBOL, np.int32)
    near = frames[6] + (np.arange(48).reshape(6, 8) % 5 == 0)
    chunks = [(frames[6], 0, frames[6]), (frames[6], 0, near), (frames[6], 2, near[2:5]), (frames[7], 0, frames[8])]
    chunks += [(rare, 0, rare), (rare, 3, frames[9][3:]), (frames[9], 5, rare[5:])]
    cases = [
        {
            "key": key.tolist(),
            "start": start,
            "symbols": symbols.tolist(),
            "payload": encode_chunk(symbols, start, tables, KeyFramePrediction(key, tables)).hex(),
        }
        for key, start, symbols in chunks
    ]
    (FOLDER / "chunks_given_key.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


if __name__ == "__main__":
    write()
