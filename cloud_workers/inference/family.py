"""What differs between families of vision-language models, as data; most of it has a usual value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cloud_workers.inference.adapter import ModelAdapter
from cloud_workers.inference.prompts import PromptTemplate, chat_prompt, set_image_splitting
from schemas.errors import ArtifactError, ConfigError


class MakeAdapter(Protocol):
    """Makes the adapter of a loaded model."""

    def __call__(
        self, model: Any, processor: Any, family: ModelFamily, *, source: str, tiles_per_edge: int = 1
    ) -> ModelAdapter:
        """Arguments and errors as of `TransformersAdapter`."""


def as_list(features: Sequence[Tensor]) -> BaseModelOutputWithPooling:
    """Features ``[N, D]`` of each image, as most families take them."""
    return BaseModelOutputWithPooling(pooler_output=list(features))


def as_tensor(features: Sequence[Tensor]) -> BaseModelOutputWithPooling:
    """Features of all images in one tensor ``[B, N, D]``."""
    return BaseModelOutputWithPooling(pooler_output=torch.stack(list(features)))


def pooled(output: Any) -> Sequence[Tensor]:
    """Features ``[N, D]`` of each image, of what the model's own tower gives."""
    images: Sequence[Tensor] = output.pooler_output
    return images


def vision_image_size(config: Any) -> int:
    """Edge of the images that the vision tower reads."""
    return int(config.vision_config.image_size)


def placeholder_id(config: Any) -> int:
    """Token that the prompt holds in place of each visual token."""
    return int(config.image_token_id)


def text_hidden_size(config: Any) -> int:
    """Width of the language model."""
    return int(config.get_text_config().hidden_size)


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """A family: models that one ``model_type`` of transformers names.

    How many visual tokens a frame has is read off the prompt that the model's own processor writes.

    Attributes:
        model_type: of its configuration.
        name: what users call it.
        inject: from features ``[N, D]`` of each image to what ``mm_encoder_outputs`` takes under ``image``.
        collect: the other way, from the output of ``get_image_features``.
        prompt: from a processor and a question to the text of the prompt, one image placeholder in it.
        image_size_px: of its configuration.
        image_token_id: of its configuration.
        feature_dim: values of a visual token, D, of its configuration.
        adapter: where what is above does not do; None means `TransformersAdapter`.
    """

    model_type: str
    name: str
    inject: Callable[[Sequence[Tensor]], Any] = as_list
    collect: Callable[[Any], Sequence[Tensor]] = pooled
    prompt: Callable[[Any, str], str] = chat_prompt
    image_size_px: Callable[[Any], int] = vision_image_size
    image_token_id: Callable[[Any], int] = placeholder_id
    feature_dim: Callable[[Any], int] = text_hidden_size
    adapter: MakeAdapter | None = None

    def prompts(self, processor: Any, config: Any, *, source: str, tiles_per_edge: int = 1) -> PromptTemplate:
        """Prompts for its models.

        Args:
            processor: of the model; changed in place where frames are cut into tiles.
            config: of the model.
            source: path or hub id, for error messages.
            tiles_per_edge: see `set_image_splitting`.

        Raises:
            ArtifactError: this processor cuts no tiles, or writes prompts that no features can be put into.
        """
        try:
            size_px = set_image_splitting(processor, self.image_size_px(config), tiles_per_edge)
        except ConfigError as error:
            raise ArtifactError(source, f"it cannot read frames in tiles ({error})") from None
        return PromptTemplate(
            processor,
            write=self.prompt,
            image_token_id=self.image_token_id(config),
            image_size_px=size_px,
            source=source,
        )
