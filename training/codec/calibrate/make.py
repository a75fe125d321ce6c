"""Makes the codec folder: transform, tables, tables of key frames, encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from training.codec.calibrate.again import CHANGES, seen_again
from training.codec.calibrate.pictures import FittedPictures
from training.codec.calibrate.sets import PictureSets
from training.codec.calibrate.tokens import batch_frames
from training.codec.fit.folder import CodecParts, put_tables, write_codec
from training.codec.fit.klt import fit_klt
from training.codec.fit.prediction import Pairs, fit_prediction
from training.codec.fit.temporal import key_pairs
from training.codec.points import CodecName
from training.codec.prefixes import encode_all
from training.codec.vlm import FrozenVlm
from training.run import Progress

PARITY_FRAMES: Final = 8
KEY_PICTURES: Final = 24
"""Pictures that are seen again, to fit key frame tables."""
CHECKED_KEYS: Final = 8
_BYTES_A_TOKEN: Final = 3.4
"""Of whole latents: 220 bytes for 64 tokens, as the bundled codec has."""
_BYTES_RANGE: Final = (60, 3_000)
_SYMBOLS_A_BYTE: Final = 6.0
_LATENTS: Final = ((128, 32), (256, 64), (1 << 30, 128))
"""Latents for frames of up to so many tokens."""
PLANES: Final = 2
RUNGS: Final = 6


@dataclass(frozen=True, slots=True)
class LatentSize:
    """How large latents are.

    Attributes:
        count: Latents of a frame, K.
        dim: Symbols of a latent, d.
        target_bytes: Mean size of whole latents, which the quantiser's step is chosen for.
    """

    count: int
    dim: int
    target_bytes: int


def latent_size(token_count: int, token_dim: int, target_bytes: int | None = None) -> LatentSize:
    """A size that suits a model's tokens.

    Args:
        token_count: Visual tokens of a frame, N.
        token_dim: Values of a token, D.
        target_bytes: Mean size of whole latents; by the number of tokens unless given.
    """
    wanted = target_bytes or min(max(round(_BYTES_A_TOKEN * token_count), _BYTES_RANGE[0]), _BYTES_RANGE[1])
    values = token_count * token_dim
    slots = min(values, math.ceil(_SYMBOLS_A_BYTE * wanted))
    most = next(latents for tokens, latents in _LATENTS if token_count <= tokens)
    count = min(most, slots)
    return LatentSize(count, slots // count, wanted)


@dataclass(frozen=True, slots=True)
class Material:
    """What a codec is made from.

    Attributes:
        frozen: The model.
        pictures: In the model's size.
        tokens: Visual tokens in the order of the sets [F, N, D].
        sets: Which picture is for what.
        video: Pictures follow one another.
        seed: Of everything random.
    """

    frozen: FrozenVlm
    pictures: FittedPictures
    tokens: Tensor
    sets: PictureSets
    video: bool
    seed: int

    def tokens_of(self, name: str) -> Tensor:
        """Visual tokens of a set; nothing is copied."""
        start, stop = self.sets.ranges[name]
        return self.tokens[start:stop]

    def pixels_of(self, name: str, count: int) -> NDArray[np.uint8]:
        """The first pictures of a set, uint8 [F, S, S, 3]."""
        return np.stack(list(self.pictures.of(self.sets.rows(name)[:count])))


def make_codec(folder: Path, material: Material, size: LatentSize, version: int, progress: Progress) -> dict[str, Any]:
    """Write a KLT codec whose stop rule is not calibrated yet; arguments, result and errors as of `finish_codec`.

    Args:
        folder: Where to.
        material: Pictures and tokens.
        size: Of its latents.
        version: Of the weights.
        progress: Called with a line a step.

    Raises:
        StateError: all pictures look alike to the tower.
    """
    klt = fit_klt(
        material.tokens_of("train"), size.count, size.dim, target_bytes=float(size.target_bytes), planes=PLANES
    )
    progress(f"KLT fitted on {len(material.tokens_of('train'))} pictures")
    return finish_codec(folder, material, klt, "klt", version, progress)


def finish_codec(
    folder: Path, material: Material, transform: LatentTransform, name: CodecName, version: int, progress: Progress
) -> dict[str, Any]:
    """Write a codec folder for a finished transform: encoder, tables, tables of key frames; no stop rule yet.

    Args:
        folder: Where to.
        material: Pictures and tokens.
        transform: Fitted or learned.
        name: Its kind.
        version: Of the weights.
        progress: Called with a line a step.

    Returns:
        Parity of the encoder, and what key frames save on pictures of the report.

    Raises:
        ArtifactError: the exported encoder does not agree with torch.
    """
    progress("exporting the encoder")
    sample = material.pixels_of("tables", PARITY_FRAMES)
    parts = CodecParts(transform, name, version, material.tokens_of("tables"), sample, RUNGS)
    _, parity = write_codec(folder, material.frozen, parts)
    progress(f"encoder written: {parity}")
    stored = load_transform(folder)
    tables = FrequencyTables.load(folder / TABLES_FILE)
    pairs = _pairs(material, stored, "tables", KEY_PICTURES)
    tables = FrequencyTables(tables.frequencies, fit_prediction(pairs, tables, seed=material.seed))
    put_tables(folder, tables)
    progress(f"tables given a key frame fitted on {len(pairs[0])} pairs")
    return {
        "parity": None if parity is None else parity.as_dict(),
        "key_frames": _saved(_pairs(material, stored, "report", CHECKED_KEYS), tables, video=material.video),
    }


def _pairs(material: Material, transform: LatentTransform, name: str, pictures: int) -> Pairs:
    """Symbols of key frames and of later frames, of one set: of a video as it is, of pictures as if seen again."""
    if material.video:
        return key_pairs([encode_all(transform, material.tokens_of(name))], 1)
    frames = material.pixels_of(name, pictures)
    keys = encode_all(transform, material.tokens_of(name)[: len(frames)])
    rng = np.random.default_rng([material.seed, 9])
    views = [seen_again(frame, frames[row - 1], rng) for row, frame in enumerate(frames)]
    batch = batch_frames(frames.shape[1])
    flat = np.concatenate(views)
    image_path = material.frozen.image_path
    later = [
        encode_all(transform, image_path.of_frames(flat[start : start + batch])) for start in range(0, len(flat), batch)
    ]
    return np.repeat(keys, len(CHANGES), axis=0), np.concatenate(later)


def _saved(pairs: Pairs, tables: FrequencyTables, *, video: bool) -> list[dict[str, Any]]:
    """Payload bytes of whole latents by themselves and given a key frame, by what has changed."""
    keys, later = pairs
    kinds: Sequence[str] = ("frames of the video",) if video else CHANGES
    rows = []
    for number, kind in enumerate(kinds):
        by_itself = given_key = 0
        mine = range(number, len(keys), len(kinds))
        for index in mine:
            latent = EncodedLatent(later[index], tables)
            key = EncodedLatent(keys[index], tables).as_key()
            by_itself += latent.size_bytes(latent.latent_count)
            given_key += latent.given(key).size_bytes(latent.latent_count)
        rows.append(
            {
                "change": kind,
                "frames": len(mine),
                "payload_bytes": round(by_itself / len(mine), 1),
                "payload_bytes_given_key": round(given_key / len(mine), 1),
                "saved_percent": round(100 * (1 - given_key / by_itself), 1),
            }
        )
    return rows
