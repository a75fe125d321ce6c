"""Frames on their way: open, chunk, key frame, follow-up, revoke, handover."""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple, Self

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from schemas.identity import (
    Digest,
    ad_hoc_query_id,
    standing_query_id,
)
from schemas.limits import (
    MAX_BINARY_BYTES,
    MAX_CONTROL_BYTES,
    MAX_QUERIES_PER_FRAME,
)
from schemas.messages.base import BinaryMessage, Kind, LatentPayload, check_range
from schemas.types import (
    Age,
    Attempt,
    FingerprintPrefix,
    FrameId,
    LatentIndex,
    Milliseconds,
    Name,
    PrefixLength,
    UInt32,
)


class QueryRef(NamedTuple):
    """One query of a frame, as the uplink carries it: a short id and the digest of the text, never the text."""

    question_id: Name
    """Id of a standing question, or the client's id of an ad-hoc one."""
    remaining_ms: Milliseconds
    """Time to its deadline, stamped when the message leaves the uplink's bucket."""
    digest: Digest
    """BLAKE2b hash, 8 bytes long, of the question: it is answered with exactly this text."""
    client: Name | None = None
    """Who asked an ad-hoc question; nil for a standing one, which the site owns."""

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client; else a standing question."""
        return self.client is not None

    def query_id(self, camera: str, frame: FrameId) -> str:
        """Key of the query."""
        if self.client is not None:
            return ad_hoc_query_id(camera, self.client, self.question_id)
        return standing_query_id(camera, frame, self.question_id)


def _distinct(queries: tuple[QueryRef, ...]) -> tuple[QueryRef, ...]:
    if len({(ref.question_id, ref.client) for ref in queries}) != len(queries):
        raise ValueError("a question is asked twice of one frame")
    return queries


Queries = Annotated[
    tuple[QueryRef, ...], Field(min_length=1, max_length=MAX_QUERIES_PER_FRAME), AfterValidator(_distinct)
]
"""Queries of one frame. A query id is the key of everything about a query, so none may stand there twice."""


class Open(BinaryMessage):
    """Edge to pool: a frame, its questions and its base prefix, whole in one message, for whichever worker gets it."""

    kind: ClassVar[Kind] = Kind.OPEN
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    attempt: Attempt
    """1 for the first open of the frame, one more for each further one."""
    site: Name
    """Site of the camera: it owns the standing questions."""
    fingerprint: FingerprintPrefix
    """First 4 bytes of the hash of model, codec and tables that made the latents."""
    queries: Queries
    """What is asked of the frame."""
    stop: PrefixLength
    """Length of the prefix: the payload holds latents ``0..stop``."""
    payload: LatentPayload
    """Coded symbols of those latents."""
    key: UInt32 | None = None
    """Sequence number of the key frame that the latents are coded given; left out when they stand by themselves."""
    age_ms: Age | None = None
    """How old the frame was when its latest question was asked, ``unknown`` after a power cut; left out for a frame of
    now."""

    def query_ids(self, camera: str) -> tuple[str, ...]:
        """Keys of the queries, in the order of ``queries``."""
        return tuple(ref.query_id(camera, self.frame) for ref in self.queries)


class Chunk(BinaryMessage):
    """Edge to the worker that owns the frame: further latents. The camera must agree with the topic's."""

    kind: ClassVar[Kind] = Kind.CHUNK
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    camera: Name
    """Camera of the frame."""
    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    attempt: Attempt
    """Attempt that it belongs to."""
    start: LatentIndex
    """First latent."""
    stop: PrefixLength
    """One past the last latent."""
    payload: LatentPayload
    """Coded symbols of latents ``start..stop``, a stream of its own."""
    key: UInt32 | None = None
    """Sequence number of the key frame that the latents are coded given; left out when they stand by themselves."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_range(self.start, self.stop)
        return self


class KeyFrame(BinaryMessage):
    """Edge to all workers of the pool, retained: a whole latent that later frames of the camera may be coded given."""

    kind: ClassVar[Kind] = Kind.KEY_FRAME
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    frame: FrameId
    """Boot id of the edge and sequence number within the camera: what later frames name."""
    fingerprint: FingerprintPrefix
    """First 4 bytes of the hash of model, codec and tables that made the latents."""
    payload: LatentPayload
    """Coded symbols of all its latents, by themselves."""


class FollowUp(BinaryMessage):
    """Edge to the worker that owns a frame, or answered its questions last: further questions, and no latents."""

    kind: ClassVar[Kind] = Kind.FOLLOW_UP
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    attempt: Attempt
    """Attempt that the worker owns, or owned last."""
    queries: Queries
    """What is asked of the frame beside what it was asked before."""
    age_ms: Age
    """How old the frame was when these questions were asked."""

    def query_ids(self, camera: str) -> tuple[str, ...]:
        """Keys of the queries, in the order of ``queries``."""
        return tuple(ref.query_id(camera, self.frame) for ref in self.queries)


class Revoke(BinaryMessage):
    """Edge to a claimant that comes too late: the frame has another owner, or its outcome already."""

    kind: ClassVar[Kind] = Kind.REVOKE
    limit_bytes: ClassVar[int] = MAX_CONTROL_BYTES

    camera: Name
    """Camera of the frame."""
    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    attempt: Attempt
    """Attempt that the claimant named; later ones are not meant."""


class Handover(BinaryMessage):
    """Worker to a less loaded worker: an open message that nobody has worked on yet."""

    kind: ClassVar[Kind] = Kind.HANDOVER
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    camera: Name
    """Camera of the frame."""
    hops: Annotated[int, Field(ge=1, le=8)]
    """Hand-overs so far, this one included."""
    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    attempt: Attempt
    """Attempt that it belongs to."""
    site: Name
    """Site of the camera: it owns the standing questions."""
    fingerprint: FingerprintPrefix
    """First 4 bytes of the hash of model, codec and tables that made the latents."""
    queries: Queries
    """What is asked of the frame; remaining times are stamped again when it leaves the worker."""
    stop: PrefixLength
    """Length of the prefix."""
    payload: LatentPayload
    """Coded symbols of latents ``0..stop``."""
    key: UInt32 | None = None
    """Sequence number of the key frame that the latents are coded given; left out when they stand by themselves."""
    age_ms: Age | None = None
    """How old the frame was when its latest question was asked, ``unknown`` after a power cut; left out for a frame of
    now."""

    def to_open(self) -> Open:
        """The open message inside."""
        return Open(
            frame=self.frame,
            attempt=self.attempt,
            site=self.site,
            fingerprint=self.fingerprint,
            queries=self.queries,
            stop=self.stop,
            payload=self.payload,
            key=self.key,
            age_ms=self.age_ms,
        )
