"""Chunks of latents to visual tokens. Each chunk is range-decoded once, however often its frame is read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.codec.bitstream import decode_chunk
from pipeline.codec.latent import PrefixAssembler
from pipeline.codec.prediction import KeyFramePrediction
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.effects import InferencePass, KeyData
from schemas.errors import BitstreamError
from schemas.types import FrameId

MAX_FRAMES: Final = 1_024
"""Frames under way at a busy worker; one that was dropped is decoded again from the chunks that its pass carries."""
MAX_BYTES: Final = 32 * 1024 * 1024
"""Symbols of those frames; 1,024 frames of 64 latents x 32 symbols take 8 MB."""
MAX_KEYS: Final = 128
"""Decoded key frames; 128 of 128 latents x 80 symbols take 21 MB. One that was dropped is decoded again."""


class PrefixDecoder(Protocol):
    """The synthesis half of a codec."""

    def decode(self, symbols: NDArray[np.int32], prefix_lengths: NDArray[np.int64]) -> torch.Tensor:
        """Visual tokens of a batch of prefixes.

        Args:
            symbols: int32 ``[B, K, d]``, zeros beyond the prefix.
            prefix_lengths: known latents ``[B]``.

        Returns:
            Tokens ``[B, N, D]``.
        """


class PrefixStore:
    """Prefixes of the frames that a worker has at its model.

    Args:
        tables: frequency tables of the codec.
        decoder: its synthesis.
        max_frames: frames kept; the least recently read is dropped first.
        max_bytes: symbols kept.
    """

    def __init__(
        self,
        tables: FrequencyTables,
        decoder: PrefixDecoder,
        *,
        max_frames: int = MAX_FRAMES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._tables = tables
        self._decoder = decoder
        # Symbols and one flag a latent.
        bytes_a_frame = tables.latent_count * (4 * tables.latent_dim + 1)
        self._capacity = max(1, min(max_frames, max_bytes // bytes_a_frame))
        self._frames: OrderedDict[tuple[str, FrameId], PrefixAssembler] = OrderedDict()
        self._keys: OrderedDict[KeyData, KeyFramePrediction] = OrderedDict()

    def __len__(self) -> int:
        return len(self._frames)

    def symbols(self, inference_pass: InferencePass) -> NDArray[np.int32]:
        """Symbols of a pass's prefix.

        Args:
            inference_pass: its chunks run from 0 to ``inference_pass.stop``.

        Returns:
            int32 ``[K, d]``, zeros beyond the prefix.

        Raises:
            BitstreamError: a chunk or the key frame that it was coded given does not decode, a chunk contradicts an
                earlier one, or one is missing.
        """
        key = (inference_pass.camera, inference_pass.frame)
        prefix = self._frames.pop(key, None) or PrefixAssembler(self._tables)
        # A frame that failed stays out of the store: it starts afresh if its edge sends it again.
        for chunk in inference_pass.chunks:
            prefix.add(chunk.start, chunk.stop, chunk.payload, self._given(chunk.key))
        if prefix.prefix_length < inference_pass.stop:
            raise BitstreamError(prefix.prefix_length, inference_pass.stop, "no chunk holds these latents")
        self._frames[key] = prefix
        if len(self._frames) > self._capacity:
            self._frames.popitem(last=False)
        symbols, _ = prefix.prefix()
        # An earlier pass may have reached further than this one asks.
        symbols[inference_pass.stop :] = 0
        return symbols

    def tokens(self, symbols: Sequence[NDArray[np.int32]], prefix_lengths: Sequence[int]) -> torch.Tensor:
        """Visual tokens of several frames in one pass.

        Args:
            symbols: int32 ``[K, d]`` of each frame.
            prefix_lengths: known latents of each.

        Returns:
            Tokens ``[B, N, D]``.
        """
        return self._decoder.decode(np.stack(symbols), np.asarray(prefix_lengths, dtype=np.int64))

    def _given(self, key: KeyData | None) -> KeyFramePrediction | None:
        if key is None:
            return None
        known = self._keys.pop(key, None)
        if known is None:
            count = self._tables.latent_count
            if self._tables.prediction is None:
                raise BitstreamError(0, count, "coded given a key frame, which this codec does not know")
            known = KeyFramePrediction(decode_chunk(key.payload, 0, count, self._tables), self._tables)
        self._keys[key] = known
        if len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)
        return known
