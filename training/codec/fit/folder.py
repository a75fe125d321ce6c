"""Write a codec folder: weights, tables, encoder, spec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
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
    hash_file,
    load_codec_spec,
)
from pipeline.codec.stop_file import StopFile, save_stop_file
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from schemas.errors import ArtifactError, ConfigError
from training.codec.fit.export import Parity, export_encoder
from training.codec.points import CodecName
from training.codec.prefixes import encode_all, even_ladder
from training.codec.vlm import FrozenVlm

_SUPPORT: Final = 15
"""Larger symbols are escaped; on the reference VLM about one in 10,000."""


def check_output(folder: Path, *, overwrite: bool = False) -> None:
    """Make sure that a codec may be written to a folder: it has none.

    One for the same model is kept as well: its calibration would be lost. Codecs are written at the end of a run, so
    one that goes on meets none of its own.

    Args:
        folder: where a codec is to be written; need not exist.
        overwrite: whatever is there may go.

    Raises:
        ConfigError: a codec, or a part of one, would be lost.
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
    raise ConfigError(str(folder), f"holds a finished codec, version {spec.version} for {spec.vlm_id}: {fix}")


@dataclass(frozen=True, slots=True)
class CodecParts:
    """What a codec folder is written from.

    Attributes:
        transform: The trained or fitted codec; what is used from here on is what the file holds.
        name: Its kind.
        version: Of the weights.
        table_tokens: Visual tokens that the frequency tables are counted on [F, N, D]; not those of the training.
        sample: Frames on which torch and ONNX Runtime are compared; None writes no encoder, which
            `latentbus codec export` can do later.
        rungs: Steps of the ladder, evenly spaced in bytes.
    """

    transform: LatentTransform
    name: CodecName
    version: int
    table_tokens: Tensor
    sample: NDArray[np.uint8] | None
    rungs: int


def write_codec(folder: Path, vlm: FrozenVlm, parts: CodecParts) -> tuple[CodecSpec, Parity | None]:
    """Write everything but the stop rule's thresholds, which allow no early answer until they are calibrated.

    Args:
        folder: Where to write.
        vlm: The model that the codec was made for.
        parts: What to write.

    Raises:
        ArtifactError: the exported encoder does not agree with torch.
    """
    transform = parts.transform
    folder.mkdir(parents=True, exist_ok=True)
    save_transform(transform, folder / WEIGHTS_FILE)
    shape = LatentShape(transform.token_count, transform.token_dim, transform.latent_count, transform.latent_dim)
    stored = read_transform(folder / WEIGHTS_FILE, parts.name, shape)
    symbols = encode_all(stored, parts.table_tokens)
    tables = FrequencyTables.fit(symbols, _SUPPORT)
    tables.save(folder / TABLES_FILE)
    encoder = folder / ENCODER_FILE
    encoder.unlink(missing_ok=True)
    parity = None if parts.sample is None else export_encoder(vlm.image_path, stored, encoder, parts.sample)
    ladder = even_ladder(tables.symbol_bits(symbols, 0, tables.latent_count).sum(axis=2).mean(axis=0), parts.rungs)
    spec = CodecSpec(
        name=parts.name,
        version=parts.version,
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


def put_tables(folder: Path, tables: FrequencyTables) -> CodecSpec:
    """Replace the tables of a codec folder; its fingerprint changes.

    Args:
        folder: Codec folder.
        tables: Of the same shapes.

    Raises:
        ArtifactError: the folder holds no whole codec.
    """
    spec = load_codec_spec(folder)
    tables.save(folder / TABLES_FILE)
    spec = spec.model_copy(update={"tables_sha256": hash_file(folder / TABLES_FILE)})
    spec.save(folder)
    return spec
