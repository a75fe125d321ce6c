"""Both operating points learned side by side on one machine, and written out on another."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import ENCODER_FILE, load_codec_spec
from schemas.errors import ArtifactError
from schemas.types import AnswerType
from tests.cloud.tiny_codec import write_vlm
from tests.cloud.tiny_models import IMAGE_SIZE_PX, TOKEN_COUNT, tiny_smolvlm
from training.codec.config import BUDGETS, DETAILED_BUDGETS
from training.codec.data import Asked, AskedFrames
from training.codec.together import learn_together, pack_learned
from training.codec.train import export_codec, train_codec

SIZES: dict[str, Any] = {
    "latent_count": 4,
    "latent_dim": 8,
    "steps": 3,
    "batch": 4,
    "view_frames": 2,
    "table_frames": 8,
}


def silent(_: str) -> None:
    """Progress lines have no place in a test run."""


def asked_frames(count: int, size_px: int) -> AskedFrames:
    frames = np.random.default_rng(count).integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)
    asked = [Asked(index, "Is it red?", AnswerType.YES_NO, "existence", "yes") for index in range(count)]
    return AskedFrames(frames, tuple(asked))


def test_what_was_learned_elsewhere_is_only_written_out(tmp_path: Path) -> None:
    model, processor = tiny_smolvlm()
    vlm = write_vlm(tmp_path / "vlm")
    frames = {"small": asked_frames(24, IMAGE_SIZE_PX), "detailed": asked_frames(16, 2 * IMAGE_SIZE_PX)}
    points = {"small": replace(BUDGETS["smoke"], **SIZES), "detailed": replace(DETAILED_BUDGETS["smoke"], **SIZES)}
    report = learn_together(
        model,
        processor,
        vlm,
        frames,
        tmp_path / "far",
        device="cpu",
        deadline_s=300,
        processes=0,
        small=points["small"],
        detailed=points["detailed"],
        progress=silent,
    )
    logs = [path.read_text() for path in sorted((tmp_path / "far/jobs").glob("*.log"))]
    assert report["statuses"] == {"small": 0, "detailed": 0}, logs
    packed = pack_learned(tmp_path / "far", tmp_path / "packed")
    assert {"codec-small.zip", "codec-detailed.zip"} <= {path.name for path in packed}
    lines: list[str] = []
    for point, tiles, names in (
        ("small", 1, ("klt", "meta_autoencoder")),
        ("detailed", 2, ("klt_detailed", "meta_autoencoder_detailed")),
    ):
        with zipfile.ZipFile(tmp_path / f"packed/codec-{point}.zip") as archive:
            archive.extractall(tmp_path / point)
        train_codec(
            vlm,
            tmp_path / "codecs",
            tmp_path / "cache",
            point=point,
            budget=points[point],
            run_dir=tmp_path / point,
            export_klt=False,
            threads=1,
            progress=lines.append,
        )
        klt, meta = (tmp_path / "codecs" / name for name in names)
        assert not (klt / ENCODER_FILE).exists()
        with pytest.raises(ArtifactError, match="codec export"):
            OnnxEncoder(klt)
        spec = load_codec_spec(meta)
        assert (spec.tiles_per_edge, spec.image_size_px) == (tiles, tiles * IMAGE_SIZE_PX)
        assert spec.token_count == TOKEN_COUNT * (1 if tiles == 1 else tiles**2 + 1)
        whole = np.random.default_rng(0).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
        latents = OnnxEncoder(meta).encode(list(whole))
        symbols = np.stack([latent.symbols for latent in latents])
        decoded = load_prefix_decoder(meta).decode(symbols, np.array([1, spec.latent_count]))
        assert decoded.shape == (2, spec.token_count, spec.token_dim)
    assert sum("learned already" in line for line in lines) == 2
    assert export_codec(vlm, tmp_path / "codecs/klt", tmp_path / "cache", threads=1, progress=silent).unexplained == 0
    assert OnnxEncoder(tmp_path / "codecs/klt").spec.encoder_sha256 is not None
    with pytest.raises(ArtifactError, match="tiles an edge"):
        train_codec(
            vlm,
            tmp_path / "codecs",
            tmp_path / "cache",
            point="detailed",
            budget=points["detailed"],
            run_dir=tmp_path / "small",
            threads=1,
            progress=silent,
        )
