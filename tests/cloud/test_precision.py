"""Arithmetic of a model by configuration: the same answers, near enough, with fewer bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_workers.inference.precision import Int8Linear, quantise_weights, weights_dtype
from cloud_workers.inference.registry import adapt, load_model
from cloud_workers.loading import load_worker_model
from pipeline.config.serving_settings import ModelPrecision
from pipeline.config.worker_settings import WorkerSettings
from schemas.types import AnswerType
from tests.cloud.engines import THREAD
from tests.cloud.tiny_models import FAMILIES, TOKEN_COUNT, TOKEN_DIM

QUESTIONS = [("Is there a car?", AnswerType.YES_NO), ("What is it?", AnswerType.WORD)]


def weight_bytes(vlm_dir: Path, precision: ModelPrecision) -> int:
    decoder = load_model(vlm_dir, precision=precision).model.get_decoder()
    return sum(weight.nbytes for name, weight in decoder.named_parameters() if name.endswith("proj.weight"))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.0), ("bf16", 0.03), ("fp16", 0.005), ("int8", 0.03)])
def test_answers_hardly_depend_on_the_precision(vlm_dir: Path, precision: ModelPrecision, tolerance: float) -> None:
    tokens = torch.randn(2, TOKEN_COUNT, TOKEN_DIM, generator=torch.Generator().manual_seed(3))
    exact = load_model(vlm_dir).answer(tokens, QUESTIONS)
    found = load_model(vlm_dir, precision=precision).answer(tokens, QUESTIONS)
    for one, other in zip(exact, found, strict=True):
        assert other.finite
        assert other.margin == pytest.approx(one.margin, abs=tolerance)
        assert other.entropy_nats == pytest.approx(one.entropy_nats, abs=10 * tolerance)


def test_weights_in_8_bits_take_a_quarter_of_the_bytes(vlm_dir: Path) -> None:
    whole = weight_bytes(vlm_dir, "fp32")
    assert weight_bytes(vlm_dir, "bf16") == whole // 2
    assert weight_bytes(vlm_dir, "int8") == whole // 4


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_in_8_bits_is_within_half_a_step_of_its_weights(bias: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(48, 16, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(16, 48, generator=generator))
        layer.weight[3] = 0
    small = Int8Linear(layer)
    step = layer.weight.abs().amax(dim=1, keepdim=True) / 127
    weights = small.weight.float() * small.scale[:, None]
    assert ((weights - layer.weight).abs() <= 0.501 * step).all()
    values = torch.randn(5, 48, generator=generator)
    expected = torch.nn.functional.linear(values, weights, layer.bias)
    torch.testing.assert_close(small(values), expected)
    assert small(values).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_with_weights_in_8_bits(family: str) -> None:
    model, processor = FAMILIES[family]()
    logits = model.get_output_embeddings()
    quantise_weights(model)
    assert any(isinstance(module, Int8Linear) for module in model.modules())
    assert model.get_output_embeddings() is logits
    vlm = adapt(model, processor, source="tiny")
    frame = vlm.encode_pixels(np.zeros((1, vlm.frame_size_px, vlm.frame_size_px, 3), dtype=np.uint8))
    (answer,) = vlm.answer(frame, QUESTIONS[:1])
    assert answer.finite
    assert answer.problem == ""


def test_the_usual_type_is_that_of_the_device() -> None:
    assert weights_dtype("auto", "cpu") is torch.float32
    assert weights_dtype("int8", "cpu") is torch.float32
    assert weights_dtype("auto", "cuda:0") == "auto"
    assert weights_dtype("bf16", "cpu") is torch.bfloat16


def test_a_worker_takes_the_precision_of_its_settings(vlm_dir: Path, codec_dir: Path) -> None:
    settings = WorkerSettings(vlm=str(vlm_dir), codec=codec_dir, threads=1, precision="bf16")
    model = load_worker_model(settings, THREAD)
    assert model.backend._model.model.dtype is torch.bfloat16  # type: ignore[attr-defined]
