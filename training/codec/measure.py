"""Answers from every prefix of a codec: the table that evaluation, calibration and the policies read from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_workers.inference.adapter import ModelAdapter
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from training.codec.answers import Answers, answers_of, blind_answers
from training.codec.chunks import chunks_of, frames_at_once
from training.codec.data import Asked
from training.codec.prefixes import decode_prefixes, encode_all
from training.codec.token_statistics import TokenStatistics
from training.run import Progress

_BATCH: Final = 128
_ASKED_TOGETHER: Final = 4_096
"""Frames that are decoded before any is asked about, if their tokens are small."""
_VERSION: Final = 1
"""Of the kept files."""
_ROWS: Final = ("texts", "probabilities", "margins", "entropies_nats")


@dataclass(frozen=True, slots=True)
class PrefixAnswers:
    """What a VLM answers from prefixes of a codec.

    Attributes:
        lengths: Prefix lengths in latents, ascending, the last one whole [P].
        passes: Answers at each length [P].
        blind: Answers from an empty prefix.
        payload_bytes: Size of each prefix as one chunk, from the real bitstream [P, F].
        code_bits: Code length of each prefix under the tables [P, F].
        errors: Squared error of the decoded tokens over the variance of all tokens [P, F].
        cosines: Mean cosine between decoded and uncompressed tokens [P, F].
    """

    lengths: tuple[int, ...]
    passes: tuple[Answers, ...]
    blind: Answers
    payload_bytes: NDArray[np.int64]
    code_bits: NDArray[np.float64]
    errors: NDArray[np.float64]
    cosines: NDArray[np.float64]

    @property
    def texts(self) -> NDArray[np.str_]:
        """All answers, str [P, Q]."""
        return np.stack([inference_pass.texts for inference_pass in self.passes])

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of all answers [P, Q]."""
        return np.stack([inference_pass.probabilities for inference_pass in self.passes])

    def rows(self, lengths: Sequence[int]) -> Self:
        """The same for some of the lengths."""
        kept = [self.lengths.index(length) for length in lengths]
        return type(self)(
            tuple(lengths),
            tuple(self.passes[row] for row in kept),
            self.blind,
            self.payload_bytes[kept],
            self.code_bits[kept],
            self.errors[kept],
            self.cosines[kept],
        )

    def save(self, path: Path) -> None:
        """Keep the table in an ``.npz`` without pickles."""
        names = [f"look{number}" for number in range(len(self.passes))]
        arrays: dict[str, Any] = {
            f"{name}_{row}": getattr(inference_pass, row)
            for name, inference_pass in (*zip(names, self.passes, strict=True), ("blind", self.blind))
            for row in _ROWS
        }
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(
            partial,
            lengths=np.array(self.lengths),
            payload_bytes=self.payload_bytes,
            code_bits=self.code_bits,
            errors=self.errors,
            cosines=self.cosines,
            **arrays,
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            lengths = tuple(int(length) for length in data["lengths"])
            passes = tuple(Answers(*(data[f"look{number}_{row}"] for row in _ROWS)) for number in range(len(lengths)))
            blind = Answers(*(data[f"blind_{row}"] for row in _ROWS))
            return cls(
                lengths, passes, blind, data["payload_bytes"], data["code_bits"], data["errors"], data["cosines"]
            )


def measure_prefixes(
    vlm: ModelAdapter,
    codec_dir: Path,
    tokens: Tensor,
    asked: Sequence[Asked],
    lengths: Sequence[int],
    progress: Progress,
    *,
    cache_dir: Path | None = None,
) -> PrefixAnswers:
    """Encode frames, decode prefixes, ask.

    Args:
        vlm: The frozen model.
        codec_dir: Codec folder.
        tokens: Uncompressed visual tokens [F, N, D].
        asked: Questions about those frames.
        lengths: Prefix lengths; the whole latent is added.
        progress: Called with a line a prefix.
        cache_dir: Where the table is kept, by codec, tokens, questions and lengths; None keeps nothing.

    Raises:
        ArtifactError: the folder is not a usable codec.
    """
    spec = load_codec_spec(codec_dir)
    ladder = sorted({*lengths, spec.latent_count})
    kept = None
    if cache_dir is not None:
        # Of the tables, what codes a frame given another one has no part in the answers.
        static = FrequencyTables.load(codec_dir / TABLES_FILE).frequencies
        identity = hashlib.sha256(json.dumps([_VERSION, spec.vlm_sha256, spec.codec_sha256, ladder]).encode())
        identity.update(static.tobytes())
        identity.update(tokens.contiguous().numpy().data)
        identity.update(json.dumps([[item.frame, item.text, item.answer_type] for item in asked]).encode())
        kept = cache_dir / f"answers-{identity.hexdigest()[:16]}.npz"
        if kept.exists():
            return PrefixAnswers.load(kept)
    transform = load_transform(codec_dir, spec)
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    symbols = encode_all(transform, tokens)
    latents = [EncodedLatent(frame, tables) for frame in symbols]
    bits = tables.symbol_bits(symbols, 0, spec.latent_count).sum(axis=2).cumsum(axis=1)
    statistics = TokenStatistics(spec.token_count, spec.token_dim)
    for part in chunks_of(tokens):
        statistics.update(part)
    rows = []
    for length in ladder:
        # Minutes each for a large model: what is done survives a process that is killed.
        step = None if kept is None else kept.with_suffix(f".{length}.npz")
        row = _Row.load(step) if step is not None and step.exists() else None
        if row is None:
            row = _row(vlm, transform, symbols, tokens, asked, length)
            if step is not None:
                row.save(step)
        rows.append(row)
        progress(f"{spec.name}: answers from {length} of {spec.latent_count} latents")
    table = PrefixAnswers(
        tuple(ladder),
        tuple(row.answers for row in rows),
        blind_answers(vlm, decode_prefixes(transform, symbols[:1], 0), asked),
        np.array([[latent.size_bytes(length) for latent in latents] for length in ladder]),
        np.stack([bits[:, length - 1] for length in ladder]),
        np.stack([row.errors / statistics.variance for row in rows]),
        np.stack([row.cosines for row in rows]),
    )
    if kept is not None:
        table.save(kept)
        for length in ladder:
            kept.with_suffix(f".{length}.npz").unlink(missing_ok=True)
    return table


@dataclass(frozen=True, slots=True)
class _Row:
    """What one prefix length gives: answers, squared errors and cosines of the frames [F]."""

    answers: Answers
    errors: NDArray[np.float64]
    cosines: NDArray[np.float64]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        answers = {name: getattr(self.answers, name) for name in _ROWS}
        np.savez_compressed(partial, errors=self.errors, cosines=self.cosines, **answers)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as data:
            return cls(Answers(*(data[name] for name in _ROWS)), data["errors"], data["cosines"])


def _row(
    vlm: ModelAdapter,
    transform: LatentTransform,
    symbols: NDArray[np.int32],
    tokens: Tensor,
    asked: Sequence[Asked],
    length: int,
) -> _Row:
    """Decode prefixes of one length and ask about them, some frames at a time."""
    parts: list[Answers] = []
    order: list[int] = []
    errors, cosines = [], []
    together = frames_at_once(transform.token_count * transform.token_dim, _ASKED_TOGETHER)
    for start in range(0, len(symbols), together):
        frames = range(start, min(start + together, len(symbols)))
        decoded = decode_prefixes(transform, symbols[frames.start : frames.stop], length)
        mine = [index for index, item in enumerate(asked) if item.frame in frames]
        order += mine
        parts.append(answers_of(vlm, decoded, [replace(asked[i], frame=asked[i].frame - start) for i in mine]))
        error, cosine = _fidelity(decoded, tokens[frames.start : frames.stop])
        errors.append(error)
        cosines.append(cosine)
    back = np.argsort(np.array(order, dtype=np.int64), kind="stable")
    return _Row(Answers.joined(parts).of(back), np.concatenate(errors), np.concatenate(cosines))


def _fidelity(decoded: Tensor, tokens: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean squared error and mean cosine of each frame [F], by parts, since tokens are kept in half precision."""
    errors, cosines = [], []
    for ours, theirs in zip(chunks_of(decoded, _BATCH), chunks_of(tokens, _BATCH), strict=True):
        a, b = ours.float(), theirs.float()
        errors.append((a - b).square().mean(dim=(1, 2)))
        cosines.append(torch.nn.functional.cosine_similarity(a, b, dim=2).mean(dim=1))
    return torch.cat(errors).double().numpy(), torch.cat(cosines).double().numpy()
