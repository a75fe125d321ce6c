"""Every message that crosses the broker.

Binary messages are msgpack arrays ``[schema version, kind, field, ...]`` in the order of the fields below; they travel on the
thin link, where a key name in each message would cost more than a small latent. Whatever a person or a foreign client would
read is JSON with an explicit ``v``. Encoding and decoding are in :mod:`schemas.wire`, topics in :mod:`schemas.topics`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.limits import (
    MAX_ANSWER_CHARS,
    MAX_BINARY_BYTES,
    MAX_CONTROL_BYTES,
    MAX_JSON_BYTES,
    MAX_LATENT_PAYLOAD_BYTES,
    MAX_QUERIES_PER_FRAME,
    MAX_QUESTION_CHARS,
)
from schemas.types import (
    AnswerType,
    Attempt,
    FingerprintPrefix,
    FrameId,
    LatentIndex,
    Milliseconds,
    Name,
    Outcome,
    Probability,
    QueryId,
    UInt32,
    standing_query_id,
)

SCHEMA_VERSION = 1
ACCEPTED_VERSIONS = frozenset({1})
"""A process speaks its own version and the one before it; version 1 has none before it."""

LatentPayload = Annotated[bytes, Field(min_length=1, max_length=MAX_LATENT_PAYLOAD_BYTES)]
LeaseMs = Annotated[int, Field(ge=1, le=600_000)]


class Kind(IntEnum):
    """Tag of a binary message. A number is never used again for something else."""

    OPEN = 1
    CHUNK = 2
    GONE = 3
    TEXT = 4
    HANDOVER = 5
    ACCEPT = 6
    REFINE = 7
    BUSY = 8
    REJECT = 9
    NEED_TEXT = 10


class Message(BaseModel):
    """Base of all messages: immutable, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    limit_bytes: ClassVar[int]


class BinaryMessage(Message):
    """A msgpack array; the order of its fields is the wire format."""

    kind: ClassVar[Kind]


class JsonMessage(Message):
    """A JSON object that any MQTT client can read."""

    limit_bytes: ClassVar[int] = MAX_JSON_BYTES
    v: Literal[1] = 1


class QueryRef(NamedTuple):
    """One query of a frame, as the uplink carries it: a short id, never the text."""

    question_id: Name
    """Id of a standing question, or the query id of an ad-hoc one."""
    remaining_ms: Milliseconds
    """Time to its deadline, stamped when the message leaves the uplink's bucket."""
    ad_hoc: bool = False


class _LatentRange(BinaryMessage):
    """Latents ``start..stop`` of a frame; an empty or reversed range is no message."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        start: int = getattr(self, "start", 0)
        stop: int = getattr(self, "stop", 0)
        if start >= stop:
            raise ValueError(f"latent range {start}..{stop} is empty")
        return self


class Open(_LatentRange):
    """Edge to pool: a frame, its questions and its base prefix, whole in one message, for whichever worker gets it."""

    kind: ClassVar[Kind] = Kind.OPEN
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    frame: FrameId
    attempt: Attempt
    fingerprint: FingerprintPrefix
    queries: Annotated[tuple[QueryRef, ...], Field(min_length=1, max_length=MAX_QUERIES_PER_FRAME)]
    stop: LatentIndex
    """The payload holds latents ``0..stop``."""
    payload: LatentPayload

    def query_ids(self, camera: str) -> tuple[str, ...]:
        """Query ids in the order of ``queries``."""
        return tuple(
            ref.question_id if ref.ad_hoc else standing_query_id(camera, self.frame, ref.question_id)
            for ref in self.queries
        )


class Chunk(_LatentRange):
    """Edge to the worker that owns the frame: further latents. The camera must agree with the topic's."""

    kind: ClassVar[Kind] = Kind.CHUNK
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    camera: Name
    frame: FrameId
    attempt: Attempt
    start: LatentIndex
    stop: LatentIndex
    payload: LatentPayload


class Gone(BinaryMessage):
    """Edge to a claimant that comes too late: the frame has another owner, or its outcome already."""

    kind: ClassVar[Kind] = Kind.GONE
    limit_bytes: ClassVar[int] = MAX_CONTROL_BYTES

    camera: Name
    frame: FrameId
    attempt: Attempt


class Text(BinaryMessage):
    """Edge to a worker that asked for a question's text."""

    kind: ClassVar[Kind] = Kind.TEXT
    limit_bytes: ClassVar[int] = MAX_JSON_BYTES

    camera: Name
    question_id: Name
    text: Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_CHARS)]
    answer_type: Annotated[AnswerType, Field(strict=False)]


class Handover(BinaryMessage):
    """Worker to a less loaded worker: an open message that nobody has worked on yet."""

    kind: ClassVar[Kind] = Kind.HANDOVER
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    camera: Name
    hops: Annotated[int, Field(ge=1, le=8)]
    frame: FrameId
    attempt: Attempt
    fingerprint: FingerprintPrefix
    queries: Annotated[tuple[QueryRef, ...], Field(min_length=1, max_length=MAX_QUERIES_PER_FRAME)]
    """Remaining times are stamped again when it leaves the worker."""
    stop: Annotated[LatentIndex, Field(ge=1)]
    payload: LatentPayload

    def to_open(self) -> Open:
        """The open message inside."""
        return Open(
            frame=self.frame,
            attempt=self.attempt,
            fingerprint=self.fingerprint,
            queries=self.queries,
            stop=self.stop,
            payload=self.payload,
        )


class _Control(BinaryMessage):
    """Worker to edge. The first one for (frame, attempt) makes its sender the owner, whatever its kind."""

    limit_bytes: ClassVar[int] = MAX_CONTROL_BYTES

    worker: Name
    frame: FrameId
    attempt: Attempt


class Accept(_Control):
    """The frame is admitted; the answer will take longer than the base lease."""

    kind: ClassVar[Kind] = Kind.ACCEPT

    lease_ms: LeaseMs
    """Silence for this long means that the worker is lost."""


class Refine(_Control):
    """The answer is not yet safe: send latents ``start..stop`` to the worker's inbox."""

    kind: ClassVar[Kind] = Kind.REFINE

    start: LatentIndex
    stop: LatentIndex
    lease_ms: LeaseMs

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start >= self.stop:
            raise ValueError(f"latent range {self.start}..{self.stop} is empty")
        return self


class Busy(_Control):
    """The worker holds as much as it may: open the frame again, later."""

    kind: ClassVar[Kind] = Kind.BUSY

    retry_after_ms: Milliseconds


class RejectReason(IntEnum):
    """Why a worker will never be able to answer this frame."""

    FINGERPRINT = 1
    """Made for another model or codec."""
    BITSTREAM = 2
    """The latents do not decode."""
    MODEL = 3
    """The model raised an error on it."""


class Reject(_Control):
    """This pool cannot answer the frame; another attempt would meet the same."""

    kind: ClassVar[Kind] = Kind.REJECT

    reason: Annotated[RejectReason, Field(strict=False)]
    fingerprint: FingerprintPrefix
    """What this pool decodes."""


class NeedText(BinaryMessage):
    """Worker to edge: the texts of these questions are unknown here."""

    kind: ClassVar[Kind] = Kind.NEED_TEXT
    limit_bytes: ClassVar[int] = MAX_CONTROL_BYTES

    worker: Name
    frame: FrameId
    attempt: Attempt
    question_ids: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)]


class Answer(JsonMessage):
    """Worker to anyone: a provisional answer (``outcome`` is null) or the terminal one."""

    query_id: QueryId
    camera: Name
    frame: FrameId
    attempt: Attempt
    question_id: Name
    worker: Name
    outcome: Literal[Outcome.ANSWERED, Outcome.DEGRADED, Outcome.FAILED] | None = None
    text: Annotated[str, Field(max_length=MAX_ANSWER_CHARS)]
    score: Probability
    """Estimated chance that the answer from the whole latent is the same."""
    latents: LatentIndex
    """Length of the prefix that was read."""
    payload_bytes: UInt32
    """Latent payload that reached this worker for the frame so far."""
    looks: Annotated[int, Field(ge=0, le=1_000)]
    """How many prefixes were looked at."""
    reason: Annotated[str, Field(max_length=200)] = ""
    """Why, when ``outcome`` is degraded or failed."""


class QueryOutcome(JsonMessage):
    """Edge to anyone: a terminal outcome that only the edge can know."""

    query_id: QueryId
    camera: Name
    frame: FrameId
    question_id: Name
    outcome: Literal[Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED]
    reason: Annotated[str, Field(max_length=200)] = ""


class Question(JsonMessage):
    """Operator to pool and edges, retained: a standing question under its short id."""

    question_id: Name
    text: Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_CHARS)]
    answer_type: AnswerType = AnswerType.TEXT
    deadline_ms: Milliseconds = 10_000
    risk: Probability | None = None
    """Accepted chance that an early answer differs from the whole latent's; null takes the pool's."""


class Ask(JsonMessage):
    """Anyone to an edge: one ad-hoc question. The query id makes asking again harmless."""

    query_id: Name
    text: Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_CHARS)]
    answer_type: AnswerType = AnswerType.TEXT
    deadline_ms: Milliseconds = 30_000


class Status(JsonMessage):
    """Retained birth, load and last will of a process."""

    kind: Literal["edge", "worker", "gateway", "recorder"]
    id: Name
    boot: UInt32
    """A will of an earlier boot is ignored."""
    online: bool
    pool: Name | None = None
    fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{8})?$")] = ""
    parked: UInt32 = 0
    """Open messages that wait for the model."""
    capacity: UInt32 = 0
    cameras: Annotated[tuple[Name, ...], Field(max_length=128)] = ()


BINARY_MESSAGES: tuple[type[BinaryMessage], ...] = (
    Open, Chunk, Gone, Text, Handover, Accept, Refine, Busy, Reject, NeedText,
)  # fmt: skip
JSON_MESSAGES: tuple[type[JsonMessage], ...] = (Answer, QueryOutcome, Question, Ask, Status)
