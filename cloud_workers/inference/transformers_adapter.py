"""Adapter to an unmodified model of transformers: visual features and questions in, answers with probabilities out.

The features enter through ``mm_encoder_outputs``, the public argument of transformers >= 5.18 for features that were
encoded elsewhere. The former ``image_hidden_states`` is ignored without a word, so at load the model reads two features
and has to tell them apart.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig
from transformers.generation import LogitsProcessorList, StoppingCriteriaList

from cloud_workers.inference.adapter import Question
from cloud_workers.inference.backend import InferenceAnswer
from cloud_workers.inference.family import ModelFamily
from cloud_workers.inference.generation import (
    GreedyProbabilities,
    RowLimits,
    blocks,
    end_tokens,
    one_line,
    sliding_window,
    too_long,
    width_class,
)
from pipeline.protocol.worker_work import ANSWER_TOKENS
from schemas.errors import ArtifactError, StateError


class TransformersAdapter:
    """A model of any registered family whose prompt is an image prefix and a question that follows it.

    Decoding is greedy. The image prefix of a frame is read once for all of its questions: its keys and values are
    copied to a row for each question, which then costs its own tokens only.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        family: ModelFamily,
        *,
        source: str,
        tiles_per_edge: int = 1,
        frame_size_px: int | None = None,
    ) -> None:
        """Take a loaded model; :func:`cloud_workers.inference.registry.load_model` is the usual way.

        Args:
            model: a ``...ForConditionalGeneration`` in evaluation mode.
            processor: its processor; changed in place where frames are cut into tiles.
            family: what is special about it.
            source: path or hub id, for error messages.
            tiles_per_edge: 1 when a frame is one image of the model's input size; 2 and more when it is cut into so
                many tiles along each edge and a global view, as the processors of SmolVLM and Idefics3 do.
            frame_size_px: edge of a tile; None for the family's usual one.

        Raises:
            ArtifactError: The model cannot be fed with visual tokens by this adapter.
        """
        if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
            raise ArtifactError(
                source, f"{type(model).__name__} takes no mm_encoder_outputs: use transformers >= 5.18 and a VLM class"
            )
        self._model = model
        self._processor = processor
        self._family = family
        config = model.config
        # Every frame has the same N tokens: the codec has a fixed shape.
        self._prompts = family.prompts(
            model, processor, source=source, tiles_per_edge=tiles_per_edge, frame_size_px=frame_size_px
        )
        self.frame_size_px = self._prompts.image_size_px
        text_config = config.get_text_config()
        self.token_count: int = self._prompts.placeholder_count
        self.token_dim: int = family.feature_dim(config)
        # Beyond it a model answers nonsense or raises, after a time that grows with the square of the length.
        self._context_tokens: int | None = getattr(text_config, "max_position_embeddings", None)
        # Padding counts in a window of attention: beyond it a padded question would see less of its frame.
        window = sliding_window(text_config)
        longest_answer = max(ANSWER_TOKENS.values())
        self._unpadded_from = None if window is None else window - len(self._prompts.prefix) - longest_answer
        self._eos = end_tokens(model.generation_config, processor.tokenizer, source)
        pad = processor.tokenizer.pad_token_id
        self._pad = min(self._eos) if pad is None else int(pad)
        self._check_features_count(source)

    @property
    def family(self) -> str:
        """Its ``model_type``."""
        return self._family.model_type

    @property
    def model(self) -> Any:
        """The model itself, unmodified."""
        return self._model

    @property
    def processor(self) -> Any:
        """Its processor, as it was loaded but for the cutting into tiles."""
        return self._processor

    @torch.inference_mode()
    def encode_pixels(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """Visual features of whole frames; see :meth:`ModelAdapter.encode_pixels`."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise StateError(f"frames are uint8 [B, H, W, 3], not {frames.dtype} {list(frames.shape)}")
        # One image a sample: families disagree on how a flat list of images is grouped.
        pixels = self._processor.image_processor([[frame] for frame in frames], return_tensors="pt")
        device, dtype = self._model.device, self._model.dtype
        known = inspect.signature(self._model.get_image_features).parameters
        inputs = {name: value.to(device) for name, value in pixels.items() if name in known and torch.is_tensor(value)}
        inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        return torch.stack(list(self._family.collect(self._model.get_image_features(**inputs, return_dict=True))))

    @torch.inference_mode()
    def answer(
        self,
        tokens: torch.Tensor,
        questions: Sequence[Question],
        *,
        frames: Sequence[int] | None = None,
    ) -> list[InferenceAnswer]:
        """Answer questions about frames; see :meth:`ModelAdapter.answer`."""
        rows = list(range(len(questions))) if frames is None else list(frames)
        expected = (self.token_count, self.token_dim)
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != expected:
            raise StateError(f"tokens are [B, {expected[0]}, {expected[1]}], not {list(tokens.shape)}")
        if len(rows) != len(questions) or any(not 0 <= row < len(tokens) for row in rows):
            raise StateError(f"{len(questions)} questions name {len(rows)} frames, of {len(tokens)}")
        tokens = tokens.to(device=self._model.device, dtype=self._model.dtype)
        answers: list[InferenceAnswer | None] = [None] * len(questions)
        widths = [len(self._prompts.suffix(text)) for text, _ in questions]
        for index, ((_, answer_type), width) in enumerate(zip(questions, widths, strict=True)):
            tokens_needed = len(self._prompts.prefix) + width + ANSWER_TOKENS[answer_type]
            if problem := too_long(tokens_needed, self._context_tokens):
                answers[index] = _not_asked(problem)
        # Questions of one frame side by side, so that a block reads few frames; alike in length, so that few rows idle.
        order = sorted(
            (index for index, answer in enumerate(answers) if answer is None),
            key=lambda i: (width_class(widths[i], self._unpadded_from), ANSWER_TOKENS[questions[i][1]], rows[i]),
        )
        for block in blocks(order, widths, self._unpadded_from):
            found = self._answer_block(tokens, [rows[i] for i in block], [questions[i] for i in block])
            for index, answer in zip(block, found, strict=True):
                answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def _answer_block(self, tokens: torch.Tensor, rows: list[int], questions: list[Question]) -> list[InferenceAnswer]:
        suffixes = [self._prompts.suffix(text) for text, _ in questions]
        if self._family.reads_ahead:
            inputs = self._whole_prompts(tokens, rows, suffixes)
        else:
            inputs = self._continued_prefixes(tokens, rows, suffixes)
        limits = [ANSWER_TOKENS[answer_type] for _, answer_type in questions]
        probabilities = GreedyProbabilities()
        width = inputs["input_ids"].shape[1]
        sequences = self._family.generator(self._model).generate(
            **inputs,
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                max_new_tokens=max(limits),
                eos_token_id=sorted(self._eos),
                pad_token_id=self._pad,
            ),
            logits_processor=LogitsProcessorList([probabilities]),
            stopping_criteria=StoppingCriteriaList([RowLimits(limits, width)]),
        )
        generated = sequences[:, width:].tolist()
        log_probabilities = torch.stack(probabilities.steps, dim=1).tolist()
        return [
            self._read(ids[:limit], values, margin, entropy_nats)
            for ids, values, limit, (margin, entropy_nats) in zip(
                generated, log_probabilities, limits, probabilities.first.tolist(), strict=True
            )
        ]

    def _continued_prefixes(
        self, tokens: torch.Tensor, rows: list[int], suffixes: list[tuple[int, ...]]
    ) -> dict[str, Any]:
        """What `generate` takes: each frame is read once, its keys and values copied to a row for each question."""
        device = self._model.device
        distinct = sorted(set(rows))
        cache = self._family.cache(self._read_prefixes([tokens[row] for row in distinct]))
        self._family.share_positions(self._model)
        position = {row: index for index, row in enumerate(distinct)}
        order = [position[row] for row in rows]
        if order != list(range(len(distinct))):
            cache.batch_select_indices(torch.tensor(order, device=device))
        # Padding sits between prefix and question; the attention mask hides it and positions are counted from the mask.
        padded, mask = self._padded(suffixes)
        prefix = torch.tensor(self._prompts.prefix, device=device).expand(len(rows), -1)
        return {
            "input_ids": torch.cat([prefix, padded], dim=1),
            "attention_mask": torch.cat([torch.ones_like(prefix), mask], dim=1),
            "past_key_values": cache,
        }

    def _whole_prompts(self, tokens: torch.Tensor, rows: list[int], suffixes: list[tuple[int, ...]]) -> dict[str, Any]:
        """What `generate` takes where a frame cannot be read before its question is known."""
        input_ids, mask = self._padded([self._prompts.prefix + suffix for suffix in suffixes])
        # What follows the image is of one type, and so is what pads.
        further = {
            name: torch.full_like(input_ids, int(values[0, -1])) for name, values in self._prompts.inputs.items()
        }
        features = {"image": self._family.inject([tokens[row] for row in rows], self._model.config)}
        return {"input_ids": input_ids, "attention_mask": mask, "mm_encoder_outputs": features, **further}

    def _padded(self, sequences: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids padded on the left to one length, and their attention mask."""
        width = max(map(len, sequences))
        padded = torch.full((len(sequences), width), self._pad, dtype=torch.long)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for index, ids in enumerate(sequences):
            padded[index, width - len(ids) :] = torch.tensor(ids)
            mask[index, width - len(ids) :] = 1
        return padded.to(self._model.device), mask.to(self._model.device)

    def _read_prefixes(self, frames: Sequence[torch.Tensor]) -> Any:
        """The model's output for the prefix of each frame, logits of the last token only."""
        prefix = torch.tensor(self._prompts.prefix, device=self._model.device).expand(len(frames), -1)
        return self._model(
            pixel_values=None,
            input_ids=prefix,
            attention_mask=torch.ones_like(prefix),
            mm_encoder_outputs={"image": self._family.inject(frames, self._model.config)},
            use_cache=True,
            logits_to_keep=1,
            **self._prefix_inputs(len(frames)),
        )

    def _prefix_inputs(self, rows: int) -> Mapping[str, torch.Tensor]:
        """What the model reads beside the ids of prefixes: by token, cut to the prefix, or by image."""
        length = len(self._prompts.prefix)
        return {
            name: torch.from_numpy(values[:, :length].copy()).to(self._model.device).repeat(rows, 1)
            for name, values in self._prompts.inputs.items()
        }

    @torch.inference_mode()
    def _check_features_count(self, source: str) -> None:
        """Read two features and compare what follows.

        Raises:
            ArtifactError: the model fails on them, or drops them.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (2, self.token_count, self.token_dim)
        features = torch.randn(shape, generator=generator).to(device=self._model.device, dtype=self._model.dtype)
        made = f"{type(self._model).__name__} of transformers {version('transformers')}"
        try:
            first, second = self._read_prefixes(list(features)).logits
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            raise ArtifactError(
                source,
                f"{made} cannot read {self.token_count} visual tokens of {self.token_dim} values "
                f"({type(error).__name__}: {error}): take all of its files from one model, and the transformers that "
                "pyproject.toml asks for",
            ) from error
        if torch.equal(first, second):
            raise ArtifactError(
                source,
                f"{made} takes mm_encoder_outputs and ignores it: install the version that pyproject.toml asks for",
            )

    def _read(
        self, ids: list[int], log_probabilities: list[float], margin: float, entropy_nats: float
    ) -> InferenceAnswer:
        count = next((index + 1 for index, token in enumerate(ids) if token in self._eos), len(ids))
        text = self._processor.tokenizer.decode(ids[:count], skip_special_tokens=True)
        total = math.fsum(log_probabilities[:count])
        # The sum of logarithms of numbers up to 1 may end a rounding above 0. The least of 0 and NaN would be 0.
        probability = math.exp(min(total, 0.0)) if math.isfinite(total) else math.nan
        return InferenceAnswer(one_line(text), probability, count, margin, entropy_nats)


def _not_asked(problem: str) -> InferenceAnswer:
    return InferenceAnswer("", math.nan, 0, math.nan, math.nan, problem)
