"""What an edge's runtime cannot run is seen before a codec is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from schemas.errors import ArtifactError
from training.codec.fit.graph_check import check_graph


def write_graph(path: Path, *, batch: Any = "batch", opset: int = 20, domain: str = "", edge_px: int = 4) -> Path:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Reshape", ["whole", "shape"], ["symbols"], domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [batch, edge_px, edge_px, 3])],
        [helper.make_tensor_value_info("symbols", TensorProto.INT32, [batch, 6, 8])],
        [helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 6, 8])],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_a_graph_that_edges_run_is_described(tmp_path: Path) -> None:
    facts = check_graph(write_graph(tmp_path / "e.onnx"), 4, (6, 8))
    assert facts.as_dict() == {
        "opset": 20, "ir_version": 10, "nodes": 2, "pixels": ["batch", 4, 4, 3], "symbols": ["batch", 6, 8],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"batch": 2}, r"takes \[2, 4, 4, 3\] .* with a free batch"),
        ({"edge_px": 5}, r"takes \['batch', 5, 5, 3\] .* not \[batch, 4, 4, 3\]"),
        ({"opset": 21}, "needs opset 21, .* edges run opset 20"),
        ({"domain": "com.example"}, "operators of com.example"),
    ],
)
def test_what_edges_cannot_run_is_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=problem):
        check_graph(write_graph(tmp_path / "e.onnx", **change), 4, (6, 8))
