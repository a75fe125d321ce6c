"""One frame's latent on either side of the wire."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.bitstream import decode_chunk, encode_chunk
from pipeline.codec.prediction import KeyFramePrediction
from pipeline.codec.tables import FrequencyTables
from schemas.errors import BitstreamError, StateError


class EncodedLatent:
    """A whole latent at the edge: any range of it as bytes.

    Args:
        symbols: int32 [K, d].
        tables: Tables of the codec.
        given: What a key frame foretells of them; None codes them by themselves.

    Raises:
        StateError: symbols of another shape than the tables'.
    """

    __slots__ = ("_given", "_symbols", "_tables")

    def __init__(
        self, symbols: NDArray[np.int32], tables: FrequencyTables, given: KeyFramePrediction | None = None
    ) -> None:
        if symbols.shape != (tables.latent_count, tables.latent_dim):
            raise StateError(f"symbols {list(symbols.shape)} are not [{tables.latent_count}, {tables.latent_dim}]")
        self._symbols = symbols
        self._tables = tables
        self._given = given

    def given(self, key: KeyFramePrediction) -> EncodedLatent:
        """The same latent, coded given a key frame."""
        return EncodedLatent(self._symbols, self._tables, key)

    def as_key(self) -> KeyFramePrediction:
        """What this frame foretells of later ones.

        Raises:
            StateError: the codec codes each frame by itself.
        """
        return KeyFramePrediction(self._symbols, self._tables)

    @property
    def can_be_key(self) -> bool:
        """Whether the codec can code other frames given this one."""
        return self._tables.prediction is not None

    @property
    def latent_count(self) -> int:
        """Latents of the frame, K."""
        return self._tables.latent_count

    @property
    def symbols(self) -> NDArray[np.int32]:
        """int32 [K, d]."""
        return self._symbols

    def payload(self, start: int, stop: int) -> bytes:
        """Bytes of latents ``start..stop``, one chunk.

        Raises:
            StateError: the range is empty or outside the latent.
        """
        return encode_chunk(self._symbols[start:stop], start, self._tables, self._given)

    def size_bytes(self, stop: int) -> int:
        """Size of the prefix ``0..stop`` as one chunk."""
        return len(self.payload(0, stop))

    def prefix_bytes(self) -> NDArray[np.int64]:
        """Sizes of all prefixes as one chunk each, from their code length: at most a byte beside `size_bytes`.

        Returns:
            int64 [K + 1]; the first one, of no latent, is 0.
        """
        tables, count = self._tables, self.latent_count
        if self._given is None:
            bits = tables.symbol_bits(self._symbols[None], 0, count)[0].sum(axis=1).cumsum()
        else:
            escapes = tables.escape_bits(self._symbols).sum(axis=1)
            bits = (self._given.latent_bits(self._symbols, 0) + escapes).cumsum(axis=1).min(axis=0)
            bits += np.log2(self._given.levels)
        return np.concatenate([[0], np.ceil(bits / 8)]).astype(np.int64)


class PrefixAssembler:
    """What a worker holds of one frame: chunks in any order, repeated or overlapping, become one prefix.

    The first copy of a latent counts; a later one that differs is an error of the sender.

    Args:
        tables: Tables of the codec.
    """

    __slots__ = ("_present", "_symbols", "_tables", "payload_bytes")

    def __init__(self, tables: FrequencyTables) -> None:
        self._tables = tables
        self._symbols = np.zeros((tables.latent_count, tables.latent_dim), dtype=np.int32)
        self._present = np.zeros(tables.latent_count, dtype=np.bool_)
        self.payload_bytes = 0
        """Bytes of the chunks that brought something new."""

    @property
    def prefix_length(self) -> int:
        """Latents present without a gap from 0."""
        return int(np.argmin(self._present)) if not self._present.all() else self._tables.latent_count

    def add(self, start: int, stop: int, payload: bytes, given: KeyFramePrediction | None = None) -> bool:
        """Decode a chunk, unless all of it is here already.

        Args:
            start: First latent.
            stop: One past the last latent.
            payload: Bytes of the chunk.
            given: What the key frame foretells that the chunk was coded given.

        Returns:
            Whether it brought something new.

        Raises:
            BitstreamError: the range is not within the latent, the bytes do not decode, or they contradict an earlier
                chunk.
        """
        if not 0 <= start < stop <= self._tables.latent_count:
            raise BitstreamError(start, stop, f"not a range of 0..{self._tables.latent_count}")
        here = self._present[start:stop]
        if here.all():
            return False
        symbols = decode_chunk(payload, start, stop, self._tables, given)
        if not np.array_equal(symbols[here], self._symbols[start:stop][here]):
            raise BitstreamError(start, stop, "contradicts an earlier chunk of the same frame")
        self._symbols[start:stop] = symbols
        self._present[start:stop] = True
        self.payload_bytes += len(payload)
        return True

    def prefix(self) -> tuple[NDArray[np.int32], int]:
        """The prefix as a decoder takes it.

        Returns:
            int32 [K, d], zeros beyond the prefix, and the prefix length.
        """
        length = self.prefix_length
        symbols = np.zeros_like(self._symbols)
        symbols[:length] = self._symbols[:length]
        return symbols, length
