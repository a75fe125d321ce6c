from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client import generate_latest

from edge_nodes.encoder import EncoderThread, OnnxEncoder
from edge_nodes.telemetry import watch_encoder
from pipeline.codec.bitstream import decode_chunk
from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.spec import (
    ENCODER_FILE,
    INT8_ENCODER_FILE,
    SPEC_FILE,
    TABLES_FILE,
    FrameFit,
    hash_file,
    load_codec_spec,
)
from pipeline.codec.tables import FrequencyTables
from pipeline.node.metrics import Metrics
from schemas.errors import ArtifactError
from tests.edge.support import IMAGE_PX, LATENT_DIM, LATENTS, grey, write_codec


def test_a_frame_becomes_symbols_that_a_worker_reads(codec_dir: Path) -> None:
    encoder = OnnxEncoder(codec_dir)
    dark, bright = encoder.encode([grey(96), grey(200, 100, 100)])
    assert dark.symbols.dtype == np.int32
    # The stripes average (level - 128) / 8.
    assert np.array_equal(dark.symbols, np.full((LATENTS, LATENT_DIM), -4))
    assert np.array_equal(bright.symbols, np.full((LATENTS, LATENT_DIM), 9))
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    assert np.array_equal(decode_chunk(bright.payload(0, 4), 0, 4, tables), bright.symbols[:4])
    assert encoder.encode([]) == []


def test_frames_are_encoded_independently_of_their_batch(codec_dir: Path) -> None:
    encoder = OnnxEncoder(codec_dir)
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 256, (40, 56, 3), dtype=np.uint8) for _ in range(3)]
    together = [latent.symbols for latent in encoder.encode(frames)]
    alone = [encoder.encode([frame])[0].symbols for frame in frames]
    assert np.array_equal(together, alone)


def test_resizing_averages_instead_of_picking_pixels() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    small = fit_frame(stripes, IMAGE_PX, FrameFit())
    assert small.shape == (IMAGE_PX, IMAGE_PX, 3)
    assert np.abs(small.astype(int) - 127).max() < 12
    same = grey(7, IMAGE_PX, IMAGE_PX)
    assert fit_frame(same, IMAGE_PX, FrameFit()) is same
    wide = np.asarray(Image.linear_gradient("L").convert("RGB").resize((300, 100)))
    assert fit_frame(wide, IMAGE_PX, FrameFit()).shape == (IMAGE_PX, IMAGE_PX, 3)


def test_frames_are_fitted_by_the_rule_of_the_codec(codec_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(codec_dir, tmp_path / "codec")
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    before = load_codec_spec(folder)
    before.model_copy(update={"fit": FrameFit(filter="lanczos")}).save(folder)
    after = load_codec_spec(folder)
    assert after.fingerprint != before.fingerprint
    for spec, path in ((before, codec_dir), (after, folder)):
        encoder = OnnxEncoder(path)
        (by_the_edge,) = encoder.encode([frame])
        (by_hand,) = encoder.encode([fit_frame(frame, IMAGE_PX, spec.fit)])
        assert np.array_equal(by_the_edge.symbols, by_hand.symbols)
    one, other = (fit_frame(frame, IMAGE_PX, spec.fit) for spec in (before, after))
    assert not np.array_equal(one, other)


async def test_encoding_leaves_the_event_loop_alone(codec_dir: Path) -> None:
    thread = EncoderThread(OnnxEncoder(codec_dir))
    seen: list[str] = []
    plain = thread._encoder.encode

    def spy(frames: list[np.ndarray]) -> object:
        seen.append(threading.current_thread().name)
        return plain(frames)

    thread._encoder.encode = spy  # type: ignore[method-assign,assignment]
    latent = await thread.encode(grey(128))
    await thread.close()
    assert latent.latent_count == LATENTS
    assert seen[0].startswith("encoder")


@pytest.fixture
def broken(codec_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(codec_dir, tmp_path / "codec"))


def without_encoder_hash(folder: Path) -> None:
    content = json.loads((folder / SPEC_FILE).read_text())
    content["encoder_sha256"] = None
    (folder / SPEC_FILE).write_text(json.dumps(content))


def test_a_missing_encoder_names_the_command(broken: Path) -> None:
    (broken / ENCODER_FILE).unlink()
    with pytest.raises(ArtifactError, match="codec export"):
        OnnxEncoder(broken)


def test_a_damaged_encoder_is_refused(broken: Path) -> None:
    data = bytearray((broken / ENCODER_FILE).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (broken / ENCODER_FILE).write_bytes(data)
    with pytest.raises(ArtifactError, match="hash"):
        OnnxEncoder(broken)


def test_an_encoder_that_is_no_model_is_refused(broken: Path) -> None:
    (broken / ENCODER_FILE).write_bytes(b"no model")
    without_encoder_hash(broken)
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
        OnnxEncoder(broken)


@pytest.mark.parametrize(
    ("change", "what"), [({"batch_output": "other"}, "output is other"), ({"image_px": 64}, "input is pixels")]
)
def test_an_encoder_of_another_shape_is_refused(tmp_path: Path, change: dict[str, object], what: str) -> None:
    folder = write_codec(tmp_path / "codec", **change)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=what):
        OnnxEncoder(folder)


def test_tables_of_another_shape_are_refused(broken: Path) -> None:
    FrequencyTables.fit(np.zeros((4, LATENTS, 2), np.int32), 3).save(broken / TABLES_FILE)
    content = json.loads((broken / SPEC_FILE).read_text())
    content["tables_sha256"] = hash_file(broken / TABLES_FILE)
    (broken / SPEC_FILE).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="tables for 8 x 2"):
        OnnxEncoder(broken)


def with_another_encoder(folder: Path, scratch: Path) -> Path:
    """A codec whose ``encoder.int8.onnx`` makes half as large symbols."""
    other = write_codec(scratch / "other", step=16)
    shutil.copy(other / ENCODER_FILE, folder / INT8_ENCODER_FILE)
    digest = hash_file(folder / INT8_ENCODER_FILE)
    load_codec_spec(folder).model_copy(update={"encoder_int8_sha256": digest}).save(folder)
    return folder


def test_the_encoder_is_chosen_by_its_precision_and_the_codec_stays_the_same(broken: Path, tmp_path: Path) -> None:
    before = load_codec_spec(broken)
    assert "int8" not in (broken / SPEC_FILE).read_text(), "a folder without one reads as before"
    folder = with_another_encoder(broken, tmp_path)
    in_float, in_int8 = OnnxEncoder(folder), OnnxEncoder(folder, precision="int8")
    assert (in_float.precision, in_int8.precision) == ("fp32", "int8")
    assert in_int8.spec.fingerprint == before.fingerprint, "one pool reads both"
    (one,), (other,) = in_float.encode([grey(96)]), in_int8.encode([grey(96)])
    assert (one.symbols[0, 0], other.symbols[0, 0]) == (-4, -2)


def test_an_int8_encoder_that_is_missing_or_damaged_is_refused(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"codec export --codec .* --int8 \(or set edge\.precision: fp32\)"):
        OnnxEncoder(broken, precision="int8")
    folder = with_another_encoder(broken, tmp_path)
    (folder / INT8_ENCODER_FILE).write_bytes(b"another")
    with pytest.raises(ArtifactError, match=r"encoder\.int8\.onnx: its hash"):
        OnnxEncoder(folder)


def test_an_encoder_that_cannot_be_used_is_found_at_the_start(tmp_path: Path) -> None:
    """It encodes a frame before anybody waits for one, and what comes out is looked at."""
    folder = write_codec(tmp_path / "codec", step=1e-8)
    with pytest.raises(ArtifactError, match="it makes other values"):
        OnnxEncoder(folder)


def test_the_tower_can_be_run_alone(tmp_path: Path, codec_dir: Path) -> None:
    encoder = OnnxEncoder(write_codec(tmp_path / "codec", tokens=True))
    tokens = encoder.tokens([grey(96), grey(200)])
    assert tokens.dtype == np.float32
    assert np.array_equal(tokens, np.stack([np.full((4, 8), level, np.float32) for level in (96, 200)]))
    assert encoder.encode([grey(96)])[0].symbols[0, 0] == -4
    with pytest.raises(ArtifactError, match="shows no visual tokens"):
        OnnxEncoder(codec_dir).tokens([grey(96)])


async def test_an_edge_says_which_encoder_it_has(broken: Path, tmp_path: Path) -> None:
    metrics = Metrics()
    thread = await EncoderThread.load(with_another_encoder(broken, tmp_path), precision="int8")
    watch_encoder(metrics, thread)
    assert 'latentbus_encoder{precision="int8"} 1.0' in generate_latest(metrics.registry).decode()
    await thread.close()
