"""Parts that some families need: how they take features, write prompts and size their frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers.models.blip_2.modeling_blip_2 import BaseModelOutputWithVisionQformerOutputs
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from schemas.errors import ConfigError

_MERGED_PATCHES_PER_EDGE: Final = 16
"""256 visual tokens a frame, as many as the other families have."""


def merged_grid_size(config: Any) -> int:
    """Edge of a frame of 16 x 16 merged patches, for towers that read any size."""
    vision = config.vision_config
    return int(_MERGED_PATCHES_PER_EDGE * vision.patch_size * vision.spatial_merge_size)


def position_grid_size(config: Any) -> int:
    """Edge of a frame whose patches are those of the tower's grid of learned positions."""
    vision = config.vision_config
    return math.isqrt(int(vision.num_position_embeddings)) * int(vision.patch_size)


def inject_deepstack(features: Sequence[Tensor], config: Any) -> BaseModelOutputWithDeepstackFeatures:
    """Features ``[N, (1 + n) D]``: those of the last layer and of n deeper ones, side by side."""
    parts = [frame.chunk(1 + len(config.vision_config.deepstack_visual_indexes), dim=-1) for frame in features]
    last, *deeper = zip(*parts, strict=True)
    return BaseModelOutputWithDeepstackFeatures(
        pooler_output=list(last), deepstack_features=[list(level) for level in deeper]
    )


def collect_deepstack(output: Any) -> Sequence[Tensor]:
    """The other way: ``[N, (1 + n) D]`` of each image."""
    return [torch.cat(parts, dim=-1) for parts in zip(output.pooler_output, *output.deepstack_features, strict=True)]


def deepstack_dim(config: Any) -> int:
    """Values of a token: of the last layer and of each deeper one."""
    return int(config.get_text_config().hidden_size) * (1 + len(config.vision_config.deepstack_visual_indexes))


def one_rope_delta(model: Any) -> None:
    """Frames of one size move positions by one amount; kept by frame, it does not fit the rows of questions."""
    model.model.rope_deltas = model.model.rope_deltas[:1]


def one_grid(model: Any, processor: Any, size_px: int) -> None:
    """Leave a single area to choose, so that a square frame of this size is not resized.

    Args:
        model: as it is.
        processor: changed in memory.
        size_px: edge of the frame.

    Raises:
        ConfigError: it is no number of merged patches.
    """
    vision = model.config.vision_config
    merged_px = int(vision.patch_size * vision.spatial_merge_size)
    if size_px % merged_px:
        raise ConfigError("image_size_px", f"{size_px} is no multiple of {merged_px} px, a token of this model")
    images = processor.image_processor
    images.size = type(images.size)(shortest_edge=size_px**2, longest_edge=size_px**2)


def one_tile(model: Any, processor: Any, size_px: int) -> None:
    """Leave a single size to choose from, so that a square frame is one tile and the global view.

    Args:
        model: changed in memory.
        processor: changed in memory.
        size_px: edge of the tile.
    """
    for part in (model.config, processor.image_processor):
        part.image_grid_pinpoints = [[size_px, size_px]]


def one_square(model: Any, processor: Any, size_px: int) -> None:
    """Let the processor of a convolutional tower take a square frame of this size as it is.

    Args:
        model: as it is.
        processor: changed in memory.
        size_px: edge of the frame.

    Raises:
        ConfigError: it is no multiple of what one visual token shows.
    """
    usual_px, stride_px = int(model.config.vision_config.image_size), int(processor.patch_size)
    if size_px % stride_px:
        raise ConfigError("image_size_px", f"{size_px} is no multiple of {stride_px} px, a token of this model")
    if size_px != usual_px:
        images = processor.image_processor
        images.size = type(images.size)(height=size_px, width=size_px)
        images.crop_size = type(images.crop_size)(height=size_px, width=size_px)


def paligemma_prompt(processor: Any, question: str) -> str:  # noqa: ARG001 - as all have it
    """Its checkpoints have no chat template; those that answer questions want this."""
    return f"<image>answer en {question}"


def paligemma_ids(processor: Any, text: str) -> Sequence[int]:
    """Ids of a prompt as its processor lays it out: the begin token behind the image, a new line at the end."""
    tokenizer = processor.tokenizer
    ids: Sequence[int] = tokenizer(text.replace("<image>", f"<image>{tokenizer.bos_token}", 1) + "\n")["input_ids"]
    return ids


def blip2_prompt(processor: Any, question: str) -> str:  # noqa: ARG001
    """What its models were trained on; the processor puts the image before it."""
    return f"Question: {question} Answer:"


def blip2_ids(processor: Any, text: str) -> Sequence[int]:
    """Ids of a prompt as its processor lays it out: the image before the begin token."""
    image = processor.image_token
    marker = processor.tokenizer.convert_tokens_to_ids(getattr(image, "content", image))
    return [marker, *processor.tokenizer(text)["input_ids"]]


def blip2_features(features: Sequence[Tensor], config: Any) -> BaseModelOutputWithVisionQformerOutputs:  # noqa: ARG001
    """What its connector gives; that of its tower and its query former is read by nobody."""
    return BaseModelOutputWithVisionQformerOutputs(pooler_output=torch.stack(list(features)))


def opt_only(config: Any) -> str:
    """Why a BLIP-2 is refused: encoder-decoder language models keep no prefix to continue."""
    if config.use_decoder_only_language_model:
        return ""
    return (
        f"its language model is of type {config.text_config.model_type!r}, an encoder-decoder, which takes no features "
        "through mm_encoder_outputs in generate: use one with OPT"
    )
