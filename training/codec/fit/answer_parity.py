"""Encoders of one codec side by side: which symbols differ, and which answers that changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from cloud_workers.inference.adapter import ModelAdapter
from pipeline.codec.spec import PIXELS, SYMBOLS
from pipeline.codec.transform_torch import LatentTransform
from training.codec.answers import answers_of
from training.codec.data import AskedFrames
from training.codec.fit.export import PixelsToSymbols
from training.codec.prefixes import decode_prefixes

COMPARED_FRAMES: Final = 200


@dataclass(frozen=True, slots=True)
class AnswerParity:
    """Two encoders of one codec on the same frames.

    Attributes:
        frames: Frames compared.
        symbols_differing: Share of symbols that differ.
        cosine: Mean cosine between the tokens decoded from whole latents of both.
        questions: Questions asked of both.
        answers_agreeing: Share of them with the same answer.
    """

    frames: int
    symbols_differing: float
    cosine: float
    questions: int
    answers_agreeing: float

    @classmethod
    def of(
        cls, adapter: ModelAdapter, transform: LatentTransform, symbols: Sequence[NDArray[np.int32]], data: AskedFrames
    ) -> Self:
        """Compare what two encoders made of the same frames.

        Args:
            adapter: The VLM.
            transform: Of the codec.
            symbols: Of both, int32 [F, K, d].
            data: Frames and questions about them, of no other use.
        """
        one, other = symbols
        tokens = [decode_prefixes(transform, each, transform.latent_count) for each in (one, other)]
        texts = [answers_of(adapter, each, data.asked).texts for each in tokens]
        cosine = torch.nn.functional.cosine_similarity(tokens[0].float(), tokens[1].float(), dim=2).mean()
        return cls(
            frames=len(data),
            symbols_differing=round(float((one != other).mean()), 4),
            cosine=round(float(cosine), 4),
            questions=len(data.asked),
            answers_agreeing=round(float((texts[0] == texts[1]).mean()), 4),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EncoderFile:
    """What an encoder's file makes of frames.

    Attributes:
        symbols: int32 [F, K, d].
        ms_p50: Median time of a frame on one thread.
        size_bytes: Of the file.
    """

    symbols: NDArray[np.int32]
    ms_p50: float
    size_bytes: int


def run_encoders(paths: Sequence[Path], frames: NDArray[np.uint8]) -> list[EncoderFile]:
    """Encode frames with several encoders, frame by frame in turn, so that all meet the same load of the machine.

    Args:
        paths: Their files.
        frames: uint8 [F, H, W, 3].
    """
    sessions = [_one_thread(path) for path in paths]
    symbols: list[list[NDArray[np.int32]]] = [[] for _ in sessions]
    times_ms: list[list[float]] = [[] for _ in sessions]
    for first in range(len(frames)):
        frame = np.asarray(frames[first : first + 1])
        for session, found, spent_ms in zip(sessions, symbols, times_ms, strict=True):
            began = time.perf_counter()
            found.append(session.run([SYMBOLS], {PIXELS: frame})[0])
            spent_ms.append(1e3 * (time.perf_counter() - began))
    return [
        EncoderFile(np.concatenate(found), round(float(np.median(spent_ms)), 2), path.stat().st_size)
        for path, found, spent_ms in zip(paths, symbols, times_ms, strict=True)
    ]


def symbols_of_torch(encoder: PixelsToSymbols, frames: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The same from the weights themselves, int32 [F, K, d]."""
    with torch.no_grad():
        parts = [encoder(torch.tensor(np.asarray(frames[i : i + 1])))[0].numpy() for i in range(len(frames))]
    return np.concatenate(parts)


def _one_thread(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
