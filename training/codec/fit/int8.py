"""An encoder whose vision tower computes in 8-bit integers: static quantisation by ONNX Runtime, channel by channel.

Symbols keep their meaning, so the codec's fingerprint stays; some of them become others, and the report says how many
answers that changes. Only convolutional towers (FastVLM) gain from it; projector, analysis and rounding stay in float.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from cloud_workers.inference.adapter import ModelAdapter
from pipeline.codec.transform_torch import LatentTransform
from schemas.errors import ConfigError
from training.codec.answers import answers_of
from training.codec.data import AskedFrames
from training.codec.fit.export import drop_traces, store_in_half_precision
from training.codec.prefixes import decode_prefixes

CALIBRATION_FRAMES: Final = 128
COMPARED_FRAMES: Final = 64
_QUANTISED: Final = ("Conv", "Add", "Clip")
"""Convolutions, and what stands between them; with convolutions alone every edge would go through float."""
_FEWEST_CONVOLUTIONS: Final = 4
"""A transformer's tower has one, which cuts the patches."""
_BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class Int8Report:
    """An encoder in 8-bit integers beside the same in float.

    Attributes:
        frames: Frames compared.
        symbols_differing: Share of symbols that differ.
        cosine: Mean cosine between the tokens decoded from whole latents of both.
        questions: Questions asked of both.
        answers_agreeing: Share of them with the same answer.
        float_ms: Median time of a frame on one thread.
        int8_ms: The same in 8-bit integers, measured in turn.
        float_bytes: Size of the float encoder's file.
        int8_bytes: Size of the other one's.
    """

    frames: int
    symbols_differing: float
    cosine: float
    questions: int
    answers_agreeing: float
    float_ms: float
    int8_ms: float
    float_bytes: int
    int8_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "time_ratio": round(self.int8_ms / self.float_ms, 3)}


class _Frames(CalibrationDataReader):  # type: ignore[misc]
    """Hands frames to the calibration, batch by batch."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = (
            np.asarray(frames[first : first + _BATCH]) for first in range(0, len(frames), _BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def quantise_encoder(source: Path, target: Path, frames: NDArray[np.uint8]) -> None:
    """Write an encoder whose tower is in 8-bit integers.

    Args:
        source: Encoder in float, from `export_encoder`.
        target: File to write.
        frames: Frames like those of cameras, which the ranges of all activations are taken from, uint8 [B, H, W, 3].

    Raises:
        ConfigError: the tower is not convolutional.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        logging.getLogger().disabled, before = True, logging.getLogger().disabled
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                _Frames(frames),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_QUANTISED),
                nodes_to_quantize=_tower_nodes(onnx.load(prepared)),
            )
        finally:
            logging.getLogger().disabled = before
    model = onnx.load(target)
    drop_traces(model)
    store_in_half_precision(model)
    onnx.save(model, target)


def _tower_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the tower's nodes: all up to the last convolution, and what bounds that one's output.

    Raises:
        ConfigError: there are hardly any convolutions.
    """
    nodes = list(model.graph.node)
    places = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    if len(places) < _FEWEST_CONVOLUTIONS:
        raise ConfigError("--int8", "the vision tower has no convolutions to quantise; those of FastVLM models have")
    last = nodes[places[-1]]
    bound = [node for node in nodes[places[-1] + 1 :] if node.op_type == "Clip" and last.output[0] in node.input]
    return [node.name for node in (*nodes[: places[-1] + 1], *bound) if node.op_type in _QUANTISED]


def compare_int8(
    adapter: ModelAdapter, transform: LatentTransform, encoders: tuple[Path, Path], data: AskedFrames
) -> Int8Report:
    """Compare an encoder in float with the same in 8-bit integers, on frames and questions of no other use.

    Args:
        adapter: The VLM.
        transform: Of the codec.
        encoders: Files of both, float first.
        data: Frames and questions.
    """
    sessions = [_one_thread(path) for path in encoders]
    symbols, times_ms = _encoded(sessions, data.frames)
    tokens = [decode_prefixes(transform, each, transform.latent_count) for each in symbols]
    texts = [answers_of(adapter, each, data.asked).texts for each in tokens]
    cosine = torch.nn.functional.cosine_similarity(tokens[0].float(), tokens[1].float(), dim=2).mean()
    float_ms, int8_ms = (round(float(np.median(each)), 2) for each in times_ms)
    return Int8Report(
        frames=len(data),
        symbols_differing=round(float((symbols[0] != symbols[1]).mean()), 4),
        cosine=round(float(cosine), 4),
        questions=len(data.asked),
        answers_agreeing=round(float((texts[0] == texts[1]).mean()), 4),
        float_ms=float_ms,
        int8_ms=int8_ms,
        float_bytes=encoders[0].stat().st_size,
        int8_bytes=encoders[1].stat().st_size,
    )


def _one_thread(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _encoded(
    sessions: Sequence[onnxruntime.InferenceSession], frames: NDArray[np.uint8]
) -> tuple[list[NDArray[np.int32]], list[list[float]]]:
    """Symbols of each encoder, int32 [F, K, d], and its milliseconds of each frame; frame by frame in turn."""
    symbols: list[list[NDArray[np.int32]]] = [[] for _ in sessions]
    times_ms: list[list[float]] = [[] for _ in sessions]
    for first in range(len(frames)):
        frame = np.asarray(frames[first : first + 1])
        for session, found, spent_ms in zip(sessions, symbols, times_ms, strict=True):
            began = time.perf_counter()
            found.append(session.run(["symbols"], {"pixels": frame})[0])
            spent_ms.append(1e3 * (time.perf_counter() - began))
    return [np.concatenate(parts) for parts in symbols], times_ms
