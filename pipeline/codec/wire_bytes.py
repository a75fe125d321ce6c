"""What frames cost on the uplink, headers of every layer included: the price that prefixes are chosen by.

Topics of what goes up are known to the broker by aliases, as they are from the third message on; it spells its own.

Sizes are code lengths, which may be a byte above the latents' own, and a codec that is being measured may make more
than a message carries: what is beyond that is counted as if one could.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from schemas import topics, wire
from schemas.identity import DIGEST_BYTES
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES
from schemas.messages import Chunk, KeyFrame, Open, QueryRef, Refine
from schemas.types import FrameId
from schemas.wire_cost import (
    TCP_IP_BYTES,
    known_topic_wire_bytes,
    puback_wire_bytes,
    refine_overhead_wire_bytes,
)

_SITE: Final = "north"
_CAMERA: Final = "gate"
_WORKER: Final = "w-1a2b3c4d"
_FRAME: Final = FrameId(0x1234ABCD, 20_000)


@lru_cache(maxsize=4096)
def open_uplink_bytes(payload_bytes: int, questions: int) -> int:
    """Bytes that one open message takes on the way up, over TLS.

    Args:
        payload_bytes: Latents in it, at least 1 byte.
        questions: How many questions it asks.
    """
    queries = tuple(QueryRef(f"q{number}", 9_500, bytes(DIGEST_BYTES)) for number in range(questions))
    carried_bytes = min(payload_bytes, MAX_LATENT_PAYLOAD_BYTES)
    message = Open(
        frame=_FRAME,
        attempt=1,
        site=_SITE,
        fingerprint=b"\1\2\3\4",
        queries=queries,
        stop=40,
        payload=bytes(carried_bytes),
    )
    size_bytes = len(wire.encode(message)) + payload_bytes - carried_bytes
    return known_topic_wire_bytes(size_bytes, 1)


def open_wire_bytes(payload_bytes: int, questions: int) -> int:
    """Bytes of one open message with its acknowledgement, both ways, see `open_uplink_bytes`."""
    return open_uplink_bytes(payload_bytes, questions) + puback_wire_bytes()


@lru_cache(maxsize=4096)
def key_frame_wire_bytes(payload_bytes: int) -> int:
    """Bytes of one key frame message with its acknowledgement, both ways, over TLS.

    Args:
        payload_bytes: The whole latent, at least 1 byte.
    """
    carried_bytes = min(payload_bytes, MAX_LATENT_PAYLOAD_BYTES)
    message = KeyFrame(frame=_FRAME, fingerprint=b"\1\2\3\4", payload=bytes(carried_bytes))
    size_bytes = len(wire.encode(message)) + payload_bytes - carried_bytes
    return known_topic_wire_bytes(size_bytes, 1) + puback_wire_bytes()


@lru_cache(maxsize=4096)
def refine_wire_bytes(payload_bytes: int) -> int:
    """Bytes of one refinement, request and chunk with their bare TCP acknowledgements, over TLS.

    Args:
        payload_bytes: Latents in the chunk, at least 1 byte.
    """
    return refine_overhead_wire_bytes(
        topics.control_topic(_CAMERA),
        _request_bytes(),
        _chunk_bytes(payload_bytes),
    )


@lru_cache(maxsize=4096)
def refine_uplink_bytes(payload_bytes: int) -> int:
    """Bytes that one refinement takes on the way up: the chunk, and the bare acknowledgement of the request, over TLS.

    Args:
        payload_bytes: Latents in the chunk, at least 1 byte.
    """
    return known_topic_wire_bytes(_chunk_bytes(payload_bytes), 0) + TCP_IP_BYTES


def _request_bytes() -> int:
    return len(wire.encode(Refine(worker=_WORKER, frame=_FRAME, attempt=1, start=20, stop=40, lease_ms=1_500)))


def _chunk_bytes(payload_bytes: int) -> int:
    carried_bytes = min(payload_bytes, MAX_LATENT_PAYLOAD_BYTES)
    chunk = Chunk(camera=_CAMERA, frame=_FRAME, attempt=1, start=20, stop=40, payload=bytes(carried_bytes))
    return len(wire.encode(chunk)) + payload_bytes - carried_bytes
