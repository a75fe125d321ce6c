"""Looks at an exported graph: what an edge's runtime has to know for it, and whether the batch is free."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from pipeline.codec.spec import PIXELS, SYMBOLS
from schemas.errors import ArtifactError

MOST_OPSET: Final = 20
"""ONNX Runtime 1.22, the oldest that an edge may have, knows 22 and later ones more; we stay below."""
MOST_IR_VERSION: Final = 10


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a graph needs and takes.

    Attributes:
        opset: Version of the standard operators.
        ir_version: Of the file format.
        nodes: Operators in it, constants and casts of weights included.
        pixels: Shape of the input; a name stands for a dimension that is free.
        symbols: Shape of the output.
    """

    opset: int
    ir_version: int
    nodes: int
    pixels: tuple[int | str, ...]
    symbols: tuple[int | str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "pixels": list(self.pixels), "symbols": list(self.symbols)}


def check_graph(path: Path, frame_px: int, latents: tuple[int, int]) -> GraphFacts:
    """Make sure that an edge can run a graph, with any number of frames at once.

    Args:
        path: The ONNX file.
        frame_px: Edge of a frame.
        latents: K and d.

    Raises:
        ArtifactError: it is not valid, needs operators that are not standard or too new, or has other shapes.
    """
    model = onnx.load(path)
    try:
        onnx.checker.check_model(str(path))  # by its path: one of several gigabytes fits no message
    except onnx.checker.ValidationError as error:
        raise ArtifactError(str(path), f"is no valid graph: {str(error).splitlines()[0]}") from error
    opsets = {entry.domain: int(entry.version) for entry in model.opset_import}
    used = {node.domain for node in model.graph.node} - {""}
    if used or not 1 <= opsets.get("", 0) <= MOST_OPSET or model.ir_version > MOST_IR_VERSION:
        raise ArtifactError(
            str(path),
            f"needs opset {opsets.get('', 0)}, IR version {model.ir_version} and operators of "
            f"{', '.join(sorted(used)) or 'no other domain'}; edges run opset {MOST_OPSET}, IR version "
            f"{MOST_IR_VERSION} and standard operators",
        )
    facts = GraphFacts(
        opsets[""],
        int(model.ir_version),
        len(model.graph.node),
        _shape(model.graph.input, PIXELS),
        _shape(model.graph.output, SYMBOLS),
    )
    wanted = ((frame_px, frame_px, 3), latents)
    free = all(isinstance(shape[0], str) for shape in (facts.pixels, facts.symbols) if shape)
    if (facts.pixels[1:], facts.symbols[1:]) != wanted or not free:
        raise ArtifactError(
            str(path),
            f"takes {list(facts.pixels)} and gives {list(facts.symbols)}, not [batch, {frame_px}, {frame_px}, 3] and "
            f"[batch, {latents[0]}, {latents[1]}] with a free batch",
        )
    return facts


def _shape(values: Any, name: str) -> tuple[int | str, ...]:
    """Shape of an input or output; empty where there is none of this name."""
    found = next((value for value in values if value.name == name), None)
    if found is None:
        return ()
    return tuple(dimension.dim_param or int(dimension.dim_value) for dimension in found.type.tensor_type.shape.dim)
