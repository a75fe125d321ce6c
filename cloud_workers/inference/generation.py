"""How answers are generated: greedily, in blocks of questions that are alike, each row to its own length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from transformers.generation import LogitsProcessor, StoppingCriteria

from schemas.errors import ArtifactError
from schemas.limits import MAX_ANSWER_CHARS, MAX_JSON_BYTES

MAX_BATCH_ROWS: Final = 64
"""Questions in one call of the model. Sixteen frames may carry up to 1,024 questions; keys and values of all of them at
once would not fit beside a 7 B model."""
BLOCK_TOKENS: Final = 64 * MAX_BATCH_ROWS
"""Tokens of the questions in one call, padding included; one question may be more. A row is padded to the longest of
its call, so a question of 500 rare characters, some 2,000 tokens, would cost each of 63 others as much as itself."""

_MAX_ANSWER_BYTES: Final = MAX_JSON_BYTES * 3 // 4
"""The rest is for the other fields of the answer message."""


def width_class(width: int, unpadded_from: int | None = None) -> int:
    """Questions of one class are padded to less than twice their length; all of ordinary length are of one class.

    Args:
        width: tokens of a question.
        unpadded_from: width from which questions of one class are of one length; None for never.
    """
    if unpadded_from is not None and width >= unpadded_from:
        return -width
    return max(width, BLOCK_TOKENS // MAX_BATCH_ROWS).bit_length()


def sliding_window(text_config: Any) -> int | None:
    """Tokens that a layer of the language model looks back at most; None where all layers see everything."""
    window = getattr(text_config, "sliding_window", None)
    layers = getattr(text_config, "layer_types", None)
    if window is None or (layers is not None and "sliding_attention" not in layers):
        return None
    return int(window)


def blocks(order: Sequence[int], widths: Sequence[int], unpadded_from: int | None = None) -> Iterator[list[int]]:
    """Questions that are read together: of one class of length, bounded in number and in padded tokens."""
    block: list[int] = []
    widest = 0
    for index in order:
        wider = max(widest, widths[index])
        first = widths[block[0]] if block else widths[index]
        alike = width_class(widths[index], unpadded_from) == width_class(first, unpadded_from)
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


def too_long(needed: int, limit: int | None) -> str:
    """Why a question cannot be asked of a model that reads so many tokens; empty where it can."""
    if limit is None or needed <= limit:
        return ""
    return f"question, frame and answer take {needed} tokens, the model reads {limit}: ask a shorter question"


def end_tokens(generation_config: Any, tokenizer: Any, source: str) -> frozenset[int]:
    """Ids of the tokens that end an answer.

    Args:
        generation_config: of the model.
        tokenizer: of the model.
        source: path or hub id, for error messages.

    Raises:
        ArtifactError: none is named.
    """
    eos = generation_config.eos_token_id
    if eos is None:
        eos = tokenizer.eos_token_id
    if eos is None:
        raise ArtifactError(source, "neither its generation config nor its tokenizer names an end token")
    return frozenset(eos if isinstance(eos, list) else [eos])


class GreedyProbabilities(LogitsProcessor):  # type: ignore[misc]
    """Keeps the log-probability of each step's best token, not the scores of the whole vocabulary.

    Of the first step also margin and entropy, ``[rows, 2]``.
    """

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self.first = torch.empty(0, 2)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002, D102 - a library calls it
        log_probabilities = scores.float().log_softmax(dim=-1)
        if not self.steps:
            best = log_probabilities.topk(2, dim=-1).values.exp()
            # 0 log 0 is 0.
            entropy_nats = -torch.xlogy(log_probabilities.exp(), log_probabilities.exp()).sum(dim=-1)
            self.first = torch.stack([best[:, 0] - best[:, 1], entropy_nats], dim=1)
        self.steps.append(log_probabilities.amax(dim=-1))
        return scores


class RowLimits(StoppingCriteria):  # type: ignore[misc]
    """Ends each row at its own number of tokens, so that a short answer does not pay for a long one beside it."""

    def __init__(self, limits: Sequence[int], prompt_length: int) -> None:
        self._limits = torch.tensor(limits)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002, D102
        return (self._limits <= input_ids.shape[1] - self._prompt_length).to(input_ids.device)
