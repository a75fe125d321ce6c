"""One frame in the worker session: its stage, its chunks, its queries, and the table of moves between stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.protocol.effects import ChunkData, InferencePass, KeyData, PassQuery, ReplyTo
from schemas.errors import StateError
from schemas.identity import QuestionContent
from schemas.messages import QueryRef
from schemas.types import Age, FrameId

MAX_EARLY_CHUNKS = 8
"""Chunks that overtook another one and wait for it; a worker asks for one range at a time, so few can be under way."""


class WorkerStage(StrEnum):
    """Where a frame stands at its worker."""

    NEED_TEXT = "need text"
    """The text of a question is unknown here; the edge was asked for it."""
    PARKED = "parked"
    """Waits for the model."""
    INFERRING = "inferring"
    """The model reads the prefix."""
    WAITING = "waiting"
    """Further latents were asked for."""
    DONE = "done"
    """Decided, given up or handed over; the session has forgotten it."""


class WorkerEvent(StrEnum):
    """What moves a frame at its worker."""

    TEXTS_KNOWN = "texts known"
    TAKEN = "pass taken"
    LONGER_PREFIX = "longer prefix"
    NOT_SAFE = "not safe"
    OVERTAKEN = "prefix grew during the pass"
    PARTLY_ASKED = "questions left for another pass"
    DECIDED = "all queries decided"
    GIVEN_UP = "revoked, handed over, failed or past its deadlines"


S, E = WorkerStage, WorkerEvent
WORKER_TRANSITIONS: dict[tuple[WorkerStage, WorkerEvent], WorkerStage] = {
    (S.NEED_TEXT, E.TEXTS_KNOWN): S.PARKED,
    (S.NEED_TEXT, E.GIVEN_UP): S.DONE,
    (S.PARKED, E.TAKEN): S.INFERRING,
    (S.PARKED, E.GIVEN_UP): S.DONE,
    (S.INFERRING, E.NOT_SAFE): S.WAITING,
    (S.INFERRING, E.OVERTAKEN): S.PARKED,
    (S.INFERRING, E.PARTLY_ASKED): S.PARKED,
    (S.INFERRING, E.DECIDED): S.DONE,
    (S.INFERRING, E.GIVEN_UP): S.DONE,
    (S.WAITING, E.LONGER_PREFIX): S.PARKED,
    (S.WAITING, E.GIVEN_UP): S.DONE,
}
"""Every move there is; any other is a bug and raises."""


@dataclass(slots=True)
class WorkerQuery:
    """An undecided query of a frame.

    Attributes:
        ref: how the open message names it.
        owner: whose question it is.
        deadline_s: on the worker's monotonic clock, from the remaining time that the message carried.
        question: the question as it was when the frame was opened; None while its text is unknown here.
        text: best answer so far, None before the first pass.
        score: its score.
        prefix: latents it was read from.
        work: of asking it once; None until its text is known.
        reply_to: where its client wants the answers, as far as it was known with the text.
        age_ms: how old the frame was when it was asked; None for a frame that was taken to be asked.
    """

    ref: QueryRef
    owner: str
    deadline_s: float
    question: QuestionContent | None = None
    text: str | None = None
    score: float = 0.0
    prefix: int = 0
    work: int | None = None
    reply_to: ReplyTo | None = None
    age_ms: Age | None = None

    def take(self, question: QuestionContent, reply_to: ReplyTo | None = None) -> bool:
        """Take a text, if it is the one that the open message names and no other owner's; whether it is."""
        named = (self.owner, self.ref.question_id, self.ref.digest)
        if self.question is not None or named != (question.owner, question.question_id, question.digest):
            return False
        self.question, self.reply_to = question, reply_to
        return True

    @property
    def question_id(self) -> str:
        """Id of its question."""
        return self.ref.question_id

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client."""
        return self.ref.ad_hoc


@dataclass(slots=True)
class WorkerFrame:
    """A frame that this worker has admitted.

    Attributes:
        camera: its camera.
        frame: its id.
        attempt: latest attempt seen.
        site: site of the camera.
        queries: undecided queries by query id.
        chunks: coded latents, contiguous from 0.
        early: chunks that start past the prefix.
        stage: where it stands.
        batch: while it is at the model, the batch that it is in.
        hops: hand-overs so far.
        passes: prefixes read so far.
        passed_prefix: the longest of them.
        batch: number of the batch that it was read in last.
        target: prefix that was asked for.
        tries: requests for it, or for texts, since the last of them came.
        missing: digests of the texts that it waits for.
        texts_asked: those of them that the last request named and that have not come.
        given_up: requests went unanswered: the lease is left to run out, so that the edge opens the frame again.
        timer_s: when a request is repeated.
        spoke_s: when the edge last heard from this worker about the frame; None before the first word.
        lease_s: what the edge grants from then.
        payload_bytes: latent payload received.
        joining: queries of follow-ups that wait for their texts, while the others go on.
    """

    camera: str
    frame: FrameId
    attempt: int
    site: str
    queries: dict[str, WorkerQuery]
    stage: WorkerStage
    lease_s: float
    admitted_s: float
    chunks: list[ChunkData] = field(default_factory=list)
    early: dict[int, ChunkData] = field(default_factory=dict)
    batch: int = 0
    hops: int = 0
    passes: int = 0
    passed_prefix: int = 0
    target: int = 0
    tries: int = 0
    missing: frozenset[bytes] = frozenset()
    texts_asked: set[bytes] = field(default_factory=set)
    given_up: bool = False
    timer_s: float | None = None
    spoke_s: float | None = None
    payload_bytes: int = 0
    joining: dict[str, WorkerQuery] = field(default_factory=dict)

    @property
    def prefix(self) -> int:
        """Latents at hand, contiguous from 0."""
        return self.chunks[-1].stop if self.chunks else 0

    @property
    def held_bytes(self) -> int:
        """Payload held in memory."""
        return sum(len(chunk.payload) for chunk in (*self.chunks, *self.early.values()))

    def key_of(self, sequence: int) -> KeyData | None:
        """A key frame that latents of this frame came with already."""
        keys = (chunk.key for chunk in (*self.chunks, *self.early.values()))
        return next((key for key in keys if key is not None and key.sequence == sequence), None)

    def inference_pass(self, queries: Sequence[PassQuery], work: int = 1, batch: int = 0) -> InferencePass:
        """A pass over what is here."""
        self.batch = batch
        if self.prefix > self.passed_prefix:
            self.passed_prefix = self.prefix
            self.passes += 1
        chunks, asked = tuple(self.chunks), tuple(queries)
        return InferencePass(
            self.camera, self.frame, self.attempt, chunks, self.prefix, asked, self.passes, work, batch
        )

    def to_ask(self) -> list[tuple[str, WorkerQuery]]:
        """Queries that were not asked of the present prefix, ad-hoc ones first, then by deadline; all, if none."""
        waiting = [entry for entry in self.queries.items() if entry[1].prefix < self.prefix] or [*self.queries.items()]
        return sorted(waiting, key=lambda entry: (not entry[1].ad_hoc, entry[1].deadline_s))

    @property
    def age_ms(self) -> Age | None:
        """How old the frame was when it was opened; all queries that an open names agree about it."""
        return next((query.age_ms for query in self.queries.values()), None)

    def first_deadline_s(self) -> float:
        """Deadline of the most urgent query."""
        return min(query.deadline_s for query in self.queries.values())

    def last_deadline_s(self) -> float:
        """Deadline of the query with most time; an ad-hoc one counts before standing ones."""
        return max((query.ad_hoc, query.deadline_s) for query in self.queries.values())[1]

    @property
    def ad_hoc(self) -> bool:
        """Whether a client waits for one of the answers."""
        return any(query.ad_hoc for query in self.queries.values())

    def may_pass_on(self, max_hops: int) -> bool:
        """Whether another worker may still take the frame.

        Not after the edge has heard from here: one word makes this worker the owner, and the next one would be told
        *revoke*.
        """
        return self.stage is WorkerStage.PARKED and self.spoke_s is None and self.hops < max_hops

    def add_chunk(self, chunk: ChunkData) -> str:
        """Take latents in; idempotent, in any order.

        Returns:
            What was done with them, as a counter label: extended, early, duplicate or overlap.
        """
        if chunk.stop <= self.prefix:
            return "duplicate"
        if chunk.start > self.prefix:
            if chunk.start in self.early or len(self.early) >= MAX_EARLY_CHUNKS:
                return "duplicate"
            self.early[chunk.start] = chunk
            self.payload_bytes += len(chunk.payload)
            return "early"
        if chunk.start < self.prefix:
            return "overlap"  # its stream cannot be cut; the latents past the prefix are asked for again
        self.chunks.append(chunk)
        self.payload_bytes += len(chunk.payload)
        while (following := self.early.pop(self.prefix, None)) is not None:
            self.chunks.append(following)
        self.early = {start: early for start, early in self.early.items() if start > self.prefix}
        return "extended"

    def replace_prefix(self, chunk: ChunkData) -> bool:
        """Take a longer prefix from a further open message; whether it was longer."""
        if chunk.stop <= self.prefix:
            return False
        self.chunks = [chunk]
        self.early = {start: early for start, early in self.early.items() if start >= chunk.stop}
        self.payload_bytes += len(chunk.payload)
        return True

    def move(self, event: WorkerEvent) -> None:
        """Go where the table says.

        Raises:
            StateError: the table has no such move.
        """
        target = WORKER_TRANSITIONS.get((self.stage, event))
        if target is None:
            raise StateError(f"worker frame {self.camera}/{self.frame}: no move from {self.stage} on {event}")
        self.stage = target
