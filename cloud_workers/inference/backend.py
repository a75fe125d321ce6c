"""What a worker needs of whatever runs its model.

A backend reads visual features, not latents: prefixes are decoded before it, in this process, so that a backend knows
nothing of codecs and a codec nothing of backends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from schemas.errors import FeatureShapeError, InferenceError
from schemas.types import AnswerType


@dataclass(frozen=True, slots=True, eq=False)
class InferenceItem:
    """One question about one frame.

    Attributes:
        features: visual features ``[N, D]`` of the frame, floating point. Items of one frame hold the same tensor
            object, so that a backend can read the frame once for all of them.
        prompt: what the model is asked.
        answer_type: what the answer may look like, which bounds its length.
        options: answers to choose from, which the prompt names as well; empty for any.
    """

    features: torch.Tensor
    prompt: str
    answer_type: AnswerType
    options: tuple[str, ...] = ()


class InferenceAnswer(NamedTuple):
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
    """Why there is no answer, where an adapter could not ask the question; a backend gives an error instead."""

    @property
    def finite(self) -> bool:
        """Whether all numbers are; where the model's logits were not, these are not either."""
        return all(map(math.isfinite, (self.probability, self.margin, self.entropy_nats)))


InferenceResult = InferenceAnswer | InferenceError
"""The answer of an item, or the error that it failed with."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend runs and how much of it at a time.

    Attributes:
        backend: its name in errors and logs, with the place where it runs.
        family: model family, the ``model_type`` of its configuration.
        fingerprint: `pipeline.codec.spec.hash_vlm` of the model that it runs.
        token_count: visual tokens of a frame, N.
        token_dim: values of each, D.
        max_concurrent_batches: batches that may be submitted at a time.
    """

    backend: str
    family: str
    fingerprint: str
    token_count: int
    token_dim: int
    max_concurrent_batches: int

    def shape_problem(self, item: InferenceItem) -> FeatureShapeError | None:
        """The error of an item whose features are not those of a frame; None where they are."""
        wanted, found = (self.token_count, self.token_dim), tuple(item.features.shape)
        return None if found == wanted else FeatureShapeError(self.backend, found, wanted)


class InferenceBackend(Protocol):
    """Answers questions about visual features."""

    @property
    def capabilities(self) -> Capabilities:
        """What it runs; does not change."""

    async def submit(self, items: Sequence[InferenceItem]) -> Sequence[InferenceResult]:
        """Answer a batch.

        Up to :attr:`Capabilities.max_concurrent_batches` calls may be under way at a time; they may end in any order.
        A caller that is cancelled waits no longer: what has not begun does not begin, what has begun may run to its
        end, and its answers are dropped.

        Returns:
            One result an item, in order. What one item holds fails that item alone; an engine that is out of reach
            fails them all, each with :class:`~schemas.errors.EngineError`. Nothing is raised for either.
        """

    async def close(self) -> None:
        """Take nothing more and let go of what it holds; waits for no batch."""
