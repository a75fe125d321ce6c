"""Export the edge's half, from pixels to symbols, to ONNX and compare it with torch."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.codec.spec import PIXELS, SYMBOLS, TOKENS
from pipeline.codec.transform_torch import LatentTransform
from schemas.errors import ArtifactError
from training.codec.fit.graph_check import MOST_OPSET, GraphFacts, check_graph
from training.codec.image_path import PixelsToTokens

_NEAR_BOUNDARY = 1e-3
"""Distance to a decision, in steps, at which two correct float computations may round to different symbols."""

_WORTH_HALVING = 1024
"""Values below which a tensor stays as it is."""


class PixelsToSymbols(nn.Module):
    """Image path of a VLM, analysis and rounding of one codec.

    Args:
        image_path: Pixels to tokens.
        transform: Of the codec.
    """

    def __init__(self, image_path: PixelsToTokens, transform: LatentTransform) -> None:
        super().__init__()
        self.image_path = image_path
        self.transform = transform

    def coefficients(self, pixels: Tensor) -> Tensor:
        """What is about to be rounded: pixels uint8 [B, H, W, 3] to [B, K, d], in steps."""
        return self.transform.analyse(self.image_path(pixels))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels uint8 [B, H, W, 3] to symbols int32 [B, K, d], and the visual tokens that they are made of [B, N, D].

        The tokens are for measurements: what the tower costs alone, and what quantising it does to them.
        """
        tokens = self.image_path(pixels)
        return self.transform.quantise(self.transform.analyse(tokens)).to(torch.int32), tokens


@dataclass(frozen=True, slots=True)
class Parity:
    """How far torch and ONNX Runtime agree.

    Attributes:
        frames: Frames compared.
        symbols: Symbols compared.
        differing: Symbols that differ.
        largest_difference: Between two symbols.
        unexplained: Differing symbols whose coefficient is not on a decision boundary; must be 0.
        size_bytes: Size of the ONNX file.
        graph: Opset, shapes and size of the graph.
    """

    frames: int
    symbols: int
    differing: int
    largest_difference: int
    unexplained: int
    size_bytes: int
    graph: GraphFacts

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "graph": self.graph.as_dict()}


def export_encoder(
    image_path: PixelsToTokens, transform: LatentTransform, path: Path, sample: NDArray[np.uint8]
) -> Parity:
    """Write ``encoder.onnx`` with a dynamic batch and compare it with torch on real frames.

    Args:
        image_path: Of the VLM.
        transform: Of the codec, as stored.
        path: File to write.
        sample: Frames to compare on, uint8 [B, H, W, 3] with B of at least 2.

    Returns:
        The comparison.

    Raises:
        ArtifactError: the two disagree by more than rounding explains.
    """
    encoder = PixelsToSymbols(image_path, transform).eval()
    pixels = torch.tensor(np.asarray(sample))
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter's own deprecations say nothing about the result, which is compared below.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            PixelsToSymbols(image_path.exportable(), transform).eval(),
            (pixels[:2],),
            dynamo=True,
            external_data=False,
            opset_version=MOST_OPSET,
            input_names=[PIXELS],
            output_names=[SYMBOLS, TOKENS],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
            verbose=False,
        )
    if program is None:
        raise ArtifactError(str(path), "the exporter returned nothing")
    proto = program.model_proto
    drop_traces(proto)
    store_in_half_precision(proto)
    onnx.save(proto, path)
    return compare_encoders(encoder, path, sample)


def drop_traces(model: onnx.ModelProto) -> None:
    """Drop where in the sources each node came from: paths of the machine that exported, and an eighth of the file.

    Args:
        model: Changed in place.
    """
    graphs = [model.graph, *model.functions]
    for part in (model, *graphs, *(node for graph in graphs for node in graph.node)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    del model.graph.value_info[:]


def store_in_half_precision(model: onnx.ModelProto) -> None:
    """Store weights in two bytes where nothing is lost: a value that 16 bits hold exactly is cast back at load.

    The reference VLM's weights are bfloat16 and the codecs' are float16, computed with in float32; ONNX Runtime folds
    the casts when it loads the file, so that a frame costs what it cost before.

    Args:
        model: Changed in place.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        halved = _halved(values) if values.size >= _WORTH_HALVING else None
        if halved is None:
            continue
        name, (data_type, raw) = tensor.name, halved
        stored = onnx.TensorProto(name=f"{name}.stored", data_type=data_type, dims=values.shape, raw_data=raw)
        tensor.CopyFrom(stored)
        casts.append(onnx.helper.make_node("Cast", [stored.name], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def _halved(values: NDArray[np.float32]) -> tuple[int, bytes] | None:
    """Type and bytes of values that 16 bits hold exactly; None for others."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    if not (bits & 0xFFFF).any():
        return onnx.TensorProto.BFLOAT16, (bits >> 16).astype("<u2").tobytes()
    with np.errstate(over="ignore"):
        narrow = values.astype("<f2")
    if np.array_equal(narrow.astype(np.float32), values):
        return onnx.TensorProto.FLOAT16, narrow.tobytes()
    return None


def compare_encoders(encoder: PixelsToSymbols, path: Path, sample: NDArray[np.uint8]) -> Parity:
    """Compare torch and ONNX Runtime on frames, one at a time and as a batch.

    Raises:
        ArtifactError: they disagree where no rounding boundary explains it.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batched = session.run([SYMBOLS], {PIXELS: sample})[0]
    single = np.concatenate([session.run([SYMBOLS], {PIXELS: sample[i : i + 1]})[0] for i in range(len(sample))])
    with torch.no_grad():
        coefficients = encoder.coefficients(torch.tensor(np.asarray(sample)))
        expected = encoder.transform.quantise(coefficients).to(torch.int32).numpy()
    threshold = coefficients.abs().numpy() + (0.5 - float(encoder.transform.dead_zone))
    on_boundary = np.abs(threshold - np.rint(threshold)) < _NEAR_BOUNDARY
    differs = (batched != expected) | (single != expected)
    difference = np.maximum(np.abs(batched - expected), np.abs(single - expected))
    parity = Parity(
        frames=len(sample),
        symbols=int(expected.size),
        differing=int(differs.sum()),
        largest_difference=int(difference.max()),
        unexplained=int((differs & ~on_boundary).sum() + (difference > 1).sum()),
        size_bytes=path.stat().st_size,
        graph=check_graph(path, sample.shape[1], (expected.shape[1], expected.shape[2])),
    )
    if parity.unexplained:
        raise ArtifactError(
            str(path), f"torch and ONNX Runtime disagree on {parity.unexplained} of {parity.symbols} symbols"
        )
    return parity
