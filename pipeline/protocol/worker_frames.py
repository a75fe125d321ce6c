"""What becomes of the frames of one worker.

Life of a frame (the code obeys the table
:data:`~pipeline.protocol.worker_frame.WORKER_TRANSITIONS`)::

       open, hand-over
             v         pass taken           not safe -> refine
     +--- PARKED ----------------> INFERRING -----------------> WAITING
     |       ^  ^                     |                            |
     |       |  +---------------------+ prefix grew meanwhile      |
     |       +-----------------------------------------------------+ longer prefix
    NEED_TEXT (until the texts are known)

    from any stage: all queries decided -> DONE; revoked, handed over, failed, past its deadlines -> DONE

==========  =====================  ==========  ==================================================================
stage       event                  next        effect
==========  =====================  ==========  ==================================================================
(new)       open, texts known      PARKED      *accept* only if the answer will take longer than the base lease
(new)       open, text unknown     NEED_TEXT   *need text*
(new)       open, no room or time  -           hand-over to a less loaded worker, else *busy*
(new)       ad-hoc open, no room   PARKED      a standing frame that was not given to the model goes: *busy* to its edge
(new)       open, wrong codec      -           *reject*: never decoded
(new)       open, key frame not    -           *reject*: the edge opens it again, coded by itself
            here
(new)       open, all decided      -           the kept terminal answers again
(new)       follow-up, latents     PARKED      as after an open, without latents on the way
            kept
(new)       follow-up, not kept    -           *reject*: the edge opens the frame
any         follow-up              same        asked in the next pass; *need text* where a text is unknown
PARKED      pass taken             INFERRING
PARKED      cannot be in time      DONE        standing only: best answer so far as *degraded*, else *busy*
INFERRING   safe or whole latent   DONE        terminal answer; with queries left, the row below
INFERRING   not safe               WAITING     provisional answer, *refine* for the next rung of the ladder
INFERRING   prefix grew meanwhile  PARKED      provisional answer
INFERRING   not all questions      PARKED      answers of those that were asked
            asked
WAITING     longer prefix          PARKED
WAITING     silence, reconnect     WAITING     *refine* again, a bounded number of times
any         lease half over        same        *accept*: progress renews it
any         margin before deadline same        best answer so far as *degraded*; DONE when it was the last
any         deadline               same        no answer: nothing is said; DONE when it was the last
any         deadline, edge is lost same        *degraded* or, without an answer, *failed*: ``edge_lost``
any         revoke                 DONE
==========  =====================  ==========  ==================================================================

A query without any answer at its deadline is dropped in silence: the edge, whose clock the deadline is on, says
*expired*. Only when that edge is over, by its last will or by a later birth, does the worker speak in its place.

Who does what: :mod:`~pipeline.protocol.worker_admission` takes frames in and passes them on,
:mod:`~pipeline.protocol.worker_schedule` says what goes first and what is not worth a pass,
:mod:`~pipeline.protocol.worker_passes` gives them to the model and takes its answers,
:mod:`~pipeline.protocol.worker_progress` speaks to edges and decides queries. This module feeds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.protocol.effects import ChunkData, ReplyTo, WorkerEffect
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_admission import Admission
from pipeline.protocol.worker_caches import CameraSites, KeyFrames, Peers
from pipeline.protocol.worker_frame import WorkerEvent, WorkerFrame, WorkerStage
from pipeline.protocol.worker_kept import KeptFrames
from pipeline.protocol.worker_messages import WorkerMessages
from pipeline.protocol.worker_passes import InferencePasses
from pipeline.protocol.worker_progress import AnswerMeasure, Progress
from pipeline.protocol.worker_schedule import Schedule
from pipeline.protocol.worker_store import FrameStore
from pipeline.protocol.worker_texts import Texts
from pipeline.protocol.worker_throughput import ThroughputEstimate
from pipeline.protocol.worker_work import WorkCosts
from schemas.errors import BitstreamError, CameraNameError, FingerprintError, RemoteError, TopicError
from schemas.identity import ad_hoc_query_id
from schemas.messages import (
    Ask,
    Chunk,
    FollowUp,
    Handover,
    KeyFrame,
    Open,
    Question,
    RejectReason,
    Revoke,
    Status,
    Text,
)
from schemas.types import FrameId


class WorkerFrames:
    """All frames of one worker process.

    Args:
        settings: times and bounds.
        worker: this worker's name.
        pool: its pool.
        fingerprint: first 4 bytes of the codec's fingerprint.
        stop_rule: when an answer is safe; its ladder ends at the whole latent.
        schedule: makes the rule of what goes first from the settings and the throughput.
        costs: work of a pass; by default that of one frame.
        max_batches: batches that the model takes at a time.
        contain: called with an error that nobody has handled, and where it arose, after the frame that met it was
            ended; raises it by default.

    Attributes:
        counters: what happened, by reason.
        passes: what goes to the model, and what comes back.
    """

    def __init__(
        self,
        settings: WorkerProtocolSettings,
        *,
        worker: str,
        pool: str,
        fingerprint: bytes,
        stop_rule: StopRule,
        schedule: Callable[[WorkerProtocolSettings, ThroughputEstimate], Schedule] = Schedule,
        costs: WorkCosts | None = None,
        max_batches: int = 1,
        contain: Callable[[str, Exception], None] | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._settings = settings
        self._contain = contain
        self._fingerprint = fingerprint
        self._latent_count = stop_rule.ladder[-1]
        costs = costs or WorkCosts.by_frames()
        self.throughput = ThroughputEstimate(settings, frame_work=costs.usual, max_batches=max_batches)
        self._frames = FrameStore(self.throughput.due_s)
        self._texts = Texts(settings.text_cache, settings.text_cache_bytes)
        self._sites = CameraSites()
        self._keys = KeyFrames(settings.key_frame_bytes)
        self._messages = WorkerMessages(worker, fingerprint, self._texts)
        self._kept = KeptFrames(settings.kept_frames, settings.kept_bytes)
        self._peers = Peers(worker, pool, fingerprint.hex())
        self._schedule = schedule(settings, self.throughput)
        self._progress = Progress(settings, self._frames, self.throughput, self._messages, self._texts, self.counters)
        self._admission = Admission(
            settings,
            self._frames,
            self.throughput,
            self._schedule,
            self._messages,
            self._progress,
            self._peers,
            self._keys,
            self._kept,
            self.counters,
        )
        self.passes = InferencePasses(
            settings,
            stop_rule,
            costs,
            frames=self._frames,
            throughput=self.throughput,
            schedule=self._schedule,
            messages=self._messages,
            progress=self._progress,
            keys=self._keys,
            kept=self._kept,
            counters=self.counters,
            alone=self.alone,
        )

    # ---- what is read -----------------------------------------------------------------------------------------------

    def take_effects(self) -> list[WorkerEffect]:
        """Effects since the last call, in order."""
        return self._messages.take()

    def next_wake_s(self) -> float | None:
        """When :meth:`tick` is due next, None while nothing can time out."""
        return self._frames.next_s()

    def unfinished(self) -> int:
        """Frames that are not decided."""
        return len(self._frames)

    def frames(self) -> list[WorkerFrame]:
        """Frames that are not decided, for reading only."""
        return list(self._frames)

    def key_frame_bytes(self) -> int:
        """Payload of the key frames that are kept."""
        return self._keys.held_bytes

    def sizes(self) -> dict[str, int]:
        """Entries or bytes of every table that it keeps; those of unfinished frames are empty when no frame is."""
        cameras, texts_awaited, timers = self._frames.sizes()
        edges, cameras_over = self._progress.edges.sizes()
        return {
            "frames": len(self._frames),
            "frame_cameras": cameras,
            "latent_bytes": self._frames.held_bytes,
            "texts_awaited": texts_awaited,
            "timers": timers,
            "texts": len(self._texts),
            "text_bytes": self._texts.held_bytes,
            "decided_queries": len(self._progress.decided),
            "kept_frames": len(self._kept),
            "kept_bytes": self._kept.held_bytes,
            "key_frames": len(self._keys),
            "key_frame_bytes": self._keys.held_bytes,
            "cameras": len(self._sites),
            "edges": edges,
            "cameras_over": cameras_over,
            "workers": len(self._peers),
        }

    def outcomes(self) -> Counter[tuple[str, str]]:
        """Terminal answers by outcome and by who asks: ``standing`` or ``ad_hoc``."""
        return self._progress.outcomes

    def take_measures(self) -> list[AnswerMeasure]:
        """How answers went, since the last call."""
        measures = list(self._progress.measures)
        self._progress.measures.clear()
        return measures

    def load(self) -> tuple[int, int]:
        """Frames held and frames that may be held: what the status message carries."""
        return len(self._frames), 0 if self._admission.draining else self._settings.capacity_frames

    # ---- inputs: messages -------------------------------------------------------------------------------------------

    def receive_open(self, camera: str, message: Open, now_s: float, *, hops: int = 0) -> None:
        """An edge opened a frame, from the share group or by hand-over.

        Raises:
            FingerprintError: made for another model or codec; the edge was told.
            BitstreamError: more latents than this codec has; the edge was told.
            CameraNameError: another site has a camera of this name; the edge was told.
        """
        if message.fingerprint != self._fingerprint:
            self.counters["rejected"] += 1
            self._messages.reject(camera, message, RejectReason.FINGERPRINT)
            raise FingerprintError(message.fingerprint, self._fingerprint)
        if message.stop > self._latent_count:
            self.counters["rejected"] += 1
            self._messages.reject(camera, message, RejectReason.BITSTREAM)
            raise BitstreamError(0, message.stop, f"this codec has {self._latent_count} latents")
        other = self._sites.claim(camera, message.site, now_s)
        if other is not None:
            self.counters["rejected"] += 1
            self._messages.reject(camera, message, RejectReason.CAMERA)
            raise CameraNameError(camera, message.site, other)
        self._admission.open(camera, message, now_s, hops)

    def receive_handover(self, message: Handover, now_s: float) -> None:
        """Another worker passed on an open message."""
        self.counters["handovers_received"] += 1
        self.receive_open(message.camera, message.to_open(), now_s, hops=message.hops)

    def receive_follow_up(self, camera: str, message: FollowUp, now_s: float) -> None:
        """An edge asks more of a frame that this worker owns, or answered last."""
        self.counters["follow_ups"] += 1
        self._admission.follow_up(camera, message, now_s)

    def receive_chunk(self, camera: str, message: Chunk, now_s: float) -> None:
        """Further latents of a frame.

        Args:
            camera: the camera that the topic names.
            message: the chunk.
            now_s: the worker's monotonic time.

        Raises:
            TopicError: the payload names another camera than the topic.
        """
        if message.camera != camera:
            raise TopicError("chunk", f"topic names camera {camera!r}, payload {message.camera!r}")
        frame = self._frames.find(camera, message.frame)
        if frame is None:
            self.counters["chunk_unknown_frame"] += 1
            return
        if message.stop > self._latent_count:
            self.counters["chunk_out_of_range"] += 1
            return
        key = None
        if message.key is not None:
            key = frame.key_of(message.key) or self._keys.get(camera, frame.frame.boot, message.key)
            if key is None:
                # Asked for again in vain, until the edge opens the frame again, coded by itself.
                self.counters["chunk_key_frame_missing"] += 1
                return
        before = frame.held_bytes
        done = frame.add_chunk(ChunkData(message.start, message.stop, message.payload, key))
        self._frames.held_bytes += frame.held_bytes - before
        self.counters[f"chunk_{done}"] += 1
        frame.given_up = False
        if frame.stage is WorkerStage.WAITING and frame.prefix >= frame.target:
            frame.timer_s = None
            frame.move(WorkerEvent.LONGER_PREFIX)
            self._progress.keep_alive(frame, now_s)

    def receive_key_frame(self, camera: str, message: KeyFrame) -> None:
        """A whole latent that later frames of the camera may be coded given.

        Raises:
            FingerprintError: made for another model or codec; frames that name it are rejected.
        """
        if message.fingerprint != self._fingerprint:
            raise FingerprintError(message.fingerprint, self._fingerprint)
        self.counters["key_frames"] += 1
        self._keys.learn(camera, message.frame, message.payload)

    def receive_revoke(self, camera: str, message: Revoke) -> None:
        """The frame has another owner or its outcome."""
        if message.camera != camera:
            raise TopicError("chunk", f"topic names camera {camera!r}, payload {message.camera!r}")
        frame = self._frames.find(camera, message.frame)
        if frame is not None and message.attempt >= frame.attempt:
            self.counters["revoke"] += 1
            self._progress.revoke(frame)

    def receive_text(self, message: Text) -> None:
        """The text of a question, on request. The frames that wait for it keep it; a site's is kept for later ones."""
        question = message.content()
        if not question.ad_hoc:
            self._texts.learn_text(message.camera, question)
        self._progress.text_came(question)

    def receive_question(self, question: Question) -> None:
        """A standing question was set. Frames under way keep the one that they were opened with."""
        content = question.content()
        self._texts.learn_standing(content)
        self._progress.text_came(content)

    def receive_ask(self, camera: str, client: str, message: Ask, reply_to: ReplyTo | None) -> None:
        """A client asked an ad-hoc question; text and reply address are kept for when the frame comes.

        Args:
            camera: the camera that the topic names.
            client: the client that the topic names.
            message: the question.
            reply_to: where it wants its answers, if it said so.
        """
        question, query_id = message.content(client), ad_hoc_query_id(camera, client, message.query_id)
        self._texts.learn_ask(query_id, question, reply_to)
        self._progress.text_came(question, query_id, reply_to)

    def receive_status(self, message: Status) -> None:
        """Another worker's birth or last will."""
        self._peers.learn_status(message)

    def receive_edge_status(self, message: Status, now_s: float) -> None:
        """An edge's birth or last will.

        An edge that is back may have missed what was said meanwhile, so it is said again at once. Once it is gone, this
        worker speaks for its frames at their deadlines.
        """
        self._sites.release(message.id, self._progress.edges.learn(message))
        if message.online:
            for frame in self._frames:
                if (frame.site, frame.frame.boot) == (message.id, message.boot) and frame.camera in message.cameras:
                    self._progress.speak_again(frame, now_s)

    def receive_load(self, message: Status, now_s: float) -> None:
        """Another worker's load."""
        self._peers.learn_load(message, now_s)

    # ---- inputs: time -----------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """Let time pass: deadlines, repeated requests, lease renewal, hand-over."""
        for frame in self._frames.take_due(now_s):
            with self.alone("tick", frame.camera, frame.frame):
                self._progress.finalise_late(frame, now_s)
                if not frame.queries:
                    continue
                if frame.timer_s is not None and frame.timer_s <= now_s:
                    self._progress.repeat(frame, now_s)
                self._progress.keep_alive(frame, now_s)
        self._admission.pass_on(now_s)

    def connection_made(self, now_s: float) -> None:
        """The connection is back: what was said meanwhile may have fallen into the hole, so it is said again.

        An edge that has given the frame to another worker answers *revoke*, and nothing contradictory is said later.
        """
        self._peers.connection_made()
        for frame in self._frames:
            self._progress.speak_again(frame, now_s)

    def drain(self, now_s: float) -> None:
        """Admit nothing more; hand over what the edge has not heard of from here, finish the rest."""
        self._admission.draining = True
        self._progress.end_orphans()
        self._admission.pass_on(now_s)

    # ---- our own bugs -----------------------------------------------------------------------------------------------

    @contextmanager
    def alone(self, where: str, camera: str, frame: FrameId) -> Iterator[None]:
        """Work on one frame: an error that nobody has handled ends this frame and no other.

        What is left of it fails for good: another worker would meet the same bug.

        Raises:
            RemoteError: a peer's error, as it is.
        """
        try:
            yield
        except RemoteError:
            raise
        except Exception as error:
            self.counters["frames_contained"] += 1
            held = self._frames.find(camera, frame)
            if held is not None:
                self._progress.abandon(held, f"internal: {type(error).__name__}")
            if self._contain is None:
                raise
            self._contain(where, error)
