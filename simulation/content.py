"""Frames without pictures: latents whose bytes say what they are, and a model that knows what each query needs.

Each latent's bytes begin with its index and end with the mark of their frame. Given a key frame they are fewer, and
have a checksum of it in between: to read them with another key frame, or with none, cannot go unnoticed. A model says
in each answer what it was asked, and the mark of what it saw.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from pipeline.protocol.effects import ChunkData, InferencePass, PassAnswer
from pipeline.protocol.stop_rule import StopRule
from schemas.errors import BitstreamError
from schemas.types import AnswerType
from simulation.questions import echo

LADDER = (8, 16, 24, 32)
LATENTS = LADDER[-1]
BYTES_A_LATENT = 6
BYTES_GIVEN_KEY = 5
"""Of a latent that is coded given a key frame."""
MARK_BYTES = BYTES_A_LATENT - 1
_SEEN_BYTES = 2
"""The end of a mark, which every latent has; one pair of frames in 65,536 looks the same."""
FINGERPRINT = b"sim1"
RULE = StopRule(LADDER, (0.9, 0.9, 0.9, 0.9), {AnswerType.COUNT: (0.95, 0.95, 0.95, 0.95)}, 0.02)


_GIVEN_KEY = 0x80
"""Set in the index of a latent that is coded given a key frame."""
_MARKS = 1024


@lru_cache(_MARKS)
def _by_itself(mark: bytes) -> bytes:
    return b"".join(bytes((index,)) + mark for index in range(LATENTS))


@lru_cache(_MARKS)
def _given(key: bytes, seen: bytes) -> bytes:
    rest = zlib.crc32(key).to_bytes(4, "big")[: BYTES_GIVEN_KEY - 1 - _SEEN_BYTES] + seen
    return b"".join(bytes((_GIVEN_KEY | index,)) + rest for index in range(LATENTS))


@dataclass(frozen=True, slots=True)
class SimulatedLatent:
    """A latent that is coded by itself.

    Attributes:
        mark: of its frame.
        scene: what it shows; only a change gate looks at it.
    """

    mark: bytes = bytes(MARK_BYTES)
    scene: int = 0

    @property
    def latent_count(self) -> int:
        """Latents of a whole frame."""
        return LATENTS

    def payload(self, start: int, stop: int) -> bytes:
        """Coded bytes of latents ``start..stop``."""
        return _by_itself(self.mark)[start * BYTES_A_LATENT : stop * BYTES_A_LATENT]


def seen(mark: bytes) -> str:
    """What a model sees of a frame's mark."""
    return mark[-_SEEN_BYTES:].hex()


WHOLE = SimulatedLatent().payload(0, LATENTS)


@dataclass(frozen=True, slots=True)
class LatentGivenKey:
    """A latent that is coded given a key frame.

    Attributes:
        key: payload of the key frame.
        mark: of the frame.
    """

    key: bytes
    mark: bytes = bytes(MARK_BYTES)

    @property
    def latent_count(self) -> int:
        """Latents of a whole frame."""
        return LATENTS

    def payload(self, start: int, stop: int) -> bytes:
        """Coded bytes of latents ``start..stop``."""
        return _given(self.key, self.mark[-_SEEN_BYTES:])[start * BYTES_GIVEN_KEY : stop * BYTES_GIVEN_KEY]


def damaged(key: bytes) -> bytes:
    """A key frame that does not decode any more."""
    return key[:-1] + bytes((key[-1] ^ 0xFF,))


def read_prefix(chunks: Iterable[ChunkData]) -> str:
    """Read the coded latents of a frame.

    Returns:
        What is seen of its mark.

    Raises:
        ValueError: they are not one frame's, contiguous from 0, or are given another key frame than they were made for.
        BitstreamError: they are given a key frame that does not decode.
    """
    stop, mark, there = 0, None, b""
    for chunk in chunks:
        if chunk.start != stop:
            raise ValueError(f"latents {chunk.start}..{chunk.stop} follow {stop}")
        stop = chunk.stop
        there = there or chunk.payload[: BYTES_A_LATENT if chunk.key is None else BYTES_GIVEN_KEY][-_SEEN_BYTES:]
        if chunk.key is not None:
            key = chunk.key.payload
            if key != _by_itself(key[1:BYTES_A_LATENT]):
                raise BitstreamError(chunk.start, stop, f"key frame {chunk.key.sequence} does not decode")
            if chunk.payload != _given(key, there)[chunk.start * BYTES_GIVEN_KEY : stop * BYTES_GIVEN_KEY]:
                raise ValueError(f"latents {chunk.start}..{stop} are not given key frame {chunk.key.sequence}")
            continue
        mark = mark or chunk.payload[1:BYTES_A_LATENT]
        if chunk.payload != _by_itself(mark)[chunk.start * BYTES_A_LATENT : stop * BYTES_A_LATENT]:
            raise ValueError(f"latents {chunk.start}..{stop} are not what stands there")
        if mark[-_SEEN_BYTES:] != there:
            raise ValueError(f"latents {chunk.start}..{stop} are another frame's")
    return there.hex()


class PassModel(Protocol):
    """What answers passes in the place of a model."""

    def answer(self, inference_pass: InferencePass) -> list[PassAnswer]:
        """Answers to every query of a pass.

        Raises:
            ValueError: the pass's latents are not the frame's, contiguous from 0.
            BitstreamError: they are given a key frame that was damaged.
        """
        ...


class SimulatedModel:
    """Answers a pass. Each query needs a prefix of its own before its answer is safe.

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

    def answer(self, inference_pass: InferencePass) -> list[PassAnswer]:
        """Answers to every query of a pass.

        Raises:
            ValueError: the pass's latents are not the frame's, contiguous from 0.
            BitstreamError: they are given a key frame that was damaged.
        """
        try:
            mark = read_prefix(inference_pass.chunks)
        except ValueError as error:
            raise ValueError(
                f"pass {inference_pass.number} over {inference_pass.camera}/{inference_pass.frame}: {error}"
            ) from error
        answers = []
        for query in inference_pass.queries:
            safe = inference_pass.stop >= self.needed(query.query_id)
            text = echo(query.answer_type, safe, query.text, mark)
            answers.append(PassAnswer(query.query_id, text, 0.97 if safe else 0.5))
        return answers
