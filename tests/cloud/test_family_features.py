"""What every registered family promises at the seam, on tiny models of the real classes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen3VLProcessor, T5Config

from cloud_workers.inference.backend import InferenceAnswer, InferenceItem
from cloud_workers.inference.in_process import InProcessBackend
from cloud_workers.inference.registry import FAMILIES as KNOWN
from cloud_workers.inference.registry import adapt, load_model
from cloud_workers.inference.still_processors import for_stills
from cloud_workers.inference.transformers_adapter import TransformersAdapter
from schemas.errors import ArtifactError, FeatureShapeError, StateError
from schemas.types import AnswerType
from tests.cloud.engines import THREAD
from tests.cloud.test_vlm import QUESTIONS, adapt_tiny, answer_from_pixels
from tests.cloud.tiny_models import FAMILIES, IMAGE_SIZE_PX, TOKEN_COUNT, TOKEN_DIM, tiny_gemma3

families = pytest.mark.parametrize("family", sorted(FAMILIES))


def frames_of(vlm: TransformersAdapter, count: int) -> NDArray[np.uint8]:
    """Noise of the model's own frame size."""
    shape = (count, vlm.frame_size_px, vlm.frame_size_px, 3)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def tiny(family: str, **how: Any) -> TransformersAdapter:
    found = adapt(*FAMILIES[family](), source=family, **how)
    assert isinstance(found, TransformersAdapter)
    return found


def test_each_registered_family_is_tested() -> None:
    assert set(KNOWN) == set(FAMILIES)


@families
def test_features_of_another_count_or_dimension_fail_and_name_both_shapes(family: str) -> None:
    vlm = tiny(family)
    backend = InProcessBackend(vlm, THREAD)
    right = (vlm.token_count, vlm.token_dim)
    for wrong in ((right[0] + 1, right[1]), (right[0], right[1] - 1)):
        item = InferenceItem(torch.zeros(wrong), "Is it red?", AnswerType.WORD)
        (result,) = asyncio.run(backend.submit([item]))
        assert isinstance(result, FeatureShapeError)
        assert (result.found, result.wanted) == (wrong, right)
        with pytest.raises(StateError, match=rf"\[B, {right[0]}, {right[1]}\], not \[1, {wrong[0]}, {wrong[1]}\]"):
            vlm.answer(torch.zeros(1, *wrong), QUESTIONS[:1])


@families
def test_a_frame_that_is_not_finite_fails_its_questions_and_no_others(family: str) -> None:
    vlm = tiny(family)
    sound = vlm.encode_pixels(frames_of(vlm, 2))
    for number in (float("nan"), float("inf")):
        sick = sound[0].clone()
        sick[-1, -1] = number
        asked = [sound[0], sick, sound[1], sick]
        items = [InferenceItem(frame, QUESTIONS[0][0], QUESTIONS[0][1]) for frame in asked]
        results = asyncio.run(InProcessBackend(vlm, THREAD).submit(items))
        assert all(isinstance(result, InferenceAnswer) for result in results)
        assert [result.finite for result in results if isinstance(result, InferenceAnswer)] == [True, False] * 2
        alone = [vlm.answer(frame[None], QUESTIONS[:1])[0] for frame in sound]
        assert [results[0].text, results[2].text] == [answer.text for answer in alone]  # type: ignore[union-attr]


@families
def test_a_saved_model_answers_as_from_pixels(family: str, tmp_path: Path) -> None:
    model, processor = FAMILIES[family]()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    vlm = load_model(tmp_path)
    assert isinstance(vlm, TransformersAdapter)
    assert vlm.family == family
    (frame,) = frames_of(vlm, 1)
    for text, answer_type in QUESTIONS:
        (found,) = vlm.answer(vlm.encode_pixels(frame[None]), [(text, answer_type)])
        stock = answer_from_pixels(vlm, frame, text, answer_type)
        assert (found.text, found.token_count) == (stock.text, stock.token_count)
        assert found.probability == pytest.approx(stock.probability, rel=1e-3)
        assert found.margin == pytest.approx(stock.margin, abs=1e-4)
        assert found.entropy_nats == pytest.approx(stock.entropy_nats, abs=1e-3)


@families
def test_a_model_that_ignores_features_is_refused_at_start(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a release of transformers did with the argument's former name."""
    model, processor = FAMILIES[family]()
    forward = model.forward

    def deaf(mm_encoder_outputs: Any = None, **inputs: Any) -> Any:
        output = mm_encoder_outputs["image"]
        output.pooler_output = (
            torch.zeros_like(output.pooler_output)
            if torch.is_tensor(output.pooler_output)
            else [torch.zeros_like(features) for features in output.pooler_output]
        )
        if "deepstack_features" in output:
            output.deepstack_features = [[0 * part for part in level] for level in output.deepstack_features]
        return forward(mm_encoder_outputs=mm_encoder_outputs, **inputs)

    monkeypatch.setattr(model, "forward", deaf)
    with pytest.raises(ArtifactError, match=r"of transformers \d+\.\d+.* takes mm_encoder_outputs and ignores it"):
        adapt_tiny(model, processor, source="tiny")


def test_a_model_that_fails_on_features_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = FAMILIES["llava"]()

    def failing(mm_encoder_outputs: Any = None, **inputs: Any) -> Any:
        raise RuntimeError(f"{len(inputs)} inputs and {mm_encoder_outputs is not None}")

    monkeypatch.setattr(model, "forward", failing)
    with pytest.raises(ArtifactError, match=f"cannot read {TOKEN_COUNT} visual tokens of {TOKEN_DIM} values"):
        adapt_tiny(model, processor, source="tiny")


def test_each_deepstack_level_counts() -> None:
    vlm = tiny("qwen3_vl")
    levels = 1 + len(vlm.model.config.vision_config.deepstack_visual_indexes)
    assert vlm.token_dim == levels * TOKEN_DIM
    features = vlm.encode_pixels(frames_of(vlm, 1))
    (right,) = vlm.answer(features, QUESTIONS[:1])
    for level in range(levels):
        shifted = features.clone()
        shifted[..., level * TOKEN_DIM : (level + 1) * TOKEN_DIM] += 1.0
        (found,) = vlm.answer(shifted, QUESTIONS[:1])
        assert found.probability != pytest.approx(right.probability, rel=1e-3), level


@pytest.mark.parametrize(
    ("family", "size_px", "tokens"), [("qwen2_5_vl", 32, 64), ("qwen3_vl", 96, 36), ("fast_vlm", 192, 36)]
)
def test_a_family_that_reads_any_size_answers_as_from_pixels_of_it(family: str, size_px: int, tokens: int) -> None:
    vlm = tiny(family, frame_size_px=size_px)
    assert (vlm.frame_size_px, vlm.token_count) == (size_px, tokens)
    (frame,) = frames_of(vlm, 1)
    (found,) = vlm.answer(vlm.encode_pixels(frame[None]), QUESTIONS[:1])
    stock = answer_from_pixels(vlm, frame, *QUESTIONS[0])
    assert found.text == stock.text
    assert found.probability == pytest.approx(stock.probability, rel=1e-3)


@pytest.mark.parametrize(
    ("family", "how", "problem"),
    [
        ("qwen3_vl", {"frame_size_px": 40}, "Qwen3-VL: it cannot read such frames .*40 is no multiple of 16 px"),
        ("fast_vlm", {"frame_size_px": 200}, "FastVLM: it cannot read such frames .*200 is no multiple of 32 px"),
        ("llava", {"frame_size_px": 64}, "LLaVA: it reads frames of 32 px, not of 64 px"),
        ("internvl", {"tiles_per_edge": 2}, "InternVL: it cannot read such frames .*cuts no tiles"),
        ("llava_next", {"tiles_per_edge": 2}, "LLaVA-NeXT: it cannot read such frames .*cuts no tiles"),
        ("llava_onevision", {"tiles_per_edge": 2}, "LLaVA-OneVision: it cannot read such frames .*cuts no tiles"),
        ("qwen2_5_vl", {"tiles_per_edge": 2}, "Qwen2.5-VL: it cannot read such frames .*cuts no tiles"),
    ],
)
def test_frames_that_a_family_does_not_read_are_refused_by_name(family: str, how: dict[str, Any], problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        tiny(family, **how)


def test_a_blip_2_with_an_encoder_decoder_is_refused_by_name() -> None:
    model, processor = FAMILIES["blip-2"]()
    model.config.text_config = T5Config()
    model.config.use_decoder_only_language_model = False
    with pytest.raises(ArtifactError, match=r"BLIP-2: .*'t5', an encoder-decoder.*: use one with OPT"):
        adapt(model, processor, source="tiny")


@pytest.mark.parametrize("window", [24, 64, 512])
def test_questions_beyond_a_window_of_attention_are_not_padded(window: int) -> None:
    vlm = adapt_tiny(*tiny_gemma3(window=window), source="tiny")
    (frame,) = frames_of(vlm, 1)
    asked = [(text, AnswerType.WORD) for text in ("What?", "How many?", "Which?", "x" * 90, "y" * 90, "z" * 91)]
    answers = vlm.answer(vlm.encode_pixels(frame[None]), asked, frames=[0] * len(asked))
    for (text, kind), found in zip(asked, answers, strict=True):
        stock = answer_from_pixels(vlm, frame, text, kind)
        assert found.text == stock.text
        assert found.probability == pytest.approx(stock.probability, rel=1e-3)


def test_a_tile_and_the_global_view_are_one_image() -> None:
    """A processor that would cut a square frame in two reads it as one tile and the view."""
    vlm = tiny("llava_next")
    assert vlm.token_count == 2 * TOKEN_COUNT + 4, "a token at the end of each row"
    features = vlm.encode_pixels(frames_of(vlm, 1))[0]
    rows = features[TOKEN_COUNT:].reshape(4, 5, TOKEN_DIM)
    torch.testing.assert_close(features[:TOKEN_COUNT], rows[:, :4].flatten(0, 1))
    assert vlm.frame_size_px == IMAGE_SIZE_PX


def test_a_processor_of_stills_is_saved_as_the_one_that_users_load(tmp_path: Path) -> None:
    _, processor = FAMILIES["qwen3_vl"]()
    processor.save_pretrained(tmp_path)
    assert '"Qwen3VLProcessor"' in (tmp_path / "processor_config.json").read_text()
    assert for_stills(Qwen3VLProcessor) is type(processor)
