"""Build the third reference VLM of stock classes: `FastVlmForConditionalGeneration`, `EfficientNetModel`, Llama."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from transformers import (
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pipeline.scenes.everyday import sample_everyday_scene
from pipeline.scenes.everyday_phrasings import TRAINED_PHRASINGS
from pipeline.scenes.phrasings import DESCRIBE_PHRASINGS, FRAME_PHRASINGS, write
from training.reference_vlm.captions import CAPTION_PROMPT, caption_of, description_of
from training.reference_vlm.pretrained.imagenet import IMAGENET_MEAN, IMAGENET_STD, STRIDE, load_imagenet, tower_config
from training.reference_vlm.tokenizer import CHAT_TEMPLATE, IMAGE, train_tokenizer
from training.reference_vlm.vocabulary import Vocabulary

PLACES: Final = 24
"""Rows and columns that have a word of their own: eight in each third, each narrower than the margin of a relation."""
COLUMN_PLACES: Final = tuple(f"column{letter}" for letter in ascii_lowercase[:PLACES])
ROW_PLACES: Final = tuple(f"row{letter}" for letter in ascii_lowercase[:PLACES])
PHOTO_CLASSES: Final = (
    ("airplane", "airplanes"), ("automobile", "automobiles"), ("bird", "birds"), ("cat", "cats"), ("deer", "deer"),
    ("dog", "dogs"), ("frog", "frogs"), ("horse", "horses"), ("ship", "ships"), ("truck", "trucks"),
)  # fmt: skip
"""Classes of CIFAR-10: the vocabulary has them whether photographs are trained or not, so that they can be later."""


@dataclass(frozen=True, slots=True)
class VlmSize:
    """Architecture of the language model; the tower's is given.

    Attributes:
        image_size: Height and width of a frame in pixels, a multiple of 32.
        width: Of the language model, and so of the visual tokens.
        heads: Its attention heads.
        layers: Its layers.
    """

    image_size: int = 256
    width: int = 192
    heads: int = 6
    layers: int = 6

    @property
    def grid(self) -> int:
        """Visual tokens along one edge."""
        return self.image_size // STRIDE

    @property
    def image_tokens(self) -> int:
        """Visual tokens of a frame."""
        return self.grid**2


def third_vocabulary() -> Vocabulary:
    """Rendered kinds and the classes of CIFAR-10."""
    return Vocabulary.of(PHOTO_CLASSES)


def _corpus(vocabulary: Vocabulary) -> Iterator[str]:
    words = [*vocabulary.single_tokens, *COLUMN_PLACES, *ROW_PLACES]
    for _ in range(3000):
        for word in words:
            yield f" {word}"
    for _ in range(100):
        yield "User: \nAssistant:"
        for prompt in (CAPTION_PROMPT, *DESCRIBE_PHRASINGS):
            yield f" {prompt}"
    for times in range(20):
        kind = vocabulary.kinds[times % 18]
        for texts in (*TRAINED_PHRASINGS.values(), FRAME_PHRASINGS):
            for template in texts:
                text = write(template, kind, "red", "blue box", "left of")
                yield f" {text[0].upper()}{text[1:]}"
                yield f" {text[0].lower()}{text[1:]}"
    for seed in range(200):
        scene = sample_everyday_scene(seed)
        yield caption_of(scene)
        yield f" {description_of(scene)}"


def third_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: that of the second reference VLM, trained with more wordings and with words for places."""
    vocabulary = third_vocabulary()
    return train_tokenizer(vocabulary, _corpus(vocabulary))


def build_model(
    size: VlmSize, tokenizer: PreTrainedTokenizerFast, *, seed: int, pretrained: bool = True
) -> FastVlmForConditionalGeneration:
    """Create the model; its language model and projector are untrained.

    Args:
        size: Architecture.
        tokenizer: Gives the vocabulary and the special ids.
        seed: Seed of the weights.
        pretrained: Give the tower its ImageNet weights, which need the package of the extra `train`.
    """
    torch.manual_seed(seed)
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text_config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=size.width,
        intermediate_size=3 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        **ids,
    )
    config = FastVlmConfig(
        vision_config=tower_config(size.image_size),
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=size.image_tokens,
        tie_word_embeddings=True,
        **ids,
    )
    model = FastVlmForConditionalGeneration(config)
    embedding = model.get_input_embeddings().weight
    torch.nn.init.normal_(embedding, std=size.width**-0.5)
    _order_places(embedding, tokenizer)
    # With embeddings of norm one the first logits would be huge; the final norm's gain tames them.
    torch.nn.init.constant_(model.model.language_model.norm.weight, 0.25)
    model.tie_weights()
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=48, **ids)
    if pretrained:
        load_imagenet(model.model.vision_tower)
    return model


@torch.no_grad()
def _order_places(embedding: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start the words of places on a smooth curve: what is near in the frame is near in the space of words."""
    width = embedding.shape[1]
    share = torch.arange(PLACES) / PLACES
    for words in (COLUMN_PLACES, ROW_PLACES):
        waves = torch.cat(
            [f(math.pi * k * share)[:, None] / k for k in (1, 2, 4) for f in (torch.cos, torch.sin)], dim=1
        )
        curve = waves @ torch.randn(waves.shape[1], width)
        ids = torch.tensor([single_token(tokenizer, f" {word}") for word in words])
        embedding[ids] = curve / curve.norm(dim=1, keepdim=True)


def single_token(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """The id of a text that is one token.

    Raises:
        ValueError: It is several.
    """
    ids = tokenizer(text)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"{text!r} is {len(ids)} tokens, not one")
    return int(ids[0])


def build_processor(tokenizer: PreTrainedTokenizerFast, size: VlmSize) -> LlavaProcessor:
    """Processor with the chat template: one square view, reduced by averaging, ImageNet's mean and deviation."""
    edge = {"height": size.image_size, "width": size.image_size}
    images = CLIPImageProcessorPil(
        size=edge,
        do_center_crop=False,
        crop_size=edge,
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
        resample=Image.Resampling.BOX,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def image_prefix(processor: Any, size: VlmSize) -> tuple[int, ...]:
    """Token ids from the start of a prompt to the last placeholder, as the processor writes them."""
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    blank = np.zeros((size.image_size, size.image_size, 3), dtype=np.uint8)
    ids = [int(token) for token in processor(text=text, images=[blank], return_tensors="np")["input_ids"][0]]
    image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE)
    return tuple(ids[: len(ids) - ids[::-1].index(image_id)])
