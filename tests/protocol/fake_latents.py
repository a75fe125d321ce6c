"""Latents whose coded bytes say what they are, and what reads them."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.protocol.effects import ChunkData
from schemas.errors import BitstreamError

LADDER = (4, 8, 12, 16)
LATENTS = LADDER[-1]
GIVEN_KEY = 128
"""First byte of latents that are coded given a key frame, plus the mark of that one."""


class FakeLatent:
    """Latents whose coded bytes name their indices, after the mark of a key frame or of the one they are given."""

    latent_count = LATENTS

    def __init__(self, mark: int = 0) -> None:
        self.mark = mark

    def payload(self, start: int, stop: int) -> bytes:
        return bytes(range(self.mark + start, self.mark + stop))


def read(chunks: Iterable[ChunkData]) -> None:
    """What decoding comes to: asserts that a pass reads contiguous latents from 0, each given the key frame it names.

    Raises:
        BitstreamError: a key frame is damaged.
    """
    stop = 0
    for chunk in chunks:
        assert chunk.start == stop
        stop = chunk.stop
        mark = chunk.payload[0] - chunk.start
        if chunk.key is not None:
            mark = chunk.key.payload[0]
            if chunk.key.payload != FakeLatent(mark).payload(0, LATENTS):
                raise BitstreamError(chunk.start, stop, "damaged key frame")
            mark += GIVEN_KEY
        assert mark % LATENTS == 0
        assert (chunk.key is not None) == (mark >= GIVEN_KEY)
        assert chunk.payload == FakeLatent(mark).payload(chunk.start, stop)
