"""The detailed operating point: frames cut into tiles with a global view, as SmolVLM's processor does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import Idefics3ImageProcessorPil
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cloud_workers.inference.registry import adapt
from schemas.errors import ArtifactError
from schemas.types import AnswerType
from tests.cloud.tiny_models import FAMILIES, IMAGE_SIZE_PX, TOKEN_COUNT, TOKEN_DIM
from training.codec.fit.export import export_encoder
from training.codec.fit.klt import fit_klt
from training.codec.image_path import PixelsToTokens, tiles_and_global_view

SPLITTING = ("idefics3", "smolvlm")


def random_frames(count: int, size_px: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)


def boxed(family: str) -> tuple[Any, Any]:
    """A tiny model whose processor reduces by boxes, as the bundled one's does."""
    model, processor = FAMILIES[family]()
    processor.image_processor.resample = Image.Resampling.BOX
    return model, processor


@pytest.mark.parametrize("tiles", [2, 3, 4])
def test_tiles_and_global_view_are_those_of_the_processor_to_the_bit(tiles: int) -> None:
    frames = random_frames(2, tiles * 32)
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": tiles * 32},
        max_image_size={"longest_edge": 32},
        do_image_splitting=True,
        resample=Image.Resampling.BOX,
        do_rescale=False,
        do_normalize=False,
    )
    expected = processor([[frame] for frame in frames], return_tensors="np")["pixel_values"]
    found = tiles_and_global_view(torch.from_numpy(frames), tiles).reshape(2, tiles**2 + 1, 32, 32, 3)
    np.testing.assert_array_equal(found.permute(0, 1, 4, 2, 3).numpy(), expected)


@pytest.mark.parametrize("family", SPLITTING)
def test_the_image_path_of_tiles_is_the_models_own_and_can_be_exported(family: str, tmp_path: Any) -> None:
    model, processor = boxed(family)
    frames = random_frames(12, 2 * IMAGE_SIZE_PX)
    image_path = PixelsToTokens(model, processor.image_processor, tiles_per_edge=2)
    tokens = image_path.of_frames(frames)
    assert tokens.shape == (12, 5 * TOKEN_COUNT, TOKEN_DIM)
    vlm = adapt(model, processor, source=family, tiles_per_edge=2)
    assert (vlm.token_count, vlm.token_dim) == tokens.shape[1:]
    torch.testing.assert_close(tokens, vlm.encode_pixels(frames), atol=1e-5, rtol=1e-5)
    parity = export_encoder(image_path, fit_klt(tokens, 4, 16, step=0.5), tmp_path / "encoder.onnx", frames)
    assert parity.unexplained == 0
    assert parity.differing < 0.005 * parity.symbols


@pytest.mark.parametrize("family", SPLITTING)
def test_injected_tokens_of_tiles_give_the_pixel_paths_logits(family: str) -> None:
    model, processor = boxed(family)
    vlm = adapt(model, processor, source=family, tiles_per_edge=2)
    (frame,) = random_frames(1, 2 * IMAGE_SIZE_PX)
    content = [{"type": "image"}, {"type": "text", "text": "Is it red?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=prompt, images=[frame], return_tensors="pt")
    placeholders = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    assert len(placeholders) == 5 * TOKEN_COUNT
    assert (placeholders.diff() > 1).sum() >= 4, "tiles are set apart in the prompt"
    tokens = vlm.encode_pixels(frame[None])
    features = BaseModelOutputWithPooling(pooler_output=[tokens[0]])
    with torch.no_grad():
        pixels = model(**inputs).logits
        injected = model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": features}).logits
        moved = BaseModelOutputWithPooling(pooler_output=[tokens[0].flip(0)])
        other = model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": moved}).logits
    torch.testing.assert_close(injected, pixels, atol=0, rtol=0)
    assert not torch.allclose(other, pixels)


def test_questions_about_tiles_are_answered_as_from_pixels() -> None:
    model, processor = boxed("smolvlm")
    vlm = adapt(model, processor, source="smolvlm", tiles_per_edge=2)
    frames = random_frames(2, 2 * IMAGE_SIZE_PX)
    found = vlm.answer(vlm.encode_pixels(frames), [("Is it red?", AnswerType.YES_NO)] * 2)
    content = [{"type": "image"}, {"type": "text", "text": "Is it red?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    for frame, answer in zip(frames, found, strict=True):
        inputs = processor(text=prompt, images=[frame], return_tensors="pt")
        made = model.generate(**inputs, do_sample=False, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
        assert answer.token_count == len(made)


def test_a_processor_that_cuts_no_tiles_is_named() -> None:
    model, processor = FAMILIES["llava"]()
    with pytest.raises(ArtifactError, match=r"LLaVA: it cannot read such frames .*cuts no tiles"):
        adapt(model, processor, source="llava", tiles_per_edge=2)
