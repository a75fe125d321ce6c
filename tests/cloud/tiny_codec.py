"""A KLT codec folder for a tiny model: real files, identity bases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.codec.klt_torch import KltTransform, LatentShape
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prediction import CONTEXTS
from pipeline.codec.prefix_decoder_torch import save_transform
from pipeline.codec.spec import STOP_FILE, TABLES_FILE, WEIGHTS_FILE, CodecSpec, hash_file, hash_vlm, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from tests.cloud.tiny_models import IMAGE_SIZE_PX, TOKEN_COUNT, TOKEN_DIM, tiny_smolvlm

LATENT_COUNT = 8
LATENT_DIM = 16
LADDER = (3, 5, 8)


def write_vlm(folder: Path, seed: int = 0) -> Path:
    """A tiny SmolVLM in `save_pretrained` format."""
    model, processor = tiny_smolvlm(seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_codec(folder: Path, vlm: Path, *, thresholds: tuple[float, ...] = (2.0, 2.0, 0.0), **changes: Any) -> Path:
    """A codec for it.

    Args:
        folder: where.
        vlm: the model.
        thresholds: of the stop rule; 2 is never safe, 0 always.
        changes: fields of the spec.
    """
    folder.mkdir(parents=True, exist_ok=True)
    transform = KltTransform(LatentShape(TOKEN_COUNT, TOKEN_DIM, LATENT_COUNT, LATENT_DIM))
    transform.step.fill_(0.25)
    save_transform(transform, folder / WEIGHTS_FILE)
    fitted = FrequencyTables.fit(random_symbols(64, seed=1), support=6)
    FrequencyTables(fitted.frequencies, prediction_weights()).save(folder / TABLES_FILE)
    spec = {
        "name": "klt",
        "version": 1,
        "token_count": TOKEN_COUNT,
        "token_dim": TOKEN_DIM,
        "latent_count": LATENT_COUNT,
        "latent_dim": LATENT_DIM,
        "image_size_px": IMAGE_SIZE_PX,
        "ladder": LADDER,
        "base_latents": LADDER[0],
        "vlm_id": "tiny",
        "vlm_sha256": hash_vlm(vlm),
        "codec_sha256": hash_file(folder / WEIGHTS_FILE),
        "tables_sha256": hash_file(folder / TABLES_FILE),
        **changes,
    }
    CodecSpec(**spec).save(folder)
    stop = {"version": 1, "risk": 0.02, "ladder": LADDER, "default": thresholds, "thresholds": {}}
    (folder / STOP_FILE).write_text(json.dumps(stop))
    load_codec_spec(folder)
    return folder


def prediction_weights() -> NDArray[np.uint16]:
    """Weights for two levels of change: half of the symbols stay as they were, or all of them."""
    weights = np.zeros((2, 2, CONTEXTS), dtype=np.uint16)
    weights[0] = [[24_000], [8_000]]
    return weights


def random_symbols(frames: int, seed: int) -> NDArray[np.int32]:
    """Symbols [F, K, d] as a codec makes them: mostly small."""
    generator = np.random.default_rng(seed)
    return np.rint(generator.laplace(0, 1.5, (frames, LATENT_COUNT, LATENT_DIM))).astype(np.int32)


def encode(symbols: NDArray[np.int32], codec: Path) -> EncodedLatent:
    """The edge's view of a frame."""
    return EncodedLatent(symbols, FrequencyTables.load(codec / TABLES_FILE))


def decode_whole(symbols: NDArray[np.int32]) -> torch.Tensor:
    """Tokens [N, D] of a whole latent under identity bases, written out again."""
    flat = torch.zeros(TOKEN_COUNT * TOKEN_DIM)
    flat[: symbols.size] = torch.from_numpy(symbols.reshape(-1)).float() * 0.25
    return flat.reshape(TOKEN_COUNT, TOKEN_DIM)
