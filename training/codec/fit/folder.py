"""Write a codec folder: weights, tables, encoder, spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codec.klt_torch import LatentShape
from pipeline.codec.prefix_decoder_torch import read_transform, save_transform
from pipeline.codec.spec import (
    ENCODER_FILE,
    SPEC_FILE,
    TABLES_FILE,
    WEIGHTS_FILE,
    CodecSpec,
    FrameFit,
    hash_file,
    load_codec_spec,
)
from pipeline.codec.stop_file import StopFile, save_stop_file
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from schemas.errors import ArtifactError, ConfigError
from training.codec.fit.export import Parity, export_encoder
from training.codec.image_path import PixelsToTokens

CodecName = Literal["klt", "meta_autoencoder"]

_SUPPORT: Final = 15
"""Larger symbols are escaped; on the reference VLM about one in 10,000."""


@dataclass(frozen=True, slots=True)
class FrozenVlm:
    """The model that a codec is made for.

    Attributes:
        image_path: From pixels to its visual tokens.
        vlm_id: Its name or hub id.
        sha256: `hash_vlm` of its folder.
        image_size_px: Height and width of a frame.
        tiles_per_edge: Tiles that a frame is cut into along each edge, 1 for none.
        fit: What frames of another size go through.
    """

    image_path: PixelsToTokens
    vlm_id: str
    sha256: str
    image_size_px: int
    tiles_per_edge: int = 1
    fit: FrameFit = field(default_factory=FrameFit)


def check_output(folder: Path, vlm_sha256: str, *, overwrite: bool = False) -> None:
    """Make sure that a codec may be written to a folder: it has none, or one for the same model.

    Args:
        folder: where a codec is to be written; need not exist.
        vlm_sha256: `hash_vlm` of the model that it will be for.
        overwrite: whatever is there may go.

    Raises:
        ConfigError: somebody else's codec, or a damaged one, would be lost.
    """
    there = [name for name in (SPEC_FILE, WEIGHTS_FILE, TABLES_FILE, ENCODER_FILE) if (folder / name).exists()]
    if overwrite or not there:
        return
    fix = "name another folder, or add --overwrite"
    try:
        spec = load_codec_spec(folder)
    except ArtifactError as error:
        raise ConfigError(
            str(folder), f"holds {', '.join(there)} and no whole codec ({error.problem}): {fix}"
        ) from None
    if spec.vlm_sha256 != vlm_sha256:
        raise ConfigError(str(folder), f"holds a finished codec of another model, {spec.vlm_id}: {fix}")


def write_codec(
    folder: Path,
    transform: LatentTransform,
    name: CodecName,
    vlm: FrozenVlm,
    *,
    version: int,
    table_tokens: Tensor,
    sample: NDArray[np.uint8] | None,
    rungs: int,
) -> tuple[CodecSpec, Parity | None]:
    """Write everything but the stop rule's thresholds, which allow no early answer until they are calibrated.

    Args:
        folder: Where to write.
        transform: The trained or fitted codec; what is used from here on is what the file holds.
        name: Its kind.
        vlm: The model that it was made for.
        version: Of the weights.
        table_tokens: Visual tokens that the frequency tables are counted on [F, N, D]; not those of the training.
        sample: Frames on which torch and ONNX Runtime are compared; None writes no encoder, which
            `latentbus codec export` can do later.
        rungs: Steps of the ladder, evenly spaced in bytes.

    Raises:
        ArtifactError: the exported encoder does not agree with torch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_transform(transform, folder / WEIGHTS_FILE)
    shape = LatentShape(transform.token_count, transform.token_dim, transform.latent_count, transform.latent_dim)
    stored = read_transform(folder / WEIGHTS_FILE, name, shape)
    symbols = encode_all(stored, table_tokens)
    tables = FrequencyTables.fit(symbols, _SUPPORT)
    tables.save(folder / TABLES_FILE)
    encoder = folder / ENCODER_FILE
    encoder.unlink(missing_ok=True)
    parity = export_encoder(vlm.image_path, stored, encoder, sample) if sample is not None else None
    ladder = even_ladder(tables.symbol_bits(symbols, 0, tables.latent_count).sum(axis=2).mean(axis=0), rungs)
    spec = CodecSpec(
        name=name,
        version=version,
        token_count=shape.token_count,
        token_dim=shape.token_dim,
        latent_count=shape.latent_count,
        latent_dim=shape.latent_dim,
        image_size_px=vlm.image_size_px,
        tiles_per_edge=vlm.tiles_per_edge,
        fit=vlm.fit,
        ladder=ladder,
        base_latents=ladder[-1],
        vlm_id=vlm.vlm_id,
        vlm_sha256=vlm.sha256,
        codec_sha256=hash_file(folder / WEIGHTS_FILE),
        tables_sha256=hash_file(folder / TABLES_FILE),
        encoder_sha256=hash_file(encoder) if parity else None,
    )
    spec.save(folder)
    save_stop_file(folder, StopFile.uncalibrated(ladder))
    return spec, parity


@torch.no_grad()
def encode_all(transform: LatentTransform, tokens: Tensor) -> NDArray[np.int32]:
    """Symbols of many frames: tokens [F, N, D] of any float type to int32 [F, K, d]."""
    parts: list[NDArray[np.int32]] = [transform.encode(part.float()).numpy() for part in torch.split(tokens, 256)]
    return np.concatenate(parts)


def even_ladder(latent_bits: NDArray[np.float64], rungs: int) -> tuple[int, ...]:
    """Prefix lengths that are evenly spaced in bytes.

    Args:
        latent_bits: Mean code length of each latent [K].
        rungs: How many lengths, at most K.

    Returns:
        Ascending lengths, the last one K.
    """
    total = np.cumsum(latent_bits)
    targets = total[-1] * np.arange(1, rungs + 1) / rungs
    lengths = {int(np.abs(total - target).argmin()) + 1 for target in targets[:-1]}
    return (*sorted(lengths - {len(latent_bits)}), len(latent_bits))
