"""Answers from every prefix of a codec: the table that evaluation and calibration read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_workers.vlm import TransformersVlm
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from training.codec.data import Asked, Progress, answers_of
from training.codec.folder import encode_all

_BATCH = 128


@dataclass(frozen=True, slots=True)
class PrefixAnswers:
    """What a VLM answers from prefixes of a codec.

    Attributes:
        lengths: Prefix lengths in latents, ascending, the last one whole [P].
        texts: Answers, [P][Q].
        probabilities: Of those answers [P, Q].
        payload_bytes: Size of each prefix as one chunk, from the real bitstream [P, F].
    """

    lengths: tuple[int, ...]
    texts: tuple[list[str], ...]
    probabilities: NDArray[np.float64]
    payload_bytes: NDArray[np.int64]


def measure_prefixes(
    vlm: TransformersVlm,
    codec_dir: Path,
    tokens: Tensor,
    asked: Sequence[Asked],
    lengths: Sequence[int],
    progress: Progress,
) -> PrefixAnswers:
    """Encode frames, decode prefixes, ask.

    Args:
        vlm: The frozen model.
        codec_dir: Codec folder.
        tokens: Uncompressed visual tokens [F, N, D].
        asked: Questions about those frames.
        lengths: Prefix lengths; the whole latent is added.
        progress: Called with a line a prefix.

    Raises:
        ArtifactError: the folder is not a usable codec.
    """
    spec = load_codec_spec(codec_dir)
    transform = load_transform(codec_dir, spec)
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    symbols = encode_all(transform, tokens)
    latents = [EncodedLatent(frame, tables) for frame in symbols]
    ladder = sorted({*lengths, spec.latent_count})
    texts: list[list[str]] = []
    probabilities: list[NDArray[np.float64]] = []
    for length in ladder:
        decoded = decode_prefixes(transform, symbols, length)
        found, scores = answers_of(vlm, decoded, asked)
        texts.append(found)
        probabilities.append(scores)
        progress(f"{spec.name}: answers from {length} of {spec.latent_count} latents")
    payload = [[latent.size_bytes(length) for latent in latents] for length in ladder]
    return PrefixAnswers(tuple(ladder), tuple(texts), np.array(probabilities), np.array(payload))


@torch.no_grad()
def decode_prefixes(transform: LatentTransform, symbols: NDArray[np.int32], length: int) -> Tensor:
    """Tokens from equally long prefixes, float16 [F, N, D]."""
    parts = [
        transform.synthesise(part.float(), torch.full((len(part),), length)).half()
        for part in torch.split(torch.from_numpy(symbols), _BATCH)
    ]
    return torch.cat(parts)
