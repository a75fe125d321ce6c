"""Whole latents in a local log: an edge stores them beside its traffic, and they never cross the uplink.

A stored latent stands on the topic ``$local/latent/{camera}``, which no broker carries. Its payload is a msgpack array
``[version, boot, sequence, base latents, latents, coded bytes]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgpack

from pipeline.recording.format import LATENT_ROOT
from schemas.errors import WireError
from schemas.limits import MAX_LATENTS
from schemas.types import FrameId

STORED_LATENT_VERSION: Final = 1
MAX_STORED_LATENT_BYTES: Final = 1_048_576
"""No link limits a stored latent, only the memory of who reads it."""

_WHERE: Final = "$local/latent"
_UINT32: Final = 2**32


@dataclass(frozen=True, slots=True)
class StoredLatent:
    """The whole latent of a frame.

    Attributes:
        camera: camera of the frame.
        frame: the frame.
        base: length of the prefix that opened it.
        stop: latents in the payload, counted from 0.
        payload: coded symbols of latents ``0..stop``, one chunk.
    """

    camera: str
    frame: FrameId
    base: int
    stop: int
    payload: bytes


def latent_topic(camera: str) -> str:
    """Where the whole latents of a camera stand in a local log."""
    return f"{LATENT_ROOT}{camera}"


def encode_stored_latent(stored: StoredLatent) -> bytes:
    """Payload of a stored latent; the topic names the camera."""
    frame = stored.frame
    data: bytes = msgpack.packb(
        [STORED_LATENT_VERSION, frame.boot, frame.sequence, stored.base, stored.stop, stored.payload]
    )
    return data


def decode_stored_latent(topic: str, data: bytes) -> StoredLatent:
    """The stored latent that a message of a log is.

    Args:
        topic: its topic, below :data:`~pipeline.recording.format.LATENT_ROOT`.
        data: its payload.

    Raises:
        WireError: it is none.
    """
    if len(data) > MAX_STORED_LATENT_BYTES:
        raise WireError(_WHERE, f"{len(data)} bytes are over the limit of {MAX_STORED_LATENT_BYTES}")
    try:
        values: Any = msgpack.unpackb(data, use_list=False, max_array_len=16, max_map_len=0, max_ext_len=0)
    except Exception:  # noqa: BLE001 - msgpack raises many types on hostile bytes; all mean the same here
        raise WireError(_WHERE, "not msgpack") from None
    match values:
        case (int(version), *_) if version != STORED_LATENT_VERSION:
            raise WireError(_WHERE, f"version {version} is not {STORED_LATENT_VERSION}: read it with a newer Latentbus")
        case (_, int(boot), int(sequence), int(base), int(stop), bytes(payload)) if (
            0 <= boot < _UINT32 and 0 <= sequence < _UINT32 and 1 <= base <= stop <= MAX_LATENTS and payload
        ):
            return StoredLatent(topic.removeprefix(LATENT_ROOT), FrameId(boot, sequence), base, stop, payload)
    raise WireError(_WHERE, "not an array of version, boot, sequence, base, latents and coded bytes")
