"""Prompts as a language model reads them behind its embedding: tokens of the text, visual features in their places."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

from cloud_workers.inference.family import ModelFamily
from cloud_workers.inference.generation import end_tokens
from cloud_workers.inference.prompts import PromptTemplate
from cloud_workers.inference.registry import LOAD_ERRORS, family_of, unusable
from cloud_workers.inference.still_processors import load_processor
from pipeline.codec.model_files import check_model_files
from schemas.errors import ArtifactError, ConfigError

_TABLE = "embed_tokens.weight"


@dataclass(frozen=True, slots=True, eq=False)
class PromptEmbeddings:
    """What makes prompts for a model whose weights are elsewhere.

    Attributes:
        family: of the model.
        prompts: its prompts as token ids.
        table: embedding of the language model ``[V, D]``.
        end_tokens: ids that end an answer.
        context_tokens: that the model reads at most; None where it does not say.
        prefix: embeddings of the prompt up to the last visual token ``[P, D]``, the visual tokens not yet in place.
        places: which of them are visual tokens, ``[P]``.
    """

    family: ModelFamily
    prompts: PromptTemplate
    table: torch.Tensor
    end_tokens: frozenset[int]
    context_tokens: int | None
    prefix: torch.Tensor
    places: torch.Tensor

    def length(self, question: str) -> int:
        """Tokens of a prompt, visual ones included."""
        return len(self.prompts.prefix) + len(self.prompts.suffix(question))

    def of(self, features: torch.Tensor, question: str) -> torch.Tensor:
        """The prompt of a frame and a question.

        Args:
            features: ``[N, D]``.
            question: its text.

        Returns:
            ``[T, D]`` in the type of the table.
        """
        prefix = self.prefix.clone()
        prefix[self.places] = features.to(prefix.dtype)
        suffix = torch.tensor(self.prompts.suffix(question))
        return torch.cat([prefix, self.table[suffix]])


def check_family(config: Any, source: str) -> ModelFamily:
    """The family of a model, if a prompt of embeddings is all that its language model reads.

    Raises:
        ArtifactError: it is not known.
        ConfigError: its language model reads more: positions of several dimensions, types of tokens.
    """
    family = family_of(config, source)
    if not family.plain_prompts:
        raise ConfigError(
            "worker.vllm",
            f"{family.name} reads more than embeddings (positions of its own, or types of tokens), which vLLM takes "
            "none of: leave the key out to run the model in this process",
        )
    return family


def load_prompt_embeddings(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    tiles_per_edge: int = 1,
    frame_size_px: int | None = None,
) -> PromptEmbeddings:
    """Read a model's processor and embedding table, and nothing else of its weights.

    Args:
        folder: in `save_pretrained` format.
        dtype: of the prompts.
        tiles_per_edge: see `TransformersAdapter`.
        frame_size_px: see `TransformersAdapter`.

    Raises:
        ArtifactError: it is damaged, of a family that is not known, or has no such table.
        ConfigError: its prompts are more than embeddings.
    """
    source = str(folder)
    check_model_files(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        family = check_family(config, source)
        processor = load_processor(source, config)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        try:
            generation = GenerationConfig.from_pretrained(folder)
        except OSError:
            generation = model.generation_config
        table = _table(folder, family.feature_dim(config)).to(dtype)
    except LOAD_ERRORS as error:
        raise ArtifactError(source, unusable(error, local=True)) from error
    prompts = family.prompts(
        model, processor, source=source, tiles_per_edge=tiles_per_edge, frame_size_px=frame_size_px
    )
    ids = torch.tensor(prompts.prefix)
    places = ids == family.image_token_id(config)
    # The placeholder may be no word of the table.
    prefix = table[ids.where(~places, 0)]
    context_tokens = getattr(config.get_text_config(), "max_position_embeddings", None)
    return PromptEmbeddings(
        family,
        prompts,
        table,
        end_tokens(generation, processor.tokenizer, source),
        context_tokens,
        prefix,
        places,
    )


def _table(folder: Path, width: int) -> torch.Tensor:
    """The one embedding table of the language model in a folder's weights.

    Raises:
        ArtifactError: there is none, or several.
    """
    found: list[torch.Tensor] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as weights:
                found += [
                    weights.get_tensor(key)
                    for key in weights.keys()  # noqa: SIM118 - it is no mapping
                    if key.endswith(_TABLE) and weights.get_slice(key).get_shape()[1:] == [width]
                ]
        except SafetensorError as error:
            raise ArtifactError(str(path), f"cannot be read ({error}): copy the model again") from error
    if len(found) != 1:
        raise ArtifactError(
            str(folder), f"its weights hold {len(found)} tables *{_TABLE} of width {width}, one is needed for vLLM"
        )
    return found[0]
