"""Every message that crosses the broker.

Binary messages are msgpack arrays ``[schema version, kind, field, ...]`` in the order of the fields below; they travel
on the thin link, where a key name in each message would cost more than a small latent. Whatever a person or a foreign
client would read is JSON with its version in ``v``. Encoding and decoding are in :mod:`schemas.wire`, topics in
:mod:`schemas.topics`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from schemas.event_rule import KeepWhen, check_keep_when
from schemas.identity import (
    Digest,
    Owner,
    QuestionContent,
    ad_hoc_query_id,
    is_ad_hoc,
    owner_of,
    standing_query_id,
)
from schemas.limits import (
    MAX_ANSWER_CHARS,
    MAX_BINARY_BYTES,
    MAX_CHOICE_OPTIONS,
    MAX_CONTROL_BYTES,
    MAX_EVENT_FRAMES,
    MAX_EVENT_TEXT_CHARS,
    MAX_EVENTS_A_PAGE,
    MAX_JSON_BYTES,
    MAX_LATENT_PAYLOAD_BYTES,
    MAX_OPTION_CHARS,
    MAX_PICTURE_PART_BYTES,
    MAX_PICTURE_PARTS,
    MAX_QUERIES_PER_FRAME,
    MAX_REASON_CHARS,
    MAX_RECEIPT_CHARS,
)
from schemas.types import (
    MAX_AGE_MS,
    Age,
    AnswerType,
    Attempt,
    FingerprintPrefix,
    FrameId,
    LatentIndex,
    Milliseconds,
    Name,
    Outcome,
    PrefixLength,
    Probability,
    QueryId,
    QuestionText,
    UInt32,
    UplinkStage,
)

SCHEMA_VERSION = 2
ACCEPTED_VERSIONS = frozenset({2})
"""Versions that this process understands; its status announces them. Version 1 was never released, so that version 2
stands alone; from the first release on a process speaks its own version and the one before it."""

LatentPayload = Annotated[bytes, Field(min_length=1, max_length=MAX_LATENT_PAYLOAD_BYTES)]
LeaseMs = Annotated[int, Field(ge=1, le=600_000)]


class Kind(IntEnum):
    """Tag of a binary message. A number is never used again for something else."""

    OPEN = 1
    CHUNK = 2
    REVOKE = 3
    TEXT = 4
    HANDOVER = 5
    ACCEPT = 6
    REFINE = 7
    BUSY = 8
    REJECT = 9
    NEED_TEXT = 10
    KEY_FRAME = 11
    FOLLOW_UP = 12
    EVENT_LATENTS = 14
    EVENT_PICTURE = 15


RESERVED_KINDS: dict[int, str] = {
    13: "fetch from the ring of an edge",
}
"""Numbers that later features of version 2 will take; a process that does not know them refuses them by name."""


class Message(BaseModel):
    """Base of all messages: immutable, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    limit_bytes: ClassVar[int]


class BinaryMessage(Message):
    """A msgpack array; the order of its fields is the wire format.

    Optional fields are the last ones. Those that have their default, up to the end, are left out.
    """

    kind: ClassVar[Kind]


class JsonMessage(Message):
    """A JSON object that any MQTT client can read."""

    limit_bytes: ClassVar[int] = MAX_JSON_BYTES

    v: Literal[2] = 2
    """Schema version; 2 when left out, so that a question can be typed by hand."""


class _Grown(BaseModel):
    """Of a JSON message that got fields after the first release of its version.

    Where they have their default they are left out, so that an older process reads whatever does not use them.
    """

    grown: ClassVar[frozenset[str]]

    @model_serializer(mode="wrap")
    def _without_defaults(self, usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        values: dict[str, Any] = usual(self)
        return {
            name: value
            for name, value in values.items()
            if name not in self.grown or getattr(self, name) != fields[name].default
        }


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


def _check_range(start: int, stop: int) -> None:
    if start >= stop:
        raise ValueError(f"latent range {start}..{stop} is empty")


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
        _check_range(self.start, self.stop)
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


def _answer_type(value: object) -> object:
    # msgpack gives the bare string; pydantic would also take bytes. What is no answer type is left to pydantic: the
    # error of the enumeration would quote it.
    return AnswerType(value) if type(value) is str and value in list(AnswerType) else value


Options = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=MAX_OPTION_CHARS)], ...], Field(max_length=MAX_CHOICE_OPTIONS)
]


def check_options(answer_type: AnswerType, options: tuple[str, ...]) -> None:
    """Whether a question has the options that its answer type needs.

    Raises:
        ValueError: it has not.
    """
    if answer_type is AnswerType.CHOICE:
        folded = {option.strip().casefold() for option in options}
        if len(options) < 2 or len(folded) < len(options) or "" in folded:
            raise ValueError("answer type choice needs two or more different options")
    elif options:
        raise ValueError(f"options belong to answer type choice, not to {answer_type}")


class Text(BinaryMessage):
    """Edge to a worker that asked for a question's text. Its digest is computed from what it says."""

    kind: ClassVar[Kind] = Kind.TEXT
    limit_bytes: ClassVar[int] = MAX_JSON_BYTES

    camera: Name
    """Camera of the frame that the question was asked of."""
    owner: Owner
    """Whose question it is."""
    question_id: Name
    """Id of the standing question, or the client's id of an ad-hoc one."""
    text: QuestionText
    """The question."""
    answer_type: Annotated[AnswerType, BeforeValidator(_answer_type)]
    """What the answer may look like."""
    options: Options = ()
    """Answers to choose from, for answer type ``choice``."""
    risk: Probability | None = None
    """Accepted chance that an early answer differs from the whole latent's; left out takes the pool's."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_options(self.answer_type, self.options)
        return self

    def content(self) -> QuestionContent:
        """The question, with its digest."""
        return QuestionContent(self.owner, self.question_id, self.text, self.answer_type, self.options, self.risk)


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
        _check_range(self.start, self.stop)
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


class Answer(JsonMessage):
    """Worker to anyone: a provisional answer (``outcome`` is null) or the terminal one."""

    query_id: QueryId
    """Key of the query: ``{camera}/@{client}/{question_id}`` of an ad-hoc question, else
    ``{camera}/{frame}/{question_id}``."""
    owner: Owner
    """Whose question it is: ``site/{site}``, or ``client/{client}`` of an ad-hoc one."""
    camera: Name
    """Camera of the frame."""
    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    attempt: Attempt
    """Attempt that the worker held."""
    question_id: Name
    """Its question."""
    worker: Name
    """Who answers."""
    outcome: Literal[Outcome.ANSWERED, Outcome.DEGRADED, Outcome.FAILED] | None = None
    """Null: provisional. ``answered``: safe, or the latent is whole. ``degraded``: the best there was, not safe.
    ``failed``: no answer. For both see ``reason``."""
    text: Annotated[str, Field(max_length=MAX_ANSWER_CHARS)]
    """The answer; empty when the outcome is ``failed``."""
    score: Probability
    """Estimated chance that the answer from the whole latent is the same."""
    latents: LatentIndex
    """Length of the prefix that was read."""
    payload_bytes: UInt32
    """Latent payload that reached this worker for the frame so far."""
    looks: Annotated[int, Field(ge=0, le=1_000)]
    """How many prefixes the model has read."""
    age_ms: Age | None = None
    """How old the frame was when the question was asked, ``unknown`` after a power cut; null for a frame of now."""
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARS)] = ""
    """Why, when ``outcome`` is degraded or failed."""

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client; else a standing question."""
        return is_ad_hoc(self.owner)

    @property
    def history(self) -> bool:
        """Of a frame that waited on its edge for the link to come back; else of a frame of its time."""
        return self.age_ms is not None and not self.ad_hoc


class QueryOutcome(JsonMessage):
    """Edge to anyone: a terminal outcome that only the edge can know."""

    query_id: QueryId
    """Key of the query: ``{camera}/@{client}/{question_id}`` of an ad-hoc question, else
    ``{camera}/{frame}/{question_id}``."""
    owner: Owner
    """Whose question it is: ``site/{site}``, or ``client/{client}`` of an ad-hoc one."""
    camera: Name
    """Camera of the frame."""
    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    question_id: Name
    """Its question."""
    outcome: Literal[Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED, Outcome.UNCHANGED]
    """``expired``: the deadline passed without an answer. ``superseded``: a newer frame took its place. ``failed``: see
    ``reason``. ``unchanged``: the last answer of the same standing question holds on."""
    age_ms: Age | None = None
    """How old the frame was when the question was asked, or the answer that holds on, ``unknown`` after a power cut;
    null for a frame of now. With the reason ``not_held``: how old the oldest kept frame is; null where none is kept."""
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARS)] = ""
    """Why, in words."""

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client; else a standing question."""
        return is_ad_hoc(self.owner)

    @property
    def history(self) -> bool:
        """Of a frame that waited on its edge for the link to come back; else of a frame of its time."""
        return self.age_ms is not None and not self.ad_hoc and self.outcome is not Outcome.UNCHANGED


class Question(_Grown, JsonMessage):
    """Operator or edge to pool and edge, retained: a standing question of a site under its short id."""

    grown: ClassVar[frozenset[str]] = frozenset({"keep_when"})

    site: Name
    """The site that owns it, the same as in the topic."""
    question_id: Name
    """Short id, the same as in the topic."""
    text: QuestionText
    """The question, as a person would ask it."""
    answer_type: AnswerType = AnswerType.TEXT
    """What the answer may look like; it bounds the tokens that are generated."""
    options: Options = ()
    """Answers to choose from, for answer type ``choice``."""
    deadline_ms: Milliseconds = 10_000
    """Time from the frame to its outcome."""
    risk: Probability | None = None
    """Accepted chance that an early answer differs from the whole latent's; null takes the pool's."""
    cameras: Annotated[tuple[Name, ...], Field(max_length=128)] | None = None
    """Cameras of the site that are asked it; null leaves those of the site's settings. Empty: none, it is paused."""
    set_by: Literal["operator", "settings"] = "operator"
    """``settings`` in what an edge publishes from its own settings; anything else is an operator's word and wins."""
    keep_when: KeepWhen = ()
    """Answers that make an event, whose frames are kept where the settings of the camera say so: ``yes``, an option,
    or for a count a comparison as in ``>= 3``; left out: none."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_options(self.answer_type, self.options)
        check_keep_when(self.answer_type, self.options, self.keep_when)
        return self

    def content(self) -> QuestionContent:
        """What an answer depends on, with its digest."""
        owner = owner_of("site", self.site)
        return QuestionContent(owner, self.question_id, self.text, self.answer_type, self.options, self.risk)


class Ask(_Grown, JsonMessage):
    """Anyone to an edge: one ad-hoc question. The query id makes asking again harmless."""

    grown: ClassVar[frozenset[str]] = frozenset({"ago_ms", "frame"})

    query_id: Name
    """Chosen by the client, unique among its questions to this camera."""
    text: QuestionText
    """The question, as a person would ask it."""
    answer_type: AnswerType = AnswerType.TEXT
    """What the answer may look like; it bounds the tokens that are generated."""
    options: Options = ()
    """Answers to choose from, for answer type ``choice``."""
    deadline_ms: Milliseconds = 30_000
    """Time from its arrival at the edge to its outcome."""
    ago_ms: Milliseconds | None = None
    """Ask the newest kept frame that is at least so old; null asks the next frame, unless ``frame`` names one."""
    frame: FrameId | None = None
    """Ask this frame, which an earlier answer names; null asks the next one, unless ``ago_ms`` is given."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_options(self.answer_type, self.options)
        if self.ago_ms is not None and self.frame is not None:
            raise ValueError("ago_ms and frame exclude each other")
        return self

    @property
    def of_the_past(self) -> bool:
        """Whether it is asked of a frame that was taken before; else of the next one."""
        return self.ago_ms is not None or self.frame is not None

    def same_question(self, other: Ask, client: str) -> bool:
        """Whether another ask of the same client asks the same of the same frame."""
        moment = (self.ago_ms, self.frame) == (other.ago_ms, other.frame)
        return moment and self.content(client) == other.content(client)

    def content(self, client: str) -> QuestionContent:
        """The question as the client of its topic owns it, with its digest."""
        return QuestionContent(owner_of("client", client), self.query_id, self.text, self.answer_type, self.options)


class Receipt(JsonMessage):
    """Edge to a client, below its reply topic: what became of a message that is no query, or no readable one."""

    site: Name
    """The edge that says so."""
    about: Annotated[str, Field(max_length=32)]
    """Id of the question or query; empty when the message did not have a readable one."""
    accepted: bool
    """Whether it took effect."""
    reason: Annotated[str, Field(max_length=MAX_RECEIPT_CHARS)] = ""
    """Why not, or what it changed."""


class ListEvents(JsonMessage):
    """Operator to an edge: which events of a camera are kept?"""

    request_id: Name
    """Chosen by the client; names the reply."""
    before: FrameId | None = None
    """Only events before this one, the last of the page before; null begins with the latest."""


class FetchEvent(JsonMessage):
    """Operator to an edge: the latents of an event."""

    request_id: Name
    """Chosen by the client; names the replies."""
    event: FrameId
    """The event."""
    skip: Annotated[int, Field(ge=0, le=MAX_EVENT_FRAMES)] = 0
    """Frames that have come already."""


class FetchPictures(JsonMessage):
    """Somebody whom the camera's settings name, to an edge: the pictures of an event."""

    request_id: Name
    """Chosen by the client; names the replies."""
    pictures_of: FrameId
    """The event."""
    skip: Annotated[int, Field(ge=0, le=MAX_EVENT_FRAMES)] = 0
    """Pictures that have come already."""


class EraseEvents(JsonMessage):
    """Operator to an edge: forget events of a camera, and the frames of that time that are kept in memory."""

    request_id: Name
    """Chosen by the client; names the receipt."""
    event: FrameId | None = None
    """This one alone; null takes all of the time that is named."""
    older_than_ms: Annotated[int, Field(ge=0, le=MAX_AGE_MS)] = 0
    """Frames that are at least so old; what has an unknown age counts as old."""
    younger_than_ms: Annotated[int, Field(ge=0, le=MAX_AGE_MS)] | None = None
    """Frames that are no older than this; null: however old."""


class EventEntry(BaseModel):
    """An event in a list."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    event: FrameId
    """The frame whose answer made the event: its name within the camera."""
    question_id: Name
    """The question."""
    text: Annotated[str, Field(max_length=MAX_EVENT_TEXT_CHARS)]
    """The answer, cut."""
    age_ms: Age
    """How long ago that frame was taken, ``unknown`` after a power cut."""
    frames: Annotated[int, Field(ge=1, le=MAX_EVENT_FRAMES)]
    """Frames that are kept."""
    pictures: Annotated[int, Field(ge=0, le=MAX_EVENT_FRAMES)]
    """Those of them with a picture."""
    size_bytes: UInt32
    """Latents and pictures."""


class EventList(JsonMessage):
    """Edge to an operator: events of a camera, the latest first."""

    camera: Name
    """The camera."""
    events: Annotated[tuple[EventEntry, ...], Field(max_length=MAX_EVENTS_A_PAGE)]
    """A page of them."""
    more: bool
    """There are older ones."""


Offset = Annotated[int, Field(ge=-MAX_AGE_MS, le=MAX_AGE_MS)]
EventIndex = Annotated[int, Field(ge=0, le=MAX_EVENT_FRAMES - 1)]
EventCount = Annotated[int, Field(ge=1, le=MAX_EVENT_FRAMES)]


class EventLatents(BinaryMessage):
    """Edge to an operator: the whole latent of one frame of an event."""

    kind: ClassVar[Kind] = Kind.EVENT_LATENTS
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    event: FrameId
    """The event."""
    frame: FrameId
    """The frame."""
    index: EventIndex
    """Its place among the frames of the event, by the time when they were taken."""
    count: EventCount
    """Frames of the event."""
    offset_ms: Offset
    """When it was taken, from the frame that made the event."""
    fingerprint: FingerprintPrefix
    """First 4 bytes of the hash of model, codec and tables that made the latents."""
    payload: LatentPayload
    """Coded symbols of all its latents, by themselves."""


class EventPicture(BinaryMessage):
    """Edge to somebody whom the camera's settings name: a part of one picture of an event, a JPEG."""

    kind: ClassVar[Kind] = Kind.EVENT_PICTURE
    limit_bytes: ClassVar[int] = MAX_BINARY_BYTES

    event: FrameId
    """The event."""
    frame: FrameId
    """The frame."""
    index: EventIndex
    """Its place among the pictures of the event, by the time when they were taken."""
    count: EventCount
    """Pictures of the event."""
    offset_ms: Offset
    """When it was taken, from the frame that made the event."""
    part: Annotated[int, Field(ge=0, le=MAX_PICTURE_PARTS - 1)]
    """Which part of the picture this is."""
    parts: Annotated[int, Field(ge=1, le=MAX_PICTURE_PARTS)]
    """Parts of the picture."""
    payload: Annotated[bytes, Field(min_length=1, max_length=MAX_PICTURE_PART_BYTES)]
    """Bytes of the part."""


class Status(JsonMessage):
    """Retained birth, load and last will of a process."""

    kind: Literal["edge", "worker", "gateway", "recorder"]
    """What the process is."""
    id: Name
    """Its name, unique within the kind."""
    boot: UInt32
    """Random id of this process start. A will of an earlier boot is ignored."""
    online: bool
    """False in the last will and after a drain."""
    pool: Name | None = None
    """Worker pool, for edges and workers."""
    fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{8})?$")] = ""
    """First 4 bytes of the codec's fingerprint in hexadecimal."""
    parked: UInt32 = 0
    """Frames that a worker holds."""
    capacity: UInt32 = 0
    """Frames that it may hold; 0 while it drains."""
    cameras: Annotated[tuple[Name, ...], Field(max_length=128)] = ()
    """Cameras of an edge."""
    uplink: Annotated[UplinkStage, Field(exclude_if=lambda stage: stage is UplinkStage.NORMAL)] = UplinkStage.NORMAL
    """What an edge leaves out because of the budget of its uplink; not there while that is nothing."""
    versions: Annotated[tuple[UInt32, ...], Field(min_length=1, max_length=8)] = (SCHEMA_VERSION,)
    """Schema versions that the process understands."""


BINARY_MESSAGES: tuple[type[BinaryMessage], ...] = (
    Open, Chunk, KeyFrame, FollowUp, EventLatents, EventPicture, Revoke, Text, Handover, Accept, Refine, Busy, Reject,
    NeedText,
)  # fmt: skip
JSON_MESSAGES: tuple[type[JsonMessage], ...] = (
    Answer, QueryOutcome, Question, Ask, Receipt, ListEvents, FetchEvent, FetchPictures, EraseEvents, EventList, Status,
)  # fmt: skip
