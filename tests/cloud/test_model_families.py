"""A family that the registry does not hold yet, added as a contributor would: by one entry."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from cloud_workers.inference.adapter import ModelAdapter
from cloud_workers.inference.backend import InferenceAnswer, InferenceItem
from cloud_workers.inference.family import ModelFamily, as_tensor
from cloud_workers.inference.in_process import InProcessBackend
from cloud_workers.inference.registry import FAMILIES, adapt, load_model
from cloud_workers.inference.transformers_adapter import TransformersAdapter
from schemas.errors import ArtifactError, InferenceError
from schemas.types import AnswerType
from tests.cloud import tiny_models
from tests.cloud.engines import THREAD
from tests.cloud.test_vlm import QUESTIONS, answer_from_pixels, frames
from tests.cloud.tiny_models import IMAGE_SIZE_PX, PATCH_PX, TOKEN_COUNT, TOKEN_DIM, tiny_tokenizer

VIP_LLAVA = ModelFamily("vipllava", "VipLLaVA", inject=as_tensor)
"""All that the family takes: its tower gives one tensor, its prompt is LLaVA's."""


def tiny_vipllava(seed: int = 0) -> tuple[Any, Any]:
    """A `VipLlavaForConditionalGeneration` and its processor."""
    tokenizer = tiny_tokenizer()
    square = {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=square, crop_size=square),
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tiny_models._LLAVA_TEMPLATE,
    )
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(**tiny_models._vision_sizes()),
        text_config=tiny_models._text_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=[-2, -1],
    )
    torch.manual_seed(seed)
    return tiny_models._finish(VipLlavaForConditionalGeneration(config), tokenizer), processor


@pytest.fixture
def vip_llava(monkeypatch: pytest.MonkeyPatch) -> TransformersAdapter:
    monkeypatch.setitem(FAMILIES, VIP_LLAVA.model_type, VIP_LLAVA)
    adapter = adapt(*tiny_vipllava(), source="tiny")
    assert isinstance(adapter, TransformersAdapter)
    return adapter


def test_a_family_that_is_not_known_is_refused_and_told_which_are(tmp_path: Path) -> None:
    model, processor = tiny_vipllava()
    with pytest.raises(ArtifactError, match=r"of type 'vipllava', which is not supported: .*smolvlm.*fast_vlm"):
        adapt(model, processor, source="tiny")
    model.config.save_pretrained(tmp_path)
    # The weights are not even looked for.
    with pytest.raises(ArtifactError, match="of type 'vipllava', which is not supported"):
        load_model(tmp_path)


def test_one_entry_gives_the_answers_of_the_pixel_path(vip_llava: TransformersAdapter) -> None:
    pixels = frames(3)
    features = vip_llava.encode_pixels(pixels)
    assert features.shape == (3, TOKEN_COUNT, TOKEN_DIM)
    items = [
        InferenceItem(frame, text, answer_type) for frame, (text, answer_type) in zip(features, QUESTIONS, strict=True)
    ]
    backend = InProcessBackend(vip_llava, THREAD, fingerprint="f")
    assert (backend.capabilities.family, backend.capabilities.token_count) == ("vipllava", TOKEN_COUNT)
    results = asyncio.run(backend.submit(items))
    for frame, (text, answer_type), result in zip(pixels, QUESTIONS, results, strict=True):
        stock = answer_from_pixels(vip_llava, frame, text, answer_type)
        assert isinstance(result, InferenceAnswer)
        assert (result.text, result.token_count) == (stock.text, stock.token_count)
        assert result.probability == pytest.approx(stock.probability, rel=1e-3)


def test_a_batch_of_the_new_family_answers_as_each_question_alone(vip_llava: TransformersAdapter) -> None:
    features = vip_llava.encode_pixels(frames(2))
    asked = [(row, question) for row in (1, 0, 1) for question in QUESTIONS]
    together = vip_llava.answer(features, [question for _, question in asked], frames=[row for row, _ in asked])
    alone = [vip_llava.answer(features[row : row + 1], [question])[0] for row, question in asked]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def test_a_saved_model_of_the_new_family_loads_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vip_llava: TransformersAdapter
) -> None:
    model, processor = tiny_vipllava()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded: ModelAdapter = load_model(tmp_path)
    pixels = frames(1)
    (found,) = loaded.answer(loaded.encode_pixels(pixels), QUESTIONS[:1])
    (wanted,) = vip_llava.answer(vip_llava.encode_pixels(pixels), QUESTIONS[:1])
    assert found.text == wanted.text


class Doubled(TransformersAdapter):
    """Of a family whose features are twice as wide, the second half added to the first one on the way in."""


def test_a_family_may_read_features_of_another_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a model whose tower gives several tensors an image: they travel side by side."""

    def inject(features: Any, config: Any) -> Any:
        return as_tensor([frame[:, :TOKEN_DIM] + frame[:, TOKEN_DIM:] for frame in features], config)

    def collect(output: Any) -> Any:
        return [torch.cat([frame, torch.zeros_like(frame)], dim=1) for frame in output.pooler_output]

    doubled = ModelFamily(
        "vipllava",
        "doubled",
        inject=inject,
        collect=collect,
        feature_dim=lambda config: 2 * TOKEN_DIM,
        adapter=Doubled,
    )
    monkeypatch.setitem(FAMILIES, "vipllava", VIP_LLAVA)
    plain = adapt(*tiny_vipllava(), source="tiny")
    monkeypatch.setitem(FAMILIES, "vipllava", doubled)
    wide = adapt(*tiny_vipllava(), source="tiny")
    assert isinstance(wide, Doubled)
    assert (wide.token_count, wide.token_dim) == (TOKEN_COUNT, 2 * TOKEN_DIM)
    pixels = frames(2)
    assert wide.encode_pixels(pixels).shape == (2, TOKEN_COUNT, 2 * TOKEN_DIM)
    asked = [QUESTIONS[0], QUESTIONS[2]]
    found = wide.answer(wide.encode_pixels(pixels), asked)
    assert [answer.text for answer in found] == [a.text for a in plain.answer(plain.encode_pixels(pixels), asked)]
    item = InferenceItem(plain.encode_pixels(pixels)[0], "Is it red?", AnswerType.WORD)
    (result,) = asyncio.run(InProcessBackend(wide, THREAD).submit([item]))
    assert isinstance(result, InferenceError), "half of a frame is none"


def test_a_family_may_write_prompts_without_a_chat_template(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_vipllava()
    processor.chat_template = None
    monkeypatch.setitem(FAMILIES, "vipllava", VIP_LLAVA)
    with pytest.raises(ArtifactError, match="chat template"):
        adapt(model, processor, source="tiny")
    plain = ModelFamily(
        "vipllava", "plain", inject=as_tensor, prompt=lambda processor, question: f"<image>\n{question} Answer:"
    )
    monkeypatch.setitem(FAMILIES, "vipllava", plain)
    adapter = adapt(model, processor, source="tiny")
    pixels = np.zeros((1, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), dtype=np.uint8)
    (answer,) = adapter.answer(adapter.encode_pixels(pixels), QUESTIONS[:1])
    assert answer.finite
