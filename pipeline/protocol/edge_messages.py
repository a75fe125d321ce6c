"""What an edge says about its frames: builds the messages, as departures for its uplink, and the decisions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from pipeline.protocol.change_gate import Renewal
from pipeline.protocol.departures import Departure, TrafficClass
from pipeline.protocol.edge_frame import EdgeFrame, EdgeStage
from pipeline.protocol.effects import AskedQuery, Decision, Utility, UtilityFunction
from pipeline.protocol.ports import Delivery
from pipeline.protocol.renewals import same_as
from schemas import topics
from schemas.messages import (
    Accept,
    Answer,
    Busy,
    Chunk,
    FollowUp,
    KeyFrame,
    Message,
    NeedText,
    Open,
    QueryOutcome,
    QueryRef,
    Refine,
    Reject,
    RejectReason,
    Revoke,
    Text,
)
from schemas.printable import as_reason
from schemas.types import FrameId, Outcome, milliseconds

Control = Accept | Refine | Busy | Reject | NeedText

Done = Callable[[Delivery, float], None]
"""Told what became of a message, and when."""


class EdgeMessages:
    """One edge's messages about frames.

    Args:
        site: this edge.
        pool: worker pool that is asked.
        fingerprint: first 4 bytes of the codec's fingerprint.
    """

    def __init__(self, site: str, pool: str, fingerprint: bytes) -> None:
        self._site = site
        self._pool = pool
        self._fingerprint = fingerprint
        self._departures: list[Departure] = []
        self._decisions: list[Decision] = []

    def take_departures(self) -> list[Departure]:
        """What wants to leave, since the last call, in order."""
        departures, self._departures = self._departures, []
        return departures

    def take_decisions(self) -> list[Decision]:
        """Queries that were decided since the last call, in order."""
        decisions, self._decisions = self._decisions, []
        return decisions

    def open(
        self, frame: EdgeFrame, stamp: Callable[[float], Open | None], utility: UtilityFunction, done: Done
    ) -> None:
        """Open a frame when the uplink has room; ``stamp`` makes the message then."""
        topic = topics.open_topic(self._pool, frame.camera)
        self._departures.append(
            Departure(
                TrafficClass.HISTORY if frame.history else TrafficClass.OPEN,
                frame.camera,
                "open",
                topic,
                stamp,
                qos=1,
                frame=frame.frame,
                utility=None if frame.history else utility,
                same_as=(topic, frame.frame),
                patient=_is_patient(frame),
                done=done,
            )
        )

    def open_message(self, frame: EdgeFrame, now_s: float) -> Open:
        """The open message of a frame as it leaves now."""
        named = frame.named(now_s)
        return Open(
            frame=frame.frame,
            attempt=frame.attempt,
            site=self._site,
            fingerprint=self._fingerprint,
            queries=_refs(frame, named, now_s),
            stop=frame.prefix,
            payload=frame.coded_prefix(),
            key=frame.key,
            age_ms=frame.age_for(named[0]),
        )

    def follow_up(
        self, frame: EdgeFrame, query_ids: Collection[str], left: Callable[[float], None], done: Done
    ) -> None:
        """Tell the owner of a frame what it is asked more; ``left`` is called when the message leaves."""
        worker, attempt = frame.owner, frame.attempt
        assert worker is not None  # noqa: S101 - an owned frame has one

        def stamp(now_s: float) -> FollowUp | None:
            refs = _refs(frame, query_ids, now_s)
            owned = frame.stage is EdgeStage.OWNED and (frame.owner, frame.attempt) == (worker, attempt)
            if not refs or not owned:
                return None  # decided, or opened again with all its questions
            left(now_s)
            return FollowUp(frame=frame.frame, attempt=attempt, queries=refs, age_ms=frame.later_age_ms)

        self._departures.append(
            Departure(
                TrafficClass.FRAME_UNDER_WAY,
                frame.camera,
                "follow_up",
                topics.chunk_topic(worker, frame.camera),
                stamp,
                frame=frame.frame,
                done=done,
            )
        )

    def key_frame(self, frame: EdgeFrame, left: Callable[[], None], done: Done) -> None:
        """Make a frame the key frame of its camera; ``left`` is called when the message leaves."""

        def stamp(_now_s: float) -> KeyFrame:
            left()
            return KeyFrame(
                frame=frame.frame,
                fingerprint=self._fingerprint,
                payload=frame.latent.payload(0, frame.latent.latent_count),
            )

        topic = topics.key_topic(self._pool, frame.camera)
        self._departures.append(
            Departure(
                TrafficClass.FRAME_UNDER_WAY,
                frame.camera,
                "key_frame",
                topic,
                stamp,
                qos=1,
                retain=True,
                frame=frame.frame,
                same_as=(topic, frame.frame),
                patient=_is_patient(frame),
                done=done,
            )
        )

    def chunk(
        self, frame: EdgeFrame, request: Refine, utility: Callable[[EdgeFrame, Chunk, float], Utility | None]
    ) -> None:
        """The latents that the owner asked for."""
        chunk = Chunk(
            camera=frame.camera,
            frame=frame.frame,
            attempt=frame.attempt,
            start=request.start,
            stop=request.stop,
            payload=frame.payload(request.start, request.stop),
            key=frame.key,
        )
        if frame.history:
            self._to_worker(request.worker, frame.camera, chunk, traffic_class=TrafficClass.HISTORY)
        else:
            self._to_worker(request.worker, frame.camera, chunk, partial(utility, frame, chunk))

    def texts(self, frame: EdgeFrame, request: NeedText) -> int:
        """The texts of questions that a worker lacks; how many of them the frame has."""
        questions = {query.question.digest: query.question for query in frame.queries.values()}
        known = [questions[digest] for digest in request.digests if digest in questions]
        for question in known:
            text = Text(
                camera=frame.camera,
                owner=question.owner,
                question_id=question.question_id,
                text=question.text,
                answer_type=question.answer_type,
                options=question.options,
                risk=question.risk,
            )
            self._to_worker(request.worker, frame.camera, text)
        return len(known)

    def revoke(self, camera: str, claim: Control) -> None:
        """The frame has another owner or its outcome."""
        self._to_worker(claim.worker, camera, Revoke(camera=camera, frame=claim.frame, attempt=claim.attempt))

    def decision(
        self,
        frame: EdgeFrame,
        query_id: str,
        query: AskedQuery,
        outcome: Outcome,
        *,
        reason: str,
        answer: Answer | None,
        say: bool,
    ) -> Decision:
        """A query is decided; ``say`` publishes what only the edge knows."""
        publish = None
        if say:
            assert outcome in (Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED)  # noqa: S101
            publish = QueryOutcome(
                query_id=query_id,
                owner=query.question.owner,
                camera=frame.camera,
                frame=frame.frame,
                question_id=query.question_id,
                outcome=outcome,
                age_ms=frame.age_for(query_id),
                reason=as_reason(reason),
            )
        decision = Decision(
            frame.camera, frame.frame, query_id, query.question, outcome, reason, answer, publish, frame.history
        )
        self._decisions.append(decision)
        return decision

    def unchanged(self, camera: str, frame: FrameId, renewal: Renewal) -> None:
        """The answer to an earlier frame holds on for this one, which is not sent."""
        question = renewal.query.question
        query_id, reason = renewal.query.query_id(camera, frame), same_as(renewal.frame)
        publish = QueryOutcome(
            query_id=query_id,
            owner=question.owner,
            camera=camera,
            frame=frame,
            question_id=question.question_id,
            outcome=Outcome.UNCHANGED,
            age_ms=milliseconds(renewal.age_s),
            reason=reason,
        )
        self._decisions.append(Decision(camera, frame, query_id, question, Outcome.UNCHANGED, reason, None, publish))

    def why_rejected(self, message: Reject) -> str:
        """The reason of a rejection, for the outcome of the queries."""
        if message.reason is RejectReason.FINGERPRINT:
            pool, edge = message.fingerprint.hex(), self._fingerprint.hex()
            return f"fingerprint: pool decodes {pool}, this edge sends {edge}"
        if message.reason is RejectReason.CAMERA:
            return "another site has a camera of this name: camera names are unique in a fleet, rename one of the two"
        return RejectReason(message.reason).name.lower().replace("_", " ")

    def _to_worker(
        self,
        worker: str,
        camera: str,
        message: Chunk | Revoke | Text,
        utility: UtilityFunction | None = None,
        *,
        traffic_class: TrafficClass = TrafficClass.FRAME_UNDER_WAY,
    ) -> None:
        topic = topics.chunk_topic(worker, camera)
        self._departures.append(
            Departure(
                traffic_class,
                camera,
                type(message).__name__.lower(),
                topic,
                always(message),
                frame=getattr(message, "frame", None),
                utility=utility,
                same_as=(topic, message),
            )
        )


def _refs(frame: EdgeFrame, query_ids: Collection[str], now_s: float) -> tuple[QueryRef, ...]:
    """Those of these queries that are undecided and not late, with the time that they have left."""
    return tuple(
        QueryRef(
            query.question_id,
            milliseconds(query.deadline_s - now_s),
            query.question.digest,
            query.question.client,
        )
        for query_id in query_ids
        if (query := frame.queries.get(query_id)) is not None and query.deadline_s > now_s
    )


def always(message: Message) -> Callable[[float], Message]:
    """A stamp for what says the same whenever it leaves."""
    return lambda _now_s: message


def _is_patient(frame: EdgeFrame) -> bool:
    """Nobody waits for its answers by the second."""
    return not any(query.ad_hoc for query in frame.queries.values())
