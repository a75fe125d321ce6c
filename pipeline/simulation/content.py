"""Frames without pictures: latents whose bytes say what they are, and a model that knows what each query needs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from pipeline.protocol.effects import Look, LookAnswer
from pipeline.protocol.stop_rule import StopRule
from schemas.types import AnswerType

LADDER = (8, 16, 24, 32)
LATENTS = LADDER[-1]
BYTES_A_LATENT = 6
FINGERPRINT = b"sim1"
RULE = StopRule(LADDER, (0.9, 0.9, 0.9, 0.9), {AnswerType.COUNT: (0.95, 0.95, 0.95, 0.95)}, 0.02)


@dataclass(frozen=True, slots=True)
class SimulatedLatent:
    """A latent whose coded bytes repeat its index, so that a reader can check what it was given."""

    latent_count: int = LATENTS

    def payload(self, start: int, stop: int) -> bytes:
        """Coded bytes of latents ``start..stop``."""
        return b"".join(bytes((index,)) * BYTES_A_LATENT for index in range(start, stop))


WHOLE = SimulatedLatent().payload(0, LATENTS)


class LookModel(Protocol):
    """What answers looks in the place of a model."""

    def answer(self, look: Look) -> list[LookAnswer]:
        """Answers to every query of a look.

        Raises:
            ValueError: the look's latents are not the frame's, contiguous from 0.
        """
        ...


class SimulatedModel:
    """Answers a look. Each query needs a prefix of its own before its answer is safe.

    Args:
        seed: decides which prefix a query needs; the same for every worker, as for one model.
        easy_share: share of the queries that need the base prefix only.
    """

    def __init__(self, seed: int, easy_share: float = 0.8) -> None:
        self._seed = seed
        self._easy_share = easy_share

    def needed(self, query_id: str) -> int:
        """Prefix from which on this query's answer is safe."""
        draw = random.Random(f"{self._seed}/{query_id}")
        return LADDER[0] if draw.random() < self._easy_share else draw.choice(LADDER[1:])

    def answer(self, look: Look) -> list[LookAnswer]:
        """Answers to every query of a look.

        Raises:
            ValueError: the look's latents are not the frame's, contiguous from 0.
        """
        read = b"".join(chunk.payload for chunk in look.chunks)
        if read != WHOLE[: look.stop * BYTES_A_LATENT]:
            raise ValueError(f"look {look.number} at {look.camera}/{look.frame} reads latents that are not its prefix")
        answers = []
        for query in look.queries:
            safe = look.stop >= self.needed(query.query_id)
            text = "right" if safe else f"guess at {look.stop}"
            answers.append(LookAnswer(query.query_id, text, 0.97 if safe else 0.5))
        return answers
