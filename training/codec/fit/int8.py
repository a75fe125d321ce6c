"""An encoder whose vision tower computes in 8-bit integers: static quantisation by ONNX Runtime, channel by channel.

Symbols keep their meaning, so the codec's fingerprint stays; some of them become others. Analysis and rounding stay in
float, and so does the projector. What else is quantised depends on the tower:

- convolutional (FastVLM): convolutions, and the additions and bounds between them;
- transformers: what goes into the projections of attention; what comes out stays in float. The layers of an MLP stand
  around an activation function, whose few large values take the range of all others.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from pipeline.codec.spec import PIXELS, TOKENS
from schemas.errors import ConfigError
from training.codec.fit.export import drop_traces, store_in_half_precision

CALIBRATION_FRAMES: Final = 128
_CONVOLUTIONAL: Final = ("Conv", "Add", "Clip")
"""Convolutions, and what stands between them; with convolutions alone every edge would go through float."""
_TRANSFORMER: Final = ("MatMul", "Gemm")
_FEWEST_CONVOLUTIONS: Final = 4
"""A transformer's tower has one, which cuts the patches."""
_BATCH: Final = 8


class _Frames(CalibrationDataReader):  # type: ignore[misc]
    """Hands frames to the calibration, batch by batch."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = (
            np.asarray(frames[first : first + _BATCH]) for first in range(0, len(frames), _BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {PIXELS: batch}


def quantise_encoder(source: Path, target: Path, frames: NDArray[np.uint8]) -> None:
    """Write an encoder whose tower is in 8-bit integers.

    Args:
        source: Encoder in float, from `export_encoder`.
        target: File to write.
        frames: Frames like those of cameras, which the ranges of all activations are taken from, uint8 [B, H, W, 3].

    Raises:
        ConfigError: nothing in the tower can be quantised.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        logging.getLogger().disabled, before = True, logging.getLogger().disabled
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            kinds, nodes = _tower_nodes(onnx.load(prepared))
            quantize_static(
                str(prepared),
                str(target),
                _Frames(frames),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(kinds),
                nodes_to_quantize=nodes,
                extra_options={"OpTypesToExcludeOutputQuantization": list(_TRANSFORMER)},
            )
        finally:
            logging.getLogger().disabled = before
    model = onnx.load(target)
    drop_traces(model)
    store_in_half_precision(model)
    onnx.save(model, target)


def _tower_nodes(model: onnx.ModelProto) -> tuple[tuple[str, ...], list[str]]:
    """Kinds of operators that are quantised, and the names of those nodes.

    Raises:
        ConfigError: there are none.
    """
    tower = _behind(model, TOKENS)
    places = [place for place, node in enumerate(tower) if node.op_type == "Conv"]
    if len(places) >= _FEWEST_CONVOLUTIONS:
        # All up to the last convolution, and what bounds that one's output.
        last = tower[places[-1]]
        bound = [node for node in tower[places[-1] + 1 :] if node.op_type == "Clip" and last.output[0] in node.input]
        kept = [node.name for node in (*tower[: places[-1] + 1], *bound) if node.op_type in _CONVOLUTIONAL]
        return _CONVOLUTIONAL, kept
    shapes = _constant_shapes(model)
    kept = [node.name for node in tower if node.op_type in _TRANSFORMER and _square(node, shapes)]
    if not kept:
        raise ConfigError("--int8", "the vision tower has neither convolutions nor attention that could be quantised")
    return _TRANSFORMER, kept


def _behind(model: onnx.ModelProto, output: str) -> list[onnx.NodeProto]:
    """Nodes that an output is made by, in order."""
    made = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    pending = [output]
    while pending:
        node = made.get(pending.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            pending += node.input
    return [node for node in model.graph.node if node.name in found]


def _constant_shapes(model: onnx.ModelProto) -> dict[str, Collection[int]]:
    """Shapes of weights by name, as stored or behind the cast from two bytes."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in shapes]
    return {**shapes, **{node.output[0]: shapes[node.input[0]] for node in casts}}


def _square(node: onnx.NodeProto, shapes: dict[str, Collection[int]]) -> bool:
    """Whether a product has a constant second factor as wide as it is high: projections of attention have."""
    shape = tuple(shapes.get(node.input[1], ()))
    return len(shape) == 2 and len(set(shape)) == 1
