"""Adapter to an unmodified vision-language model: visual tokens and questions in, answers with their probability out.

The tokens enter through ``mm_encoder_outputs``, the public argument of transformers >= 5.18 for features that were
encoded elsewhere. The former ``image_hidden_states`` is ignored without a word, so the argument is looked up at load.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.generation import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cloud_workers.prompts import PromptBook, set_image_splitting
from pipeline.config.logs import get_logger
from pipeline.protocol.worker_work import ANSWER_TOKENS
from schemas.errors import ArtifactError, ConfigError, StateError
from schemas.limits import MAX_ANSWER_CHARS, MAX_JSON_BYTES
from schemas.types import AnswerType

MAX_BATCH_ROWS: Final = 64
"""Questions in one call of the model. Sixteen frames may carry up to 1,024 questions; keys and values of all of them at
once would not fit beside a 7 B model."""
BLOCK_TOKENS: Final = 64 * MAX_BATCH_ROWS
"""Tokens of the questions in one call, padding included; one question may be more. A row is padded to the longest of
its call, so a question of 500 rare characters, some 2,000 tokens, would cost each of 63 others as much as itself."""

_MAX_ANSWER_BYTES: Final = MAX_JSON_BYTES * 3 // 4
"""The rest is for the other fields of the answer message."""

_log = get_logger(__name__)


class VlmAnswer(NamedTuple):
    """One generated answer."""

    text: str
    """One line, without special tokens."""
    probability: float
    """Product of the probabilities of the generated tokens, the end token included."""
    token_count: int
    """Tokens generated, the end token included."""
    margin: float
    """Of the first token: its probability less that of the next best one."""
    entropy_nats: float
    """Of the distribution of the first token."""
    problem: str = ""
    """Why there is no answer, where the question could not be asked."""

    @property
    def finite(self) -> bool:
        """Whether all numbers are; where the model's logits were not, these are not either."""
        return all(map(math.isfinite, (self.probability, self.margin, self.entropy_nats)))


class VlmAdapter(Protocol):
    """What a worker needs of a model."""

    @property
    def token_count(self) -> int:
        """Visual tokens of a frame, N."""

    @property
    def token_dim(self) -> int:
        """Dimension of a visual token, D."""

    def answer(
        self,
        tokens: torch.Tensor,
        questions: Sequence[tuple[str, AnswerType]],
        *,
        frames: Sequence[int] | None = None,
    ) -> list[VlmAnswer]:
        """Answer questions about frames.

        Args:
            tokens: visual tokens ``[B, N, D]``, floating point.
            questions: text and answer type of each question.
            frames: for each question the row of ``tokens`` that it is asked of; None means one question a frame, in
                order.

        Returns:
            One answer for each question, in order.

        Raises:
            StateError: shapes or indices do not fit.
        """


class TransformersVlm:
    """Any SmolVLM, Idefics3, LLaVA or FastVLM class of transformers, loaded as its users load it.

    Decoding is greedy. The image prefix of a frame is read once for all of its questions: its keys and values are
    copied to a row for each question, which then costs its own tokens only.
    """

    def __init__(self, model: Any, processor: Any, *, source: str, tiles_per_edge: int = 1) -> None:
        """Take a loaded model; :meth:`load` is the usual way.

        Args:
            model: a ``...ForConditionalGeneration`` in evaluation mode.
            processor: its processor.
            source: path or hub id, for error messages.
            tiles_per_edge: 1 when a frame is one image of the model's input size; 2 and more when it is cut into so
                many tiles along each edge and a global view, as the processors of SmolVLM and Idefics3 do.

        Raises:
            ArtifactError: The model cannot be fed with visual tokens by this adapter.
        """
        if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
            raise ArtifactError(
                source, f"{type(model).__name__} takes no mm_encoder_outputs: use transformers >= 5.18 and a VLM class"
            )
        try:
            # Every frame has the same N tokens: the codec has a fixed shape.
            size_px = set_image_splitting(processor, model.config.vision_config.image_size, tiles_per_edge)
        except ConfigError as error:
            raise ArtifactError(source, f"it cannot read frames in tiles ({error})") from None
        self._model = model
        self._processor = processor
        config = model.config
        self._prompts = PromptBook(
            processor,
            image_token_id=config.image_token_id,
            image_size_px=size_px,
            source=source,
        )
        text_config = config.get_text_config()
        self.token_count: int = self._prompts.placeholder_count
        self.token_dim: int = text_config.hidden_size
        # Beyond it a model answers nonsense or raises, after a time that grows with the square of the length.
        self._context_tokens: int | None = getattr(text_config, "max_position_embeddings", None)
        eos = model.generation_config.eos_token_id
        if eos is None:
            eos = processor.tokenizer.eos_token_id
        if eos is None:
            raise ArtifactError(source, "neither its generation config nor its tokenizer names an end token")
        self._eos = frozenset(eos if isinstance(eos, list) else [eos])
        pad = processor.tokenizer.pad_token_id
        self._pad = min(self._eos) if pad is None else int(pad)
        # Some families take the features of all images as one tensor, others as a list: as their own tower gives them.
        self.takes_tensor: bool = torch.is_tensor(self._features(np.zeros((1, size_px, size_px, 3), dtype=np.uint8)))

    @classmethod
    def load(
        cls, source: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None, tiles_per_edge: int = 1
    ) -> Self:
        """Load model and processor.

        Args:
            source: folder in ``save_pretrained`` format, or hub id.
            device: torch device.
            dtype: of the weights; None is float32 on a CPU and the checkpoint's own elsewhere.
            tiles_per_edge: as in the constructor.

        Raises:
            ArtifactError: It is not there, not readable, or of another kind.
        """
        name = str(source)
        is_hub_id = isinstance(source, str) and name.count("/") == 1 and not name.startswith((".", "/", "~"))
        if not Path(name).is_dir() and not is_hub_id:
            raise ArtifactError(
                name,
                "no such folder: give one in save_pretrained format or a hub id, or leave it out for the bundled model",
            )
        if dtype is None and torch.device(device).type == "cpu":
            dtype = torch.float32
        try:
            processor = AutoProcessor.from_pretrained(name)
            # Pickled weights run code when they are read.
            model = AutoModelForImageTextToText.from_pretrained(
                name, dtype="auto" if dtype is None else dtype, use_safetensors=True
            )
        except (
            OSError, ValueError, KeyError, ImportError, TypeError, AttributeError, RuntimeError, SafetensorError
        ) as error:  # fmt: skip
            problem = str(error).strip().split("\n")[0]
            fix = (
                "check the id and the network, or give a local folder"
                if is_hub_id
                else "save it again with save_pretrained"
            )
            raise ArtifactError(name, f"no usable vision-language model ({problem}): {fix}") from error
        model = model.to(device).eval().requires_grad_(False)
        _log.info("model loaded", model=type(model).__name__, source=name, parameters=model.num_parameters())
        return cls(model, processor, source=name, tiles_per_edge=tiles_per_edge)

    @property
    def model(self) -> Any:
        """The model itself, unmodified."""
        return self._model

    @torch.inference_mode()
    def encode_pixels(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """Visual tokens of whole frames, the uncompressed reference.

        Args:
            frames: RGB images ``[B, H, W, 3]``.

        Returns:
            Tokens ``[B, N, D]`` as the language model reads them.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise StateError(f"frames are uint8 [B, H, W, 3], not {frames.dtype} {list(frames.shape)}")
        return torch.stack(list(self._features(frames)))

    @torch.inference_mode()
    def _features(self, frames: NDArray[np.uint8]) -> Any:
        """What the model's own tower gives for frames, `[N, D]` each."""
        # One image a sample: families disagree on how a flat list of images is grouped.
        pixels = self._processor.image_processor([[frame] for frame in frames], return_tensors="pt")
        device, dtype = self._model.device, self._model.dtype
        inputs = {name: value.to(device) for name, value in pixels.items() if torch.is_tensor(value)}
        inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        return self._model.get_image_features(**inputs, return_dict=True).pooler_output

    @torch.inference_mode()
    def answer(
        self,
        tokens: torch.Tensor,
        questions: Sequence[tuple[str, AnswerType]],
        *,
        frames: Sequence[int] | None = None,
    ) -> list[VlmAnswer]:
        """Answer questions about frames; see :meth:`VlmAdapter.answer`."""
        rows = list(range(len(questions))) if frames is None else list(frames)
        expected = (self.token_count, self.token_dim)
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != expected:
            raise StateError(f"tokens are [B, {expected[0]}, {expected[1]}], not {list(tokens.shape)}")
        if len(rows) != len(questions) or any(not 0 <= row < len(tokens) for row in rows):
            raise StateError(f"{len(questions)} questions name {len(rows)} frames, of {len(tokens)}")
        tokens = tokens.to(device=self._model.device, dtype=self._model.dtype)
        answers: list[VlmAnswer | None] = [None] * len(questions)
        widths = [len(self._prompts.suffix(text)) for text, _ in questions]
        for index, ((_, answer_type), width) in enumerate(zip(questions, widths, strict=True)):
            tokens_needed = len(self._prompts.prefix) + width + ANSWER_TOKENS[answer_type]
            if self._context_tokens is not None and tokens_needed > self._context_tokens:
                answers[index] = _not_asked(
                    f"question, frame and answer take {tokens_needed} tokens, the model reads {self._context_tokens}: "
                    "ask a shorter question"
                )
        # Questions of one frame side by side, so that a block reads few frames; alike in length, so that few rows idle.
        order = sorted(
            (index for index, answer in enumerate(answers) if answer is None),
            key=lambda i: (_width_class(widths[i]), ANSWER_TOKENS[questions[i][1]], rows[i]),
        )
        for block in _blocks(order, widths):
            found = self._answer_block(tokens, [rows[i] for i in block], [questions[i] for i in block])
            for index, answer in zip(block, found, strict=True):
                answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def _answer_block(
        self, tokens: torch.Tensor, rows: list[int], questions: list[tuple[str, AnswerType]]
    ) -> list[VlmAnswer]:
        device = self._model.device
        distinct = sorted(set(rows))
        prefix = torch.tensor(self._prompts.prefix, device=device).expand(len(distinct), -1)
        selected = [tokens[row] for row in distinct]
        features = BaseModelOutputWithPooling(pooler_output=torch.stack(selected) if self.takes_tensor else selected)
        cache = self._model(
            input_ids=prefix,
            attention_mask=torch.ones_like(prefix),
            mm_encoder_outputs={"image": features},
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        position = {row: index for index, row in enumerate(distinct)}
        order = [position[row] for row in rows]
        if order != list(range(len(distinct))):
            cache.batch_select_indices(torch.tensor(order, device=device))

        # Padding sits between prefix and question; the attention mask hides it and positions are counted from the mask.
        suffixes = [self._prompts.suffix(text) for text, _ in questions]
        width = max(map(len, suffixes))
        padded = torch.full((len(rows), width), self._pad, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for index, suffix in enumerate(suffixes):
            padded[index, width - len(suffix) :] = torch.tensor(suffix)
            mask[index, width - len(suffix) :] = 1
        prefix = prefix[:1].expand(len(rows), -1)
        input_ids = torch.cat([prefix, padded.to(device)], dim=1)
        limits = [ANSWER_TOKENS[answer_type] for _, answer_type in questions]
        probabilities = _GreedyProbabilities()
        sequences = self._model.generate(
            input_ids=input_ids,
            attention_mask=torch.cat([torch.ones_like(prefix), mask.to(device)], dim=1),
            past_key_values=cache,
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                max_new_tokens=max(limits),
                eos_token_id=sorted(self._eos),
                pad_token_id=self._pad,
            ),
            logits_processor=LogitsProcessorList([probabilities]),
            stopping_criteria=StoppingCriteriaList([_RowLimits(limits, input_ids.shape[1])]),
        )
        generated = sequences[:, input_ids.shape[1] :].tolist()
        log_probabilities = torch.stack(probabilities.steps, dim=1).tolist()
        return [
            self._read(ids[:limit], values, margin, entropy_nats)
            for ids, values, limit, (margin, entropy_nats) in zip(
                generated, log_probabilities, limits, probabilities.first.tolist(), strict=True
            )
        ]

    def _read(self, ids: list[int], log_probabilities: list[float], margin: float, entropy_nats: float) -> VlmAnswer:
        count = next((index + 1 for index, token in enumerate(ids) if token in self._eos), len(ids))
        text = self._processor.tokenizer.decode(ids[:count], skip_special_tokens=True)
        total = math.fsum(log_probabilities[:count])
        # The sum of logarithms of numbers up to 1 may end a rounding above 0. The least of 0 and NaN would be 0.
        probability = math.exp(min(total, 0.0)) if math.isfinite(total) else math.nan
        return VlmAnswer(one_line(text), probability, count, margin, entropy_nats)


def _not_asked(problem: str) -> VlmAnswer:
    return VlmAnswer("", math.nan, 0, math.nan, math.nan, problem)


def _width_class(width: int) -> int:
    """Questions of one class are padded to less than twice their length; all of ordinary length are of one class."""
    return max(width, BLOCK_TOKENS // MAX_BATCH_ROWS).bit_length()


def _blocks(order: Sequence[int], widths: Sequence[int]) -> Iterator[list[int]]:
    """Questions that are read together: of one class of length, bounded in number and in padded tokens."""
    block: list[int] = []
    widest = 0
    for index in order:
        wider = max(widest, widths[index])
        alike = not block or _width_class(widths[index]) == _width_class(widths[block[0]])
        if block and (not alike or len(block) == MAX_BATCH_ROWS or wider * (len(block) + 1) > BLOCK_TOKENS):
            yield block
            block, wider = [], widths[index]
        block.append(index)
        widest = wider
    if block:
        yield block


def one_line(text: str) -> str:
    """Generated text as the wire carries it: one printable line, cut to the limit in characters and bytes."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line[:MAX_ANSWER_CHARS].encode()[:_MAX_ANSWER_BYTES].decode(errors="ignore")


class _GreedyProbabilities(LogitsProcessor):  # type: ignore[misc]
    """Keeps the log-probability of each step's best token, not the scores of the whole vocabulary.

    Of the first step also margin and entropy, ``[rows, 2]``.
    """

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self.first = torch.empty(0, 2)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        log_probabilities = scores.float().log_softmax(dim=-1)
        if not self.steps:
            best = log_probabilities.topk(2, dim=-1).values.exp()
            # 0 log 0 is 0.
            entropy_nats = -torch.xlogy(log_probabilities.exp(), log_probabilities.exp()).sum(dim=-1)
            self.first = torch.stack([best[:, 0] - best[:, 1], entropy_nats], dim=1)
        self.steps.append(log_probabilities.amax(dim=-1))
        return scores


class _RowLimits(StoppingCriteria):  # type: ignore[misc]
    """Ends each row at its own number of tokens, so that a short answer does not pay for a long one beside it."""

    def __init__(self, limits: Sequence[int], prompt_length: int) -> None:
        self._limits = torch.tensor(limits)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        return (self._limits <= input_ids.shape[1] - self._prompt_length).to(input_ids.device)
