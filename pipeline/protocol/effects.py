"""What the protocol machines ask their process to do. They never do it themselves.

The process takes the effects in order after each input and carries them out; whatever comes of it returns as an input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from schemas.identity import QuestionContent
from schemas.messages import Answer, BinaryMessage, Handover, QueryOutcome
from schemas.types import Age, AnswerType, FrameId, Outcome


class Latent(Protocol):
    """The ordered latent of a frame, as the edge machine sees it."""

    @property
    def latent_count(self) -> int:
        """Number of latents in the whole."""
        ...

    def payload(self, start: int, stop: int) -> bytes:
        """Coded bytes of latents ``start..stop``.

        Raises:
            RecordingGapError: this latent comes from a log that does not hold all of them.
        """
        ...


LatentT = TypeVar("LatentT", bound=Latent, covariant=True)


@dataclass(frozen=True, slots=True)
class GivenKey(Generic[LatentT]):
    """A frame's latent as it is coded given a key frame of its camera.

    Attributes:
        latent: the same latents as without; only their bytes differ.
        sequence: of the key frame, of the same boot; None makes this frame the key frame itself.
    """

    latent: LatentT
    sequence: int | None


@dataclass(frozen=True, slots=True)
class AskedQuery:
    """One question to ask of a frame.

    Attributes:
        question: the question, with its owner; the frame keeps exactly this text, whatever becomes of it elsewhere.
        deadline_s: when it must be decided, on the edge's monotonic clock.
    """

    question: QuestionContent
    deadline_s: float

    @property
    def question_id(self) -> str:
        """Id of the standing question, or the client's id of an ad-hoc one."""
        return self.question.question_id

    @property
    def answer_type(self) -> AnswerType:
        """What the answer may look like."""
        return self.question.answer_type

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client, never superseded; else a standing question."""
        return self.question.ad_hoc

    @property
    def client(self) -> str | None:
        """The client that asked it; None for a standing question."""
        return self.question.client

    def query_id(self, camera: str, frame: FrameId) -> str:
        """Key of the query when it is asked of this frame."""
        return self.question.query_id(camera, frame)


@dataclass(frozen=True, slots=True)
class Utility:
    """What a message is worth to those that wait for its answers.

    Attributes:
        gain: queries that are expected to be safely answered because of it, each counted by its weight.
        message_bytes: size of the message, without the headers of MQTT and below.
        leave_by_s: it must have left by then to be answered in time, on the edge's monotonic clock; in the past when it
            cannot be in time any more.
        ends_s: from then on it is pointless: every query that it is about has ended.
    """

    gain: float
    message_bytes: int
    leave_by_s: float
    ends_s: float


UtilityFunction = Callable[[float], Utility | None]
"""What a message is worth at a time in seconds; None when nobody wants it any more. Asked anew, because queries end and
scores come in while it waits."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A query is decided, as far as the edge is concerned. There is exactly one for each query.

    Attributes:
        camera: camera of the frame.
        frame: the frame.
        query_id: the query.
        question: its question, with its owner.
        outcome: how it ended.
        reason: why, when it was not answered.
        answer: the worker's terminal answer, if that is what ended it.
        publish: what the edge must tell everyone (QoS 1), None when the worker has said it already.
        history: its frame waited for the link to come back.
    """

    camera: str
    frame: FrameId
    query_id: str
    question: QuestionContent
    outcome: Outcome
    reason: str = ""
    answer: Answer | None = None
    publish: QueryOutcome | None = None
    history: bool = False

    @property
    def ad_hoc(self) -> bool:
        """Whether a client asked it."""
        return self.question.ad_hoc


@dataclass(frozen=True, slots=True)
class KeyFrameLost:
    """A worker lacks a key frame, or it found no way out: nothing more may be coded given it.

    Attributes:
        camera: its camera.
        sequence: its number within the camera.
    """

    camera: str
    sequence: int


@dataclass(frozen=True, slots=True)
class HistoryOffered:
    """A stored frame is asked about: for who watches.

    Attributes:
        camera: its camera.
        frame: the id under which it is asked.
        latent: its latent.
        queries: what it is asked.
        age_ms: how old it is.
    """

    camera: str
    frame: FrameId
    latent: Latent
    queries: tuple[AskedQuery, ...]
    age_ms: Age


@dataclass(frozen=True, slots=True)
class TakeFrame:
    """Take a frame of this camera as soon as its source has one: somebody asks.

    Attributes:
        camera: the camera.
    """

    camera: str


@dataclass(frozen=True, slots=True)
class HeldFrameAsked:
    """A frame of the past is asked more. Comes before the decisions of these queries.

    Attributes:
        camera: its camera.
        frame: the frame.
        queries: what it is asked beside what it was asked before.
        age_s: how old it was when they were asked.
    """

    camera: str
    frame: FrameId
    queries: tuple[AskedQuery, ...]
    age_s: float


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the client of an ad-hoc question wants its answers (MQTT 5 ResponseTopic and CorrelationData)."""

    topic: str
    correlation_data: bytes | None = None


@dataclass(frozen=True, slots=True)
class SendControl:
    """Publish a control message to a camera's edge. QoS 0: an acknowledgement would cost the thin uplink 78 bytes."""

    topic: str
    message: BinaryMessage
    qos: int = 0


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """Publish an answer; terminal ones at QoS 1. With ``reply_to`` it goes to the asking client as well."""

    topic: str
    message: Answer
    qos: int
    reply_to: ReplyTo | None = None


@dataclass(frozen=True, slots=True)
class SendHandover:
    """Pass an open message on to a less loaded worker, at QoS 1."""

    topic: str
    message: Handover
    qos: int = 1


WorkerEffect = SendControl | SendAnswer | SendHandover


@dataclass(frozen=True, slots=True)
class KeyData:
    """A key frame as it came.

    Attributes:
        sequence: its number within the camera.
        payload: its coded latents, all of them.
    """

    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ChunkData:
    """Coded latents ``start..stop`` of one frame, by themselves or given a key frame."""

    start: int
    stop: int
    payload: bytes
    key: KeyData | None = None


@dataclass(frozen=True, slots=True)
class PassQuery:
    """One query that a pass is to answer."""

    query_id: str
    question: QuestionContent

    @property
    def answer_type(self) -> AnswerType:
        """What the answer may look like."""
        return self.question.answer_type

    @property
    def text(self) -> str:
        """What the model is asked."""
        return self.question.prompt


@dataclass(frozen=True, slots=True)
class InferencePass:
    """One pass of the model over a prefix of a frame.

    Attributes:
        camera: camera of the frame.
        frame: the frame.
        attempt: attempt that it belongs to.
        chunks: coded latents, contiguous from 0 to ``stop``.
        stop: prefix length.
        queries: what to answer.
        number: 1 for the first prefix of the frame that is read, whatever questions it takes more passes for.
        work: of the model, see :class:`~pipeline.protocol.worker_work.WorkCosts`.
        batch: number of the batch that it was taken in, within its session.
    """

    camera: str
    frame: FrameId
    attempt: int
    chunks: tuple[ChunkData, ...]
    stop: int
    queries: tuple[PassQuery, ...]
    number: int
    work: int = 1
    batch: int = 0


@dataclass(frozen=True, slots=True)
class PassAnswer:
    """The model's answer to one query of a pass.

    Attributes:
        query_id: the query.
        text: the answer.
        score: in [0, 1], what the stop rule compares with its threshold.
        problem: why there is no answer. Text and score say nothing then.
        failed: what has failed then: the ``model``, or the ``engine`` that runs it.
    """

    query_id: str
    text: str
    score: float
    problem: str = ""
    failed: str = "model"
