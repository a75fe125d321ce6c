"""Both operating points learned on one machine, and written out on another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import ENCODER_FILE, load_codec_spec
from schemas.errors import ArtifactError
from schemas.types import AnswerType
from tests.cloud.tiny_codec import write_vlm
from tests.cloud.tiny_models import IMAGE_SIZE_PX, TOKEN_COUNT, tiny_smolvlm
from training.codec.config import BUDGETS, DETAILED_BUDGETS, CodecBudget
from training.codec.data import Asked, AskedFrames
from training.codec.fit.learn import learn_codec
from training.codec.fit.material import LearningSet, ask
from training.codec.fit.train import CodecTraining, export_codec, train_codec
from training.codec.image_path import PixelsToTokens
from training.run import RunSettings, silent

SIZES: dict[str, Any] = {
    "latent_count": 4,
    "latent_dim": 8,
    "steps": 3,
    "batch": 4,
    "view_frames": 2,
    "table_frames": 8,
}


def asked_frames(count: int, size_px: int) -> AskedFrames:
    frames = np.random.default_rng(count).integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)
    asked = [Asked(index, "Is it red?", AnswerType.YES_NO, "existence", "yes") for index in range(count)]
    return AskedFrames(frames, tuple(asked))


def learn(data: AskedFrames, budget: CodecBudget, run_dir: Path) -> None:
    """What `train_codec` leaves in its run directory, from frames that nobody rendered."""
    model, processor = tiny_smolvlm()
    path = PixelsToTokens(model, processor.image_processor, tiles_per_edge=budget.frame_scale).eval()
    with torch.no_grad():
        tokens = path(torch.tensor(data.frames)).half()
    material = ask(
        model,
        processor,
        LearningSet.of(tokens, data),
        frames=budget.asked_frames,
        questions=budget.view_questions,
        answer_tokens=budget.answer_tokens,
        tiles_per_edge=budget.frame_scale,
    )
    learn_codec(model, material, budget, run_dir, RunSettings(run_dir, progress=silent))


def test_what_was_learned_elsewhere_is_only_written_out(tmp_path: Path) -> None:
    vlm = write_vlm(tmp_path / "vlm")
    points = {"small": replace(BUDGETS["smoke"], **SIZES), "detailed": replace(DETAILED_BUDGETS["smoke"], **SIZES)}
    learn(asked_frames(24, IMAGE_SIZE_PX), points["small"], tmp_path / "small")
    learn(asked_frames(16, 2 * IMAGE_SIZE_PX), points["detailed"], tmp_path / "detailed")
    lines: list[str] = []
    for point, tiles, names in (
        ("small", 1, ("klt", "meta_autoencoder")),
        ("detailed", 2, ("klt_detailed", "meta_autoencoder_detailed")),
    ):
        train_codec(
            vlm,
            tmp_path / "codecs",
            RunSettings(tmp_path / "cache", threads=1, progress=lines.append),
            CodecTraining(point=point, budget=points[point], run_dir=tmp_path / point, export_klt=False),
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
    quiet = RunSettings(tmp_path / "cache", threads=1, progress=silent)
    assert export_codec(vlm, tmp_path / "codecs/klt", quiet)["unexplained"] == 0
    assert OnnxEncoder(tmp_path / "codecs/klt").spec.encoder_sha256 is not None
    with pytest.raises(ArtifactError, match="scale 1, not 2"):
        train_codec(
            vlm,
            tmp_path / "others",
            quiet,
            CodecTraining(point="detailed", budget=points["detailed"], run_dir=tmp_path / "small"),
        )
