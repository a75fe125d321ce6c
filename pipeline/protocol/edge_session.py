"""The edge's side of the protocol, without clock or socket: messages and the time go in, effects come out.

One session serves all cameras of a site. Life of a frame (the code obeys the table
:data:`~pipeline.protocol.edge_frame.EDGE_TRANSITIONS`; any other move raises)::

              offer
                v      left uplink           claim
             QUEUED ---------------> OPENED --------> OWNED --+ renewal: refine -> chunk
                ^                      | silence        |  ^--+
                |                      | no worker      | silence, owner lost, busy
                |                      v                v
                +------------------ BACKOFF <-----------+
                   back-off over

    from any stage: all queries decided (answered, expired, superseded, failed) -> DONE

==========  =====================  ==========  ==================================================================
stage       event                  next        effect
==========  =====================  ==========  ==================================================================
(new)       offer                  QUEUED      open queued; older standing queries that wait for the uplink are
                                               superseded
QUEUED      left uplink            OPENED      attempt + 1, remaining times stamped, base lease starts
QUEUED      claim                  OWNED       the queued open is dropped: the owner before is only slow
OPENED      claim                  OWNED       first word for (frame, attempt): accept, refine, answer, ...
OWNED       renewal                OWNED       lease starts again; refine sends a chunk, need text sends texts
OWNED       claim of another       OWNED       *gone* to the other one
OWNED       busy                   BACKOFF     retry after the time that the worker names
OPENED      no worker (reason 16)  BACKOFF     a hint that shortens the wait; its absence proves nothing
OPENED      silence                BACKOFF     base lease over
OWNED       silence, owner lost    BACKOFF     lease over, or the owner's last will
BACKOFF     claim                  OWNED       slow, not dead
BACKOFF     back-off over          QUEUED      opened again, with the longest prefix that was ever asked for
any         terminal answer        same        the query is decided; DONE when it was the last
any         deadline               same        the query is *expired*; DONE when it was the last
any         attempts over, reject  DONE        the remaining queries are decided: *failed*
(unknown)   any control message    -           *gone*
==========  =====================  ==========  ==================================================================

While the connection is down no lease is judged; after a reconnect every running one gets a grace period.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from pipeline.protocol.edge_frame import EdgeEvent, EdgeFrame, EdgeStage, query_id_of
from pipeline.protocol.effects import AskedQuery, EdgeEffect, Latent, SendOpen, SendToWorker, Terminal
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.timers import Timers
from schemas import topics
from schemas.errors import StateError
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import (
    Accept,
    Answer,
    Busy,
    Chunk,
    Gone,
    NeedText,
    Open,
    QueryOutcome,
    QueryRef,
    Refine,
    Reject,
    RejectReason,
    Status,
    Text,
)
from schemas.types import FrameId, Outcome

Control = Accept | Refine | Busy | Reject | NeedText
Key = tuple[str, FrameId]

_KNOWN_WORKERS = 4096


class EdgeSession:
    """All unfinished frames of one edge process.

    Args:
        settings: times and bounds.
        pool: worker pool that is asked.
        boot: random id of this process start; part of every frame id.
        fingerprint: first 4 bytes of the codec's fingerprint.

    Attributes:
        counters: what happened, by reason; the process exports them.
    """

    def __init__(self, settings: EdgeProtocolSettings, *, pool: str, boot: int, fingerprint: bytes) -> None:
        self.counters: Counter[str] = Counter()
        self._settings = settings
        self._pool = pool
        self._boot = boot
        self._fingerprint = fingerprint
        self._sequence: Counter[str] = Counter()
        self._frames: dict[Key, EdgeFrame] = {}
        self._timers: Timers[Key] = Timers(self._due_s)
        self._effects: list[EdgeEffect] = []
        self._ad_hoc: dict[str, Key] = {}
        self._decided: OrderedDict[str, Terminal] = OrderedDict()
        self._worker_boots: dict[str, int] = {}
        self._connected = True
        self._draining = False

    # ---- what the process reads -------------------------------------------------------------------------------------

    def take_effects(self) -> list[EdgeEffect]:
        """Effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def next_wake_s(self) -> float | None:
        """When :meth:`tick` is due next, None while nothing can time out."""
        return self._timers.next_s()

    def unfinished(self) -> int:
        """Queries that have no outcome yet."""
        return sum(len(frame.queries) for frame in self._frames.values())

    def frames(self) -> list[EdgeFrame]:
        """Frames that have undecided queries, for reading only."""
        return list(self._frames.values())

    def ad_hoc_state(self, query_id: str) -> Terminal | FrameId | None:
        """What became of an ad-hoc query: its terminal, the frame that carries it, or None if it was never seen."""
        key = self._ad_hoc.get(query_id)
        return key[1] if key is not None else self._decided.get(query_id)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def offer(
        self, camera: str, latent: Latent, base_latents: int, queries: Sequence[AskedQuery], now_s: float
    ) -> FrameId:
        """Ask questions of a new frame.

        Args:
            camera: its camera.
            latent: its coded latent.
            base_latents: prefix that the first open carries.
            queries: at least one.
            now_s: the edge's monotonic time.

        Returns:
            The id of the frame.

        Raises:
            StateError: no query, a prefix out of range, an ad-hoc query that runs already, or the session drains.
        """
        if self._draining:
            raise StateError("the session drains: no frame may be offered")
        if not 1 <= base_latents <= latent.latent_count:
            raise StateError(f"base prefix of {base_latents} latents, the frame has {latent.latent_count}")
        frame = FrameId(self._boot, self._sequence[camera])
        by_id = {query_id_of(camera, frame, query): query for query in queries}
        if not 1 <= len(queries) <= MAX_QUERIES_PER_FRAME or len(by_id) < len(queries):
            raise StateError(
                f"{len(queries)} queries, {len(by_id)} different: 1 to {MAX_QUERIES_PER_FRAME} are allowed"
            )
        for query_id, query in by_id.items():
            if query.ad_hoc and self.ad_hoc_state(query_id) is not None:
                raise StateError(f"ad-hoc query {query_id} is known already")
        self._sequence[camera] += 1
        self._supersede(camera, {query.question_id for query in queries if not query.ad_hoc})
        state = EdgeFrame(camera, frame, latent, by_id, base_latents, self._settings.base_lease_s)
        self._frames[camera, frame] = state
        self._timers.touch((camera, frame))
        self._ad_hoc.update({query_id: (camera, frame) for query_id, query in by_id.items() if query.ad_hoc})
        self._queue_open(state)
        self._bound(camera)
        self._expire(state, now_s)
        return frame

    def receive_control(self, camera: str, message: Control, now_s: float) -> None:
        """A worker spoke about a frame of this camera."""
        frame = self._find((camera, message.frame))
        if frame is None:
            self.counters["control_unknown_frame"] += 1
            self._say_gone(camera, message)
            return
        if isinstance(message, Reject):
            self._reject(frame, message)
            return
        if not self._claim(frame, message.worker, message.attempt):
            self._say_gone(camera, message)
            return
        if isinstance(message, Busy):
            frame.move(EdgeEvent.BUSY)
            frame.owner = None
            # The worker knows when it will have room; there may be another one that has some now.
            frame.timer_s = now_s + max(message.retry_after_ms / 1000, self._settings.backoff_s)
            self.counters["busy"] += 1
            return
        if isinstance(message, Accept | Refine):
            frame.lease_s = max(message.lease_ms / 1000, self._settings.base_lease_s)
        frame.timer_s = now_s + frame.lease_s
        if isinstance(message, Refine):
            self._refine(frame, message)
        elif isinstance(message, NeedText):
            self._send_texts(frame, message)

    def receive_answer(self, answer: Answer, now_s: float) -> None:
        """A worker answered a query of this edge's cameras. Provisional ones renew the lease, terminal ones decide."""
        # An ad-hoc query that came back after a restart has a new frame; an answer to the old one decides it too.
        frame = self._find(self._ad_hoc.get(answer.query_id, (answer.camera, answer.frame)))
        if frame is None or answer.query_id not in frame.queries:
            self.counters["answer_repeated" if answer.outcome else "answer_late"] += 1
            return
        if answer.outcome is not None:
            self._decide(frame, answer.query_id, answer.outcome, reason=answer.reason, answer=answer)
        if frame.queries and frame.frame == answer.frame and self._claim(frame, answer.worker, answer.attempt):
            frame.timer_s = now_s + frame.lease_s

    def receive_worker_status(self, status: Status, now_s: float) -> None:
        """A worker's birth or last will: a will shortens a wait, never extends one; an earlier boot's is ignored."""
        if status.kind != "worker":
            return
        if status.online:
            known = self._worker_boots.pop(status.id, None)
            self._worker_boots[status.id] = status.boot
            if len(self._worker_boots) > _KNOWN_WORKERS:
                del self._worker_boots[next(iter(self._worker_boots))]
            if known is None or known == status.boot:
                return
        elif self._worker_boots.get(status.id, status.boot) != status.boot:
            self.counters["stale_will"] += 1
            return
        for frame in list(self._frames.values()):
            if frame.owner == status.id and frame.stage is EdgeStage.OWNED:
                self.counters["owner_lost"] += 1
                self._lose_attempt(frame, EdgeEvent.OWNER_LOST, now_s, wait_s=0.0)
                self._timers.touch((frame.camera, frame.frame))

    def left_uplink(self, effect: SendOpen, now_s: float, *, no_subscribers: bool = False) -> None:
        """The broker's word on an open message that was sent.

        Args:
            effect: the open.
            now_s: the edge's monotonic time.
            no_subscribers: PUBACK reason 16. A hint only: a recorder on all topics hides it.
        """
        frame = self._find((effect.camera, effect.frame))
        if no_subscribers and frame is not None and frame.stage is EdgeStage.OPENED:
            self.counters["no_subscribers"] += 1
            self._lose_attempt(frame, EdgeEvent.NO_WORKER, now_s, wait_s=self._backoff_s(frame))

    def connection(self, connected: bool, now_s: float) -> None:
        """The connection came or went: no lease is judged without one, each gets a grace period after it is back."""
        if connected and not self._connected:
            grace_s = now_s + self._settings.grace_s
            for frame in self._frames.values():
                if frame.timer_s is not None:
                    frame.timer_s = max(frame.timer_s, grace_s)
        self._connected = connected
        for key in self._frames:
            self._timers.touch(key)

    def tick(self, now_s: float) -> None:
        """Let time pass: deadlines, leases, back-off."""
        for key in self._timers.take_due(now_s):
            frame = self._frames.get(key)
            if frame is None:
                continue
            self._expire(frame, now_s)
            if not frame.queries or frame.timer_s is None or not self._connected or frame.timer_s > now_s:
                continue
            if frame.stage is EdgeStage.BACKOFF:
                frame.move(EdgeEvent.BACKOFF_OVER)
                frame.timer_s = None
                self._queue_open(frame)
            else:
                self.counters["lease_over" if frame.stage is EdgeStage.OWNED else "open_unanswered"] += 1
                self._lose_attempt(frame, EdgeEvent.SILENCE, now_s, wait_s=self._backoff_s(frame))

    def drain(self) -> None:
        """Take no new frames; those under way go on."""
        self._draining = True

    def abandon(self, reason: str) -> None:
        """Decide everything that is left as failed: the process is about to stop."""
        for frame in list(self._frames.values()):
            self._fail(frame, reason)

    # ---- time -------------------------------------------------------------------------------------------------------

    def _find(self, key: Key) -> EdgeFrame | None:
        """A frame whose state is about to change."""
        self._timers.touch(key)
        return self._frames.get(key)

    def _due_s(self, key: Key) -> float | None:
        frame = self._frames.get(key)
        if frame is None:
            return None
        due_s = min(query.deadline_s for query in frame.queries.values())
        return min(due_s, frame.timer_s) if self._connected and frame.timer_s is not None else due_s

    # ---- moves ------------------------------------------------------------------------------------------------------

    def _queue_open(self, frame: EdgeFrame) -> None:
        key = (frame.camera, frame.frame)

        def stamp(now_s: float) -> Open | None:
            return self._open_leaves(key, now_s)

        self._effects.append(SendOpen(topics.open_topic(self._pool, frame.camera), frame.camera, frame.frame, stamp))

    def _open_leaves(self, key: Key, now_s: float) -> Open | None:
        frame = self._find(key)
        if frame is None or frame.stage is not EdgeStage.QUEUED:
            return None
        refs = [
            QueryRef(query.question_id, min(round((query.deadline_s - now_s) * 1000), 86_400_000), query.ad_hoc)
            for query in frame.queries.values()
            if query.deadline_s > now_s
        ]
        if not refs:
            return None
        frame.move(EdgeEvent.LEFT_UPLINK)
        frame.attempt += 1
        frame.owner = None
        frame.lease_s = self._settings.base_lease_s
        frame.timer_s = now_s + frame.lease_s
        self.counters["opens" if frame.attempt == 1 else "reopens"] += 1
        if frame.attempt > 1:
            self.counters["latents_sent_again_reopen"] += min(frame.sent, frame.prefix)
        frame.sent = max(frame.sent, frame.prefix)
        return Open(
            frame=frame.frame,
            attempt=frame.attempt,
            fingerprint=self._fingerprint,
            queries=tuple(refs),
            stop=frame.prefix,
            payload=frame.latent.payload(0, frame.prefix),
        )

    def _claim(self, frame: EdgeFrame, worker: str, attempt: int) -> bool:
        """Whether this worker owns the frame, by now at the latest. The first word for the attempt makes the owner."""
        if attempt != frame.attempt:
            self.counters["claim_other_attempt"] += 1
            return False
        if frame.owner is None and frame.can(EdgeEvent.CLAIM):
            frame.move(EdgeEvent.CLAIM)
            frame.owner = worker
            return True
        if frame.owner != worker:
            self.counters["claim_of_second_worker"] += 1
            return False
        # A lost owner that speaks again before the next attempt has left keeps its lease.
        frame.move(EdgeEvent.RENEWAL if frame.stage is EdgeStage.OWNED else EdgeEvent.CLAIM)
        return True

    def _refine(self, frame: EdgeFrame, message: Refine) -> None:
        if message.stop > frame.latent.latent_count:
            self.counters["refine_out_of_range"] += 1
            return
        self.counters["refines"] += 1
        if message.start < frame.sent:
            self.counters["latents_sent_again_refine"] += min(frame.sent, message.stop) - message.start
        frame.sent = max(frame.sent, message.stop)
        frame.prefix = max(frame.prefix, message.stop)
        chunk = Chunk(
            camera=frame.camera,
            frame=frame.frame,
            attempt=frame.attempt,
            start=message.start,
            stop=message.stop,
            payload=frame.latent.payload(message.start, message.stop),
        )
        self._send(message.worker, frame.camera, chunk)

    def _send_texts(self, frame: EdgeFrame, message: NeedText) -> None:
        texts = {query.question_id: query for query in frame.queries.values()}
        for question_id in message.question_ids:
            query = texts.get(question_id)
            if query is not None:
                self.counters["texts"] += 1
                text = Text(
                    camera=frame.camera, question_id=question_id, text=query.text, answer_type=query.answer_type
                )
                self._send(message.worker, frame.camera, text)

    def _reject(self, frame: EdgeFrame, message: Reject) -> None:
        if message.attempt != frame.attempt or frame.owner not in (None, message.worker):
            self.counters["reject_of_no_owner"] += 1
            return
        reason = RejectReason(message.reason).name.lower()
        if message.reason is RejectReason.FINGERPRINT:
            reason = f"fingerprint: pool decodes {message.fingerprint.hex()}, this edge sends {self._fingerprint.hex()}"
        self.counters["rejected"] += 1
        self._fail(frame, reason)

    def _lose_attempt(self, frame: EdgeFrame, event: EdgeEvent, now_s: float, *, wait_s: float) -> None:
        if frame.attempt >= self._settings.attempts:
            self._fail(frame, f"no worker answered in {frame.attempt} attempts")
            return
        frame.move(event)
        frame.timer_s = now_s + wait_s

    def _backoff_s(self, frame: EdgeFrame) -> float:
        doublings = min(16, max(0, frame.attempt - 1))
        return min(self._settings.max_backoff_s, self._settings.backoff_s * 2.0**doublings)

    def _supersede(self, camera: str, question_ids: set[str]) -> None:
        """Standing queries that still wait for the uplink make room for the same question of a newer frame."""
        for frame in list(self._frames.values()):
            if frame.camera == camera and frame.stage in (EdgeStage.QUEUED, EdgeStage.BACKOFF):
                for query_id, query in list(frame.queries.items()):
                    if not query.ad_hoc and query.question_id in question_ids:
                        self._decide(frame, query_id, Outcome.SUPERSEDED, reason="newer frame", say=True)

    def _bound(self, camera: str) -> None:
        """Keep the number of unfinished frames of a camera; ad-hoc queries are never dropped for it."""
        mine = [frame for frame in self._frames.values() if frame.camera == camera]
        for frame in mine[: max(0, len(mine) - self._settings.max_frames_per_camera)]:
            for query_id, query in list(frame.queries.items()):
                if not query.ad_hoc:
                    self._decide(frame, query_id, Outcome.SUPERSEDED, reason="too many unfinished frames", say=True)

    def _fail(self, frame: EdgeFrame, reason: str) -> None:
        for query_id in list(frame.queries):
            self._decide(frame, query_id, Outcome.FAILED, reason=reason, say=True)

    def _decide(
        self,
        frame: EdgeFrame,
        query_id: str,
        outcome: Outcome,
        *,
        reason: str = "",
        answer: Answer | None = None,
        say: bool = False,
    ) -> None:
        query = frame.queries.pop(query_id)
        self._timers.touch((frame.camera, frame.frame))
        publish = None
        if say:
            assert outcome in (Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED)  # noqa: S101
            publish = QueryOutcome(
                query_id=query_id,
                camera=frame.camera,
                frame=frame.frame,
                question_id=query.question_id,
                outcome=outcome,
                reason=reason[:200],
            )
        terminal = Terminal(
            frame.camera, frame.frame, query_id, query.question_id, query.ad_hoc, outcome, reason, answer, publish
        )
        self._effects.append(terminal)
        self.counters[f"outcome_{outcome}"] += 1
        if query.ad_hoc:
            del self._ad_hoc[query_id]
            self._decided[query_id] = terminal
            if len(self._decided) > self._settings.terminal_cache:
                self._decided.popitem(last=False)
        if not frame.queries:
            frame.move(EdgeEvent.DECIDED)
            del self._frames[frame.camera, frame.frame]

    def _expire(self, frame: EdgeFrame, now_s: float) -> None:
        for query_id, query in list(frame.queries.items()):
            if query.deadline_s <= now_s:
                self._decide(frame, query_id, Outcome.EXPIRED, reason=f"deadline while {frame.stage}", say=True)

    def _say_gone(self, camera: str, message: Control) -> None:
        self.counters["gone"] += 1
        self._send(message.worker, camera, Gone(camera=camera, frame=message.frame, attempt=message.attempt))

    def _send(self, worker: str, camera: str, message: Chunk | Gone | Text) -> None:
        self._effects.append(SendToWorker(topics.chunk_topic(worker, camera), message, camera))
