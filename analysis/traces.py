"""What a log says about one query, one frame, one key frame, one question of a client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.recording.message import MqttProperties
from pipeline.recording.stored_latent import StoredLatent
from schemas.identity import QuestionContent, ad_hoc_query_id, is_ad_hoc
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    Chunk,
    Handover,
    KeyFrame,
    NeedText,
    Open,
    Refine,
    Reject,
)
from schemas.types import AnswerType, FrameId, Outcome

Control = Accept | Refine | Busy | Reject | NeedText
"""What a worker tells the edge about a frame."""

FrameKey = tuple[str, FrameId]
"""A camera and one of its frames."""


@dataclass(slots=True)
class QueryTrace:
    """What a log says about one query.

    Attributes:
        query_id: its key, unique in the fleet.
        owner: whose question it is, ``site/{site}`` or ``client/{client}``.
        camera: camera of its frame.
        frame: its frame; of an ad-hoc question the latest that it was asked of before it ended.
        question_id: its question.
        asked_ns: when the log first names it: the client's ask, or the first open.
        text: the question, None where the log never says it.
        answer_type: what the answer may look like, None where the log never says it.
        options: answers to choose from, for answer type ``choice``.
        risk: accepted chance that an early answer differs; None takes the pool's.
        digest: of the text that its first open asked; None without an open.
        deadline_ms: time that it was given, None where the log never says it.
        remaining_ms: time that was left when its frame was first opened; None without an open.
        answers: provisional and terminal answers as they came; one that came again word for word stands once.
        outcome: how it ended, the first terminal of all; None while it has not.
        reason: why, where the outcome needs a reason.
        answer_text: text of the deciding answer, empty when there is none.
        score: score of the deciding answer.
        latents: length of the prefix that the deciding answer was read from.
        worker: who decided it, empty when the edge did.
        decided_ns: when it ended.
    """

    query_id: str
    owner: str
    camera: str
    frame: FrameId
    question_id: str
    asked_ns: int
    text: str | None = None
    answer_type: AnswerType | None = None
    options: tuple[str, ...] = ()
    risk: float | None = None
    digest: bytes | None = None
    deadline_ms: int | None = None
    remaining_ms: int | None = None
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    outcome: Outcome | None = None
    reason: str = ""
    answer_text: str = ""
    score: float | None = None
    latents: int | None = None
    worker: str = ""
    decided_ns: int | None = None

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client; else a standing question."""
        return is_ad_hoc(self.owner)

    def learn(self, content: QuestionContent) -> None:
        """Take in what was asked."""
        self.text, self.answer_type = content.text, content.answer_type
        self.options, self.risk = content.options, content.risk

    @property
    def latency_ms(self) -> float | None:
        """Time from :attr:`asked_ns` to the terminal outcome; None without one."""
        return None if self.decided_ns is None else (self.decided_ns - self.asked_ns) / 1e6


@dataclass(frozen=True, slots=True)
class KeyTrace:
    """A key frame as its edge published it.

    Attributes:
        published_ns: when.
        message: the message, a whole latent.
        wire_bytes: its bytes on the wire, all headers counted.
    """

    published_ns: int
    message: KeyFrame
    wire_bytes: int


@dataclass(slots=True)
class FrameTrace:
    """What a log says about one frame.

    Attributes:
        camera: its camera.
        frame: its id.
        pool: pool that it was opened to, empty without an open.
        opens: open messages, one for each attempt, with their times.
        chunks: further latents, with their times and the worker that they went to.
        controls: what workers told the edge, with their times.
        handovers: open messages passed on, with their times and the worker that they went to.
        stored_latent: the whole latent from a local log, None without one.
        stored_ns: when it was stored: the frame was offered then.
        key_frames: all key frames of the log, shared by all frames.
        query_ids: its queries.
        wire_bytes: bytes that it put on the uplink: open, chunk, revoke and outcome messages with all headers, and its
            key frame where it is one.
        latent_bytes: coded latents among them.
    """

    camera: str
    frame: FrameId
    pool: str = ""
    opens: list[tuple[int, Open]] = field(default_factory=list)
    chunks: list[tuple[int, str, Chunk]] = field(default_factory=list)
    controls: list[tuple[int, Control]] = field(default_factory=list)
    handovers: list[tuple[int, str, Handover]] = field(default_factory=list)
    stored_latent: StoredLatent | None = None
    stored_ns: int | None = None
    key_frames: Mapping[FrameKey, KeyTrace] = field(default_factory=dict, repr=False, compare=False)
    query_ids: list[str] = field(default_factory=list)
    wire_bytes: int = 0
    latent_bytes: int = 0

    def key_frame(self, sequence: int) -> KeyTrace | None:
        """The key frame of this number, of the same camera and boot; None where the log lacks it."""
        return self.key_frames.get((self.camera, FrameId(self.frame.boot, sequence)))

    @property
    def as_key(self) -> KeyTrace | None:
        """This frame as a key frame; None where it is none."""
        return self.key_frame(self.frame.sequence)


@dataclass(frozen=True, slots=True)
class AskTrace:
    """An ad-hoc question as a client asked it.

    Attributes:
        asked_ns: when.
        camera: camera that was asked.
        client: who asked.
        ask: the message.
        properties: its MQTT 5 properties: where the client wants the reply.
    """

    asked_ns: int
    camera: str
    client: str
    ask: Ask
    properties: MqttProperties | None

    @property
    def query_id(self) -> str:
        """Key of its query."""
        return ad_hoc_query_id(self.camera, self.client, self.ask.query_id)
