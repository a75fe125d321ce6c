"""What a log holds of a frame's latent, as something that an edge session can send again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.bitstream import encode_chunk
from pipeline.codec.latent import PrefixAssembler
from pipeline.codec.tables import FrequencyTables
from pipeline.recording.traffic import FrameTrace
from schemas.errors import BitstreamError, RecordingGapError, StateError
from schemas.types import FrameId


class RecordedLatent:
    """The latent of a recorded frame, as far as the log has it; a :class:`~pipeline.protocol.effects.Latent`.

    Symbols are coded anew for whatever range is asked. There is one code for a range of symbols, so a range that was
    recorded comes out byte for byte.

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
    """Put together what the opens, chunks, hand-overs and the deposit of a frame hold.

    A piece that does not decode is left out, as a worker would: what is missing then shows in ``available``.

    Args:
        frame: what the log says about the frame.
        tables: tables of the codec that the log was recorded with.

    Raises:
        BitstreamError: the log has latents of this frame, and not one prefix of them decodes: other tables, or a log
            whose latents were redacted.
    """
    assembler = PrefixAssembler(tables)
    problem: BitstreamError | None = None
    for start, stop, payload in _pieces(frame):
        try:
            assembler.add(start, stop, payload)
        except BitstreamError as error:
            problem = problem or error
    symbols, available = assembler.prefix()
    if available == 0 and problem is not None:
        raise problem
    return RecordedLatent(frame.camera, frame.frame, symbols, available, tables)


def _pieces(frame: FrameTrace) -> Iterator[tuple[int, int, bytes]]:
    if frame.deposited is not None:
        yield 0, frame.deposited.stop, frame.deposited.payload
    for _, opened in frame.opens:
        yield 0, opened.stop, opened.payload
    for _, _, handover in frame.handovers:
        yield 0, handover.stop, handover.payload
    for _, _, chunk in frame.chunks:
        yield chunk.start, chunk.stop, chunk.payload
