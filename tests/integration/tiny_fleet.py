"""A models folder that knows nothing but has every file: processes of a fleet load it like the bundled one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.codec.spec import ENCODER_FILE, hash_file
from tests.cloud.tiny_codec import LATENT_COUNT, LATENT_DIM, write_codec, write_vlm
from tests.cloud.tiny_models import IMAGE_SIZE_PX


def write_models_dir(folder: Path, *, thresholds: tuple[float, ...] = (2.0, 2.0, 0.0)) -> Path:
    """What ``LATENTBUS_MODELS_DIR`` points to.

    Args:
        folder: made, with ``reference-vlm`` and ``codecs/meta_autoencoder`` in it.
        thresholds: of the stop rule at 3, 5 and 8 latents; 2 is never safe, 0 always.
    """
    vlm = folder / "reference-vlm"
    vlm.mkdir(parents=True)
    write_vlm(vlm)
    codec = folder / "codecs" / "meta_autoencoder"
    codec.mkdir(parents=True)
    write_encoder(codec / ENCODER_FILE)
    write_codec(codec, vlm, thresholds=thresholds, encoder_sha256=hash_file(codec / ENCODER_FILE))
    return folder


def write_encoder(path: Path) -> None:
    """A graph with the encoder's signature: a few pixels of the frame become its symbols."""
    size_px = IMAGE_SIZE_PX
    symbols = LATENT_COUNT * LATENT_DIM
    rng = np.random.default_rng(3)
    picked = rng.permutation(size_px * size_px * 3)[:symbols].astype(np.int64)
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["pixels", "flat_shape"], ["flat"]),
            helper.make_node("Gather", ["flat", "picked"], ["chosen"], axis=1),
            helper.make_node("Cast", ["chosen"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["real", "middle"], ["centred"]),
            helper.make_node("Div", ["centred", "scale"], ["scaled"]),
            helper.make_node("Round", ["scaled"], ["rounded"]),
            helper.make_node("Cast", ["rounded"], ["whole"], to=TensorProto.INT32),
            helper.make_node("Reshape", ["whole", "symbol_shape"], ["symbols"]),
        ],
        "tiny_encoder",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", size_px, size_px, 3])],
        [helper.make_tensor_value_info("symbols", TensorProto.INT32, ["batch", LATENT_COUNT, LATENT_DIM])],
        [
            numpy_helper.from_array(np.array([-1, size_px * size_px * 3], dtype=np.int64), "flat_shape"),
            numpy_helper.from_array(np.array([-1, LATENT_COUNT, LATENT_DIM], dtype=np.int64), "symbol_shape"),
            numpy_helper.from_array(picked, "picked"),
            numpy_helper.from_array(np.array(128, dtype=np.float32), "middle"),
            numpy_helper.from_array(np.array(32, dtype=np.float32), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
