"""What a log holds of a frame's latent, as something that an edge session can send again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.traces import FrameTrace
from pipeline.codec.bitstream import decode_chunk, encode_chunk
from pipeline.codec.latent import PrefixAssembler
from pipeline.codec.prediction import KeyFramePrediction
from pipeline.codec.tables import FrequencyTables
from schemas.errors import BitstreamError, RecordingGapError, StateError
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES
from schemas.types import FrameId

_KEPT_KEY_FRAMES: Final = 256
"""Decoded key frames at a time: more than cameras have under way at once."""


class RecordedLatent:
    """The latent of a recorded frame, as far as the log has it; a :class:`~pipeline.protocol.effects.Latent`.

    Symbols are coded anew for whatever range is asked, each range by itself: whoever gets it needs no key frame. There
    is one such code for a range of symbols, so a range that was recorded so comes out byte for byte; one that was coded
    given a key frame has the same symbols in other bytes, more of them as a rule.

    Args:
        camera: camera of the frame.
        frame: its id in the log.
        symbols: int32 [K, d], zeros from ``available`` on.
        available: latents that the log holds without a gap from 0.
        tables: tables of the codec.

    Attributes:
        camera: camera of the frame.
        frame: its id in the log.
        available: latents that the log holds without a gap from 0.
        wanted: longest prefix that was asked for; beyond ``available`` the log lacked something.
    """

    __slots__ = ("_symbols", "_tables", "available", "camera", "frame", "wanted")

    def __init__(
        self, camera: str, frame: FrameId, symbols: NDArray[np.int32], available: int, tables: FrequencyTables
    ) -> None:
        self.camera = camera
        self.frame = frame
        self.available = available
        self.wanted = 0
        self._symbols = symbols
        self._tables = tables

    @property
    def latent_count(self) -> int:
        """Latents of a whole frame, K, whether the log has them or not."""
        return self._tables.latent_count

    @property
    def whole(self) -> bool:
        """Whether the log has all of them."""
        return self.available == self.latent_count

    def payload(self, start: int, stop: int) -> bytes:
        """Coded bytes of latents ``start..stop``, one chunk.

        Raises:
            RecordingGapError: the log does not hold all of them.
            StateError: the range is empty or outside the latent.
        """
        if not 0 <= start < stop <= self.latent_count:
            raise StateError(f"latents {start}..{stop} are not a range of 0..{self.latent_count}")
        self.wanted = max(self.wanted, stop)
        if self.available < stop:
            raise RecordingGapError(self.camera, self.frame, self.available, stop)
        return encode_chunk(self._symbols[start:stop], start, self._tables)


def recorded_latent(frame: FrameTrace, tables: FrequencyTables) -> RecordedLatent:
    """Put together what the opens, chunks, hand-overs, the stored latent and the key frame of a frame hold.

    A piece that does not decode is left out, as a worker would: what is missing then shows in ``available``. So is one
    that was coded given a key frame, where the log does not hold that.

    Args:
        frame: what the log says about the frame.
        tables: tables of the codec that the log was recorded with.

    Raises:
        BitstreamError: the log has latents of this frame, and not one prefix of them decodes: other tables, a log
            whose latents were redacted, or one that lacks the key frame, which the error then names. Or they are more
            than one message carries once they are coded by themselves.
    """
    assembler = PrefixAssembler(tables)
    problem: BitstreamError | None = None
    for piece in _pieces(frame, tables.latent_count):
        try:
            assembler.add(piece.start, piece.stop, piece.payload, _given(frame, piece, tables))
        except BitstreamError as error:
            problem = problem or error
    symbols, available = assembler.prefix()
    if available == 0 and problem is not None:
        raise problem
    if available and (size_bytes := len(encode_chunk(symbols[:available], 0, tables))) > MAX_LATENT_PAYLOAD_BYTES:
        raise BitstreamError(
            0, available, f"{size_bytes} bytes when coded by themselves, a message carries {MAX_LATENT_PAYLOAD_BYTES}"
        )
    return RecordedLatent(frame.camera, frame.frame, symbols, available, tables)


class _Piece(NamedTuple):
    """Latents ``start..stop`` as one chunk."""

    start: int
    stop: int
    payload: bytes
    key: int | None = None
    """Number of the key frame that they were coded given; None for none."""


def _pieces(frame: FrameTrace, latent_count: int) -> Iterator[_Piece]:
    if frame.stored_latent is not None:
        yield _Piece(0, frame.stored_latent.stop, frame.stored_latent.payload)
    if frame.as_key is not None:
        yield _Piece(0, latent_count, frame.as_key.message.payload)
    for _, opened in frame.opens:
        yield _Piece(0, opened.stop, opened.payload, opened.key)
    for _, _, handover in frame.handovers:
        yield _Piece(0, handover.stop, handover.payload, handover.key)
    for _, _, chunk in frame.chunks:
        yield _Piece(chunk.start, chunk.stop, chunk.payload, chunk.key)


def _given(frame: FrameTrace, piece: _Piece, tables: FrequencyTables) -> KeyFramePrediction | None:
    """What the key frame of a piece foretells, None where it has none.

    Raises:
        BitstreamError: the log lacks the key frame, or it does not decode.
    """
    if piece.key is None:
        return None
    found = frame.key_frame(piece.key)
    if found is None:
        problem = f"coded given key frame {piece.key}, and the log has no key frame {piece.key}"
    elif tables.prediction is None:
        problem = f"coded given key frame {piece.key}, and this codec codes each frame by itself"
    else:
        try:
            return _prediction(found.message.payload, tables)
        except BitstreamError as error:
            problem = f"coded given key frame {piece.key}, which does not decode: {error.problem}"
    raise BitstreamError(piece.start, piece.stop, problem)


@lru_cache(_KEPT_KEY_FRAMES)
def _prediction(payload: bytes, tables: FrequencyTables) -> KeyFramePrediction:
    """A key frame decoded; many frames are coded given one, and they lie close together in a log."""
    return KeyFramePrediction(decode_chunk(payload, 0, tables.latent_count, tables), tables)
