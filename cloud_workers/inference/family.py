"""What differs between families of vision-language models, as data; most of it has a usual value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cloud_workers.inference.adapter import ModelAdapter
from cloud_workers.inference.prompts import PromptStyle, PromptTemplate, chat_prompt, set_image_splitting, tokenized
from schemas.errors import ArtifactError, ConfigError


class MakeAdapter(Protocol):
    """Makes the adapter of a loaded model."""

    def __call__(
        self,
        model: Any,
        processor: Any,
        family: ModelFamily,
        *,
        source: str,
        tiles_per_edge: int = 1,
        frame_size_px: int | None = None,
    ) -> ModelAdapter:
        """Arguments and errors as of `TransformersAdapter`."""


def as_list(features: Sequence[Tensor], config: Any) -> BaseModelOutputWithPooling:  # noqa: ARG001 - as all have it
    """Features ``[N, D]`` of each image, as most families take them."""
    return BaseModelOutputWithPooling(pooler_output=list(features))


def as_tensor(features: Sequence[Tensor], config: Any) -> BaseModelOutputWithPooling:  # noqa: ARG001
    """Features of all images in one tensor ``[B, N, D]``."""
    return BaseModelOutputWithPooling(pooler_output=torch.stack(list(features)))


def pooled(output: Any) -> Sequence[Tensor]:
    """Features ``[N, D]`` of each image, of what the model's own tower gives."""
    images: Sequence[Tensor] = output.pooler_output
    return images


def vision_image_size(config: Any) -> int:
    """Edge of the images that the vision tower reads; they are square."""
    size = config.vision_config.image_size
    return int(size if isinstance(size, int) else size[0])


def placeholder_id(config: Any) -> int:
    """Token that the prompt holds in place of each visual token."""
    return int(config.image_token_id)


def text_hidden_size(config: Any) -> int:
    """Width of the language model."""
    return int(config.get_text_config().hidden_size)


def nothing_refused(config: Any) -> str:  # noqa: ARG001
    """All models of the family are supported."""
    return ""


def unchanged(model: Any) -> Any:
    """The model itself."""
    return model


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """A family: models that one ``model_type`` of transformers names.

    How many visual tokens a frame has is read off the prompt that the model's own processor writes.

    Attributes:
        model_type: of its configuration.
        name: what users call it.
        note: what users of the family should know, for the table in the documentation.
        inject: from features ``[N, D]`` of each image and the configuration to what ``mm_encoder_outputs`` takes
            under ``image``.
        collect: the other way, from the output of ``get_image_features``.
        prompt: from a processor and a question to the text of the prompt, one image placeholder in it.
        read: from a processor and that text to its token ids, the placeholder not yet expanded.
        image_size_px: of its configuration.
        any_size: its tower reads frames of other sizes too, and `image_size_px` is what is usual.
        image_token_id: of its configuration.
        feature_dim: values of a visual token, D, of its configuration.
        frame_inputs: what its processor returns of the image itself; the features take their place.
        prompt_inputs: what else the model reads beside token ids, by token or by image.
        pin_size: changes a model and its processor, in memory, to read a frame of the given size as it is: neither
            resized nor cut into more tiles than one. Raises `ConfigError` where the model cannot read that size.
        refused: of a configuration, why a model of this family is not supported; empty where it is.
        reads_ahead: visual tokens attend to the question behind them, so that each question reads its frame anew.
        share_positions: changes a model that has read image prefixes for continuing with any number of rows.
        generator: of a model, the part that generates.
        cache: of an output, keys and values.
        adapter: where what is above does not do; None means `TransformersAdapter`.
    """

    model_type: str
    name: str
    note: str = ""
    inject: Callable[[Sequence[Tensor], Any], Any] = as_list
    collect: Callable[[Any], Sequence[Tensor]] = pooled
    prompt: Callable[[Any, str], str] = chat_prompt
    read: Callable[[Any, str], Sequence[int]] = tokenized
    image_size_px: Callable[[Any], int] = vision_image_size
    any_size: bool = False
    image_token_id: Callable[[Any], int] = placeholder_id
    feature_dim: Callable[[Any], int] = text_hidden_size
    frame_inputs: frozenset[str] = frozenset({"pixel_values", "pixel_attention_mask"})
    prompt_inputs: frozenset[str] = frozenset()
    pin_size: Callable[[Any, Any, int], None] | None = None
    refused: Callable[[Any], str] = nothing_refused
    reads_ahead: bool = False
    share_positions: Callable[[Any], Any] = unchanged
    generator: Callable[[Any], Any] = unchanged
    cache: Callable[[Any], Any] = attrgetter("past_key_values")
    adapter: MakeAdapter | None = None

    @property
    def plain_prompts(self) -> bool:
        """Whether its language model needs token ids and features only, and reads them causally."""
        return not (self.prompt_inputs or self.reads_ahead or self.generator is not unchanged)

    def frame_size(self, config: Any, wanted_px: int | None, *, source: str) -> int:
        """Edge of the images that its tower is to read.

        Args:
            config: of the model.
            wanted_px: None for the usual one.
            source: path or hub id, for error messages.

        Raises:
            ArtifactError: the model reads frames of another size.
        """
        usual = self.image_size_px(config)
        if wanted_px is None or wanted_px == usual or self.any_size:
            return wanted_px or usual
        raise ArtifactError(source, f"{self.name}: it reads frames of {usual} px, not of {wanted_px} px")

    def prompts(
        self, model: Any, processor: Any, *, source: str, tiles_per_edge: int = 1, frame_size_px: int | None = None
    ) -> PromptTemplate:
        """Prompts for one of its models.

        Args:
            model: changed in memory where its processor would cut a frame into tiles.
            processor: of the model; changed likewise.
            source: path or hub id, for error messages.
            tiles_per_edge: see `set_image_splitting`.
            frame_size_px: edge of a tile; None for the usual one.

        Raises:
            ArtifactError: this processor cuts no tiles, or writes prompts that no features can be put into.
        """
        tile_px = self.frame_size(model.config, frame_size_px, source=source)
        try:
            size_px = set_image_splitting(processor, tile_px, tiles_per_edge)
            if self.pin_size is not None:
                self.pin_size(model, processor, tile_px)
        except ConfigError as error:
            raise ArtifactError(source, f"{self.name}: it cannot read such frames ({error})") from None
        return PromptTemplate(
            processor,
            PromptStyle(self.prompt, self.read, self.frame_inputs, self.prompt_inputs),
            image_token_id=self.image_token_id(model.config),
            image_size_px=size_px,
            source=source,
        )
