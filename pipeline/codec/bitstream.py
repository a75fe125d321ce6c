"""Latents to bytes and back: a range coder over the static tables.

Each chunk is a stream of its own, so the bytes of latents ``a..b`` depend on the symbols of ``a..b`` only, and chunks
decode in any order. Layout of a chunk: the table entries of all its symbols in order, then what the escapes among
them need, in the same order. A chunk that is coded given a key frame has other tables
(:mod:`pipeline.codec.prediction`), and before everything else the level of change that chose them.

constriction's range coder seals a stream to 4-byte words, which would add 30 % to a 9-byte chunk. Here a chunk is the
shortest byte string that lies in the coder's final interval when zeros follow it without end, and the smallest one of
that length. There is exactly one such string for any symbols; the decoder refuses every other.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.prediction import KeyFramePrediction
from pipeline.codec.tables import ESCAPE_LENGTH_CLASSES, MAX_SYMBOL, FrequencyTables
from schemas.errors import BitstreamError, StateError
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES

model: Any
queue: Any
try:
    import constriction
except ModuleNotFoundError:  # it has no wheel for this machine
    from pipeline.codec import range_coder

    model = queue = range_coder
else:
    model, queue = constriction.stream.model, constriction.stream.queue

_STATE_BITS: Final = 64
_WORD_BITS: Final = 32


def encode_chunk(
    symbols: NDArray[np.int32], start: int, tables: FrequencyTables, given: KeyFramePrediction | None = None
) -> bytes:
    """Code latents ``start..start + n``.

    Args:
        symbols: int [n, d], magnitudes of at most `MAX_SYMBOL`.
        start: Index of the first latent.
        tables: Tables of the codec.
        given: What the key frame foretells; None codes the latents by themselves.

    Returns:
        At least 1 byte; at most the code length under the tables, rounded up to whole bytes, and about 0.0002 bits a
        symbol, which is what the coder's 24-bit arithmetic loses.

    Raises:
        StateError: symbols of another shape or beyond `MAX_SYMBOL`, or a range outside the latent.
    """
    stop = start + len(symbols)
    _check_range(start, stop, tables)
    if symbols.ndim != 2 or symbols.shape[1] != tables.latent_dim:
        raise StateError(f"symbols {list(symbols.shape)} are not [n, {tables.latent_dim}]")
    flat = symbols.astype(np.int32, copy=False).ravel()
    if flat.min() < -MAX_SYMBOL or flat.max() > MAX_SYMBOL:
        raise StateError(f"symbols {flat.min()}..{flat.max()} exceed the magnitude {MAX_SYMBOL}")
    if given is None:
        return _encode(flat, tables.support, tables.coder_weights(start, stop))
    level = given.best_level(symbols, start)
    return _encode(flat, tables.support, given.coder_weights(level, start, stop), (level, given.levels))


def _encode(
    flat: NDArray[np.int32],
    support: int,
    weights: NDArray[np.float32],
    level: tuple[int, int] | None = None,
) -> bytes:
    """The bytes of symbols under these tables; `level` is that of a key frame, and how many there are."""
    escaped = np.abs(flat) > support
    entries = np.where(escaped, 2 * support + 1, flat + support).astype(np.int32)
    coder = queue.RangeEncoder()
    if level is not None:
        coder.encode(level[0], model.Uniform(level[1]))
    coder.encode(entries, _family(), weights)
    for symbol in flat[escaped].tolist():
        magnitude = abs(symbol) - support
        length = magnitude.bit_length()
        coder.encode(length, model.Uniform(ESCAPE_LENGTH_CLASSES))
        if length > 1:
            below = 1 << (length - 1)
            coder.encode(magnitude - below, model.Uniform(below))
        coder.encode(int(symbol < 0), model.Uniform(2))
    return _shortest(coder)


def decode_chunk(
    payload: bytes, start: int, stop: int, tables: FrequencyTables, given: KeyFramePrediction | None = None
) -> NDArray[np.int32]:
    """Decode latents ``start..stop``; the work is bounded by the number of symbols, whatever the bytes are.

    Args:
        payload: What `encode_chunk` returned.
        start: Index of the first latent.
        stop: One past the last latent.
        tables: Tables of the codec.
        given: What the key frame foretells that the encoder was given.

    Returns:
        int32 [stop - start, d].

    Raises:
        BitstreamError: these bytes are not what `encode_chunk` makes of any symbols.
        StateError: the range is outside the latent.
    """
    _check_range(start, stop, tables)
    if not 1 <= len(payload) <= MAX_LATENT_PAYLOAD_BYTES:
        raise BitstreamError(start, stop, f"{len(payload)} bytes are not in 1..{MAX_LATENT_PAYLOAD_BYTES}")
    words = np.frombuffer(payload + bytes(-len(payload) % 4), dtype=">u4").astype(np.uint32)
    decoder = queue.RangeDecoder(words)
    support = tables.support
    level: tuple[int, int] | None = None
    try:
        if given is None:
            weights = tables.coder_weights(start, stop)
        else:
            level = int(decoder.decode(model.Uniform(given.levels))), given.levels
            weights = given.coder_weights(level[0], start, stop)
        entries: NDArray[np.int32] = decoder.decode(_family(), weights)
        flat = entries - np.int32(support)
        for place in np.flatnonzero(entries == 2 * support + 1).tolist():
            flat[place] = _decode_escape(decoder, support)
    except (AssertionError, ValueError) as error:
        raise BitstreamError(start, stop, f"{len(payload)} bytes do not decode: {error}") from error
    symbols: NDArray[np.int32] = flat.reshape(stop - start, tables.latent_dim)
    if _encode(flat, support, weights, level) != payload:
        raise BitstreamError(
            start, stop, f"{len(payload)} bytes are not the shortest code of their symbols: damaged or cut"
        )
    return symbols


def _decode_escape(decoder: Any, support: int) -> int:
    length = int(decoder.decode(model.Uniform(ESCAPE_LENGTH_CLASSES)))
    if length == 0:
        raise ValueError("an escape of length 0")
    magnitude = 1
    if length > 1:
        below = 1 << (length - 1)
        magnitude = below + int(decoder.decode(model.Uniform(below)))
    magnitude += support
    if magnitude > MAX_SYMBOL:
        raise ValueError(f"an escape to {magnitude}")
    return -magnitude if decoder.decode(model.Uniform(2)) else magnitude


def _shortest(coder: Any) -> bytes:
    """The shortest byte string whose value, zeros appended, lies in the coder's interval."""
    first, width, total_bits = _interval(coder)
    if first == 0:
        return b"\0"
    # Some multiple of 2**n lies in first..last exactly when first - 1 and last differ at bit n or above.
    highest = ((first - 1) ^ (first + width - 1)).bit_length() - 1
    unit_bits = highest - highest % 8
    value: int = -(-first >> unit_bits)  # rounded up
    return value.to_bytes((total_bits - unit_bits) // 8, "big")


def _interval(coder: Any) -> tuple[int, int, int]:
    """First number of the coder's interval, its width, and how many bits these numbers have.

    constriction's state is (lower, range): 64 bits each, which follow `position` words that are final but for a carry.
    The carry is taken from the sealed stream, a point of the interval: ``lower`` is its distance below that point,
    modulo 2**64.
    """
    if hasattr(coder, "interval"):
        found: tuple[int, int, int] = coder.interval()
        return found
    state: tuple[int, tuple[int, int]] = coder.pos()
    position, (lower, width) = state
    sealed = coder.get_compressed()
    total_bits = position * _WORD_BITS + _STATE_BITS
    point = int.from_bytes(sealed.astype(">u4").tobytes(), "big")
    shift = total_bits - len(sealed) * _WORD_BITS
    point = point << shift if shift >= 0 else point >> -shift
    return point - ((point - lower) % (1 << _STATE_BITS)), width, total_bits


def _family() -> Any:
    return model.Categorical(perfect=False)


def _check_range(start: int, stop: int, tables: FrequencyTables) -> None:
    if not 0 <= start < stop <= tables.latent_count:
        raise StateError(f"latents {start}..{stop} are not a range of 0..{tables.latent_count}")
