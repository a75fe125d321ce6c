"""What a worker tells an edge about a frame: accept, refine, busy, reject, need text."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, ClassVar, Self

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from schemas.identity import (
    Digest,
)
from schemas.limits import (
    MAX_CONTROL_BYTES,
)
from schemas.messages.base import BinaryMessage, Kind, LeaseMs, check_range
from schemas.types import (
    Attempt,
    FingerprintPrefix,
    FrameId,
    LatentIndex,
    Milliseconds,
    Name,
    PrefixLength,
)


class _Control(BinaryMessage):
    """Worker to edge. The first one for (frame, attempt) makes its sender the owner, whatever its kind."""

    limit_bytes: ClassVar[int] = MAX_CONTROL_BYTES

    worker: Name
    """Who speaks; its inbox is ``lb/v2/chunk/{worker}/{camera}``."""
    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    attempt: Attempt
    """Attempt that the worker holds."""


class Accept(_Control):
    """The frame is admitted; the answer will take longer than the base lease."""

    kind: ClassVar[Kind] = Kind.ACCEPT

    lease_ms: LeaseMs
    """Silence for this long means that the worker is lost."""


class Refine(_Control):
    """The answer is not yet safe: send latents ``start..stop`` to the worker's inbox."""

    kind: ClassVar[Kind] = Kind.REFINE

    start: LatentIndex
    """First latent wanted."""
    stop: PrefixLength
    """One past the last latent wanted."""
    lease_ms: LeaseMs
    """Lease from now on."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_range(self.start, self.stop)
        return self


class Busy(_Control):
    """The worker holds as much as it may: open the frame again, later."""

    kind: ClassVar[Kind] = Kind.BUSY

    retry_after_ms: Milliseconds
    """Wait before the next open."""


class RejectReason(IntEnum):
    """Why a worker will never be able to answer this frame."""

    FINGERPRINT = 1
    """Made for another model or codec."""
    BITSTREAM = 2
    """The latents do not decode."""
    MODEL = 3
    """The model raised an error on it."""
    KEY_FRAME = 4
    """Coded given a key frame that is not here: open it again, coded by itself."""
    CAMERA = 5
    """Another site that is online has a camera of this name."""
    FRAME = 6
    """A follow-up on a frame that is not here, or not any more: open it."""


def _reject_reason(value: object) -> object:
    # msgpack gives the bare number; pydantic's lax mode would also take True, 1.0 and "1".
    return RejectReason(value) if type(value) is int else value


class Reject(_Control):
    """This pool cannot answer the frame as it is; another attempt would meet the same."""

    kind: ClassVar[Kind] = Kind.REJECT

    reason: Annotated[RejectReason, BeforeValidator(_reject_reason)]
    """1 fingerprint, 2 bitstream, 3 model, 4 key frame, 5 camera, 6 frame."""
    fingerprint: FingerprintPrefix
    """What this pool decodes."""


class NeedText(BinaryMessage):
    """Worker to edge: the texts of these questions are unknown here."""

    kind: ClassVar[Kind] = Kind.NEED_TEXT
    limit_bytes: ClassVar[int] = MAX_CONTROL_BYTES

    worker: Name
    """Who asks; the texts go to its inbox."""
    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    attempt: Attempt
    """Attempt that it belongs to."""
    digests: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=16)]
    """Digests of the texts that are missing, as the open message has them."""
