"""Static integer frequency tables: one distribution per (latent, channel).

A table has ``2 * support + 2`` entries: symbols ``-support..support`` in order, then the escape. Entries are integers
of at least 1 that sum to 65,536, so both sides compute with the same numbers on every machine; there is no float to
disagree about.

An escaped symbol is followed by its magnitude, raw: with ``m = |symbol| - support`` the bit length of m (4 bits), the
bits below its leading one, and the sign (1 bit). That is 5 to 19 bits beyond the escape itself.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from schemas.errors import ArtifactError, StateError

FREQUENCY_BITS: Final = 16
FREQUENCY_TOTAL: Final = 1 << FREQUENCY_BITS
MAX_SYMBOL: Final = 32_767
"""Largest magnitude on the wire; encoders clip to it."""
ESCAPE_LENGTH_CLASSES: Final = 16
MAX_LEVELS: Final = 16
MIN_SAME_WEIGHT: Final = 1_024
"""Least weight of the key frame's own symbol; more than a table has entries, so that rounding cannot use it up."""

_CODER_SCALE: Final = 1 << (24 - FREQUENCY_BITS)
"""constriction works with 24-bit probabilities."""


class FrequencyTables:
    """Frequencies of the symbols of one codec.

    Args:
        frequencies: uint16 [K, d, 2 * support + 2], each row at least 1 everywhere and summing to 65,536.
        prediction: uint16 [levels, 2, contexts], the weights of :mod:`pipeline.codec.prediction` in 65,536ths: of the
            static table, and of both neighbours of the key frame's symbol together. None for a codec that codes each
            frame by itself.

    Raises:
        ValueError: anything else.
    """

    def __init__(self, frequencies: NDArray[np.uint16], prediction: NDArray[np.uint16] | None = None) -> None:
        if (
            frequencies.ndim != 3
            or frequencies.dtype != np.uint16
            or 0 in frequencies.shape
            or frequencies.shape[2] % 2
            or frequencies.shape[2] < 4
        ):
            raise ValueError(f"{frequencies.dtype} {list(frequencies.shape)} is not uint16 [K, d, 2 * support + 2]")
        if (frequencies == 0).any() or (frequencies.sum(axis=2, dtype=np.int64) != FREQUENCY_TOTAL).any():
            raise ValueError(f"a row has a zero or does not sum to {FREQUENCY_TOTAL}")
        if prediction is not None:
            _check_prediction(prediction, frequencies.shape[2])
            prediction.setflags(write=False)
        self._frequencies = frequencies
        self._frequencies.setflags(write=False)
        self._prediction = prediction

    @property
    def frequencies(self) -> NDArray[np.uint16]:
        """uint16 [K, d, 2 * support + 2], read-only."""
        return self._frequencies

    @property
    def prediction(self) -> NDArray[np.uint16] | None:
        """Weights of predictions from a key frame, uint16 [levels, 2, contexts], read-only; None without any."""
        return self._prediction

    @property
    def latent_count(self) -> int:
        """Latents of one frame, K."""
        return int(self._frequencies.shape[0])

    @property
    def latent_dim(self) -> int:
        """Symbols of one latent, d."""
        return int(self._frequencies.shape[1])

    @property
    def support(self) -> int:
        """Largest magnitude that needs no escape."""
        return (int(self._frequencies.shape[2]) - 2) // 2

    @classmethod
    def fit(cls, symbols: NDArray[np.int32], support: int, smoothing: float = 1.0) -> FrequencyTables:
        """Count symbols of calibration frames.

        What the counts have not seen follows a two-sided geometric distribution of the same mean magnitude, weighing as
        much as `smoothing` frames. Without it a symbol that happens not to occur in the calibration costs 16 bits.

        Args:
            symbols: int [F, K, d].
            support: Largest magnitude that needs no escape, at least 1.
            smoothing: Weight of the geometric tail, in frames.
        """
        if support < 1 or symbols.ndim != 3 or not len(symbols):
            raise StateError(f"cannot fit tables to symbols {list(symbols.shape)} with support {support}")
        frames, latents, channels = symbols.shape
        entries = 2 * support + 2
        indices = entries_of(symbols, support).reshape(frames, -1)
        rows = np.arange(latents * channels) * entries
        counts = np.bincount((indices + rows).ravel(), minlength=latents * channels * entries).reshape(-1, entries)
        mean_magnitude = np.abs(symbols, dtype=np.float64).mean(axis=0).reshape(-1, 1)
        # Two-sided geometric: P(s) ~ r^|s|; E|s| = 2r / (1 - r^2).
        magnitude = np.maximum(mean_magnitude, 0.5 / frames)
        ratio = (np.sqrt(1 + magnitude**2) - 1) / magnitude
        tail = ratio ** np.abs(np.arange(-support, support + 1))
        tail /= (1 + ratio) / (1 - ratio)
        weight = counts.astype(np.float64)
        weight[:, :-1] += smoothing * tail
        weight[:, -1] += smoothing * np.maximum(1 - tail.sum(axis=1), 1e-6)
        share = weight / weight.sum(axis=1, keepdims=True)
        frequencies = np.floor(share * (FREQUENCY_TOTAL - entries)).astype(np.int64) + 1
        # The largest entry takes what rounding left over: there it changes the code length least.
        frequencies[np.arange(len(frequencies)), share.argmax(axis=1)] += FREQUENCY_TOTAL - frequencies.sum(axis=1)
        return cls(frequencies.astype(np.uint16).reshape(latents, channels, entries))

    def symbol_bits(self, symbols: NDArray[np.int32], start: int, stop: int) -> NDArray[np.float64]:
        """Ideal code length of every symbol of a batch.

        Args:
            symbols: int [F, stop - start, d].
            start: First latent.
            stop: One past the last latent.

        Returns:
            float [F, stop - start, d], in bits.
        """
        table = self._frequencies[start:stop]
        if symbols.shape[1:] != table.shape[:2]:
            raise StateError(f"symbols {list(symbols.shape)} are not [F, {stop} - {start}, {self.latent_dim}]")
        entries = entries_of(symbols, self.support)
        chosen = np.take_along_axis(table[None], entries[..., None], axis=3)[..., 0]
        bits: NDArray[np.float64] = FREQUENCY_BITS - np.log2(chosen.astype(np.float64))
        return bits + self.escape_bits(symbols)

    def escape_bits(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Bits that follow the escapes: of each symbol beyond the support, its magnitude and sign; 0 of the others."""
        excess = np.maximum(np.abs(symbols.astype(np.int64)) - self.support, 0)
        bits = np.zeros(symbols.shape)
        escaped = excess > 0
        bits[escaped] = np.log2(ESCAPE_LENGTH_CLASSES) + np.floor(np.log2(excess[escaped])) + 1
        return bits

    def mean_latent_bits(self) -> NDArray[np.float64]:
        """Mean code length of each latent on frames like those that the tables were counted on, float [K]."""
        shares = self._frequencies / FREQUENCY_TOTAL
        return np.asarray(-(shares * np.log2(shares)).sum(axis=(1, 2)), dtype=np.float64)

    @cached_property
    def _weights(self) -> NDArray[np.float32]:
        weights = as_coder_weights(self._frequencies.astype(np.int64))
        weights.setflags(write=False)
        return weights

    def coder_weights(self, start: int, stop: int) -> NDArray[np.float32]:
        """Tables as constriction takes them, see `as_coder_weights`.

        Returns:
            float32 [(stop - start) * d, 2 * support + 2].
        """
        return self._weights[start:stop].reshape(-1, self._frequencies.shape[2])

    def save(self, path: Path) -> None:
        """Write ``tables.safetensors``."""
        content = {"frequencies": np.ascontiguousarray(self._frequencies)}
        if self._prediction is not None:
            content["prediction"] = np.ascontiguousarray(self._prediction)
        path.write_bytes(save(content))

    @classmethod
    def load(cls, path: Path) -> FrequencyTables:
        """Read ``tables.safetensors``.

        Raises:
            ArtifactError: missing, damaged, or not frequency tables.
        """
        try:
            content = load_file(path)
            return cls(content["frequencies"], content.get("prediction"))
        except OSError as error:
            raise ArtifactError(str(path), f"{error}; copy the whole codec folder") from error
        except (SafetensorError, KeyError, ValueError, AttributeError, TypeError) as error:
            # A type that NumPy lacks, BF16 for example, is a TypeError.
            raise ArtifactError(str(path), f"not frequency tables: {error}; copy the whole codec folder") from error


def as_coder_weights(frequencies: NDArray[np.signedinteger[Any]]) -> NDArray[np.float32]:
    """Integer tables as constriction takes them, in such a form that its float arithmetic is exact.

    `Categorical(perfect=False)` scales n weights to a sum of ``2**24 - n`` in floating point, then adds 1 to each. So
    the weights given here are the integers ``256 * frequency - 1``, whose sum is ``2**24 - n`` already: the scale is
    exactly 1, every partial sum is an integer below 2**24, which a 32-bit float holds exactly, and no machine can round
    it differently.

    Args:
        frequencies: [..., entries], of 32 bits or more, each row at least 1 everywhere and summing to 65,536.

    Returns:
        float32 of the same shape.
    """
    return np.ascontiguousarray(frequencies * _CODER_SCALE - 1, dtype=np.float32)


def entries_of(symbols: NDArray[np.int32], support: int) -> NDArray[np.int64]:
    """Table entry of each symbol, the escape for those beyond the support."""
    shifted = symbols.astype(np.int64) + support
    return np.where((shifted < 0) | (shifted > 2 * support), 2 * support + 1, shifted)


def _check_prediction(weights: NDArray[np.uint16], entries: int) -> None:
    """Refuse weights that leave nothing for the key frame's own symbol, or more levels than a byte is worth."""
    if weights.ndim != 3 or weights.dtype != np.uint16 or weights.shape[1] != 2 or 0 in weights.shape:
        raise ValueError(f"{weights.dtype} {list(weights.shape)} is not uint16 [levels, 2, contexts]")
    if len(weights) > MAX_LEVELS:
        raise ValueError(f"{len(weights)} levels are over the limit of {MAX_LEVELS}")
    if entries > MIN_SAME_WEIGHT or (weights.sum(axis=1, dtype=np.int64) > FREQUENCY_TOTAL - MIN_SAME_WEIGHT).any():
        raise ValueError(f"less than {MIN_SAME_WEIGHT} of {FREQUENCY_TOTAL} is left for the key frame's own symbol")
