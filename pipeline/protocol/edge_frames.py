"""The frames of an edge, from their offer to the outcome of their last query.

One table serves all cameras of a site. Life of a frame (the code obeys the table
:data:`~pipeline.protocol.edge_frame.EDGE_TRANSITIONS`; any other move raises)::

              offer
                v      left uplink           claim
             QUEUED ---------------> OPENED --------> OWNED --+ renewal: refine -> chunk
                ^                      |                |  ^--+
                |                      | silence        | silence, owner lost, busy
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
OWNED       claim of another       OWNED       *revoke* to the other one
OWNED       busy                   BACKOFF     retry after the time that the worker names
OPENED      silence                BACKOFF     base lease over
OWNED       silence, owner lost    BACKOFF     lease over, or the owner's last will
BACKOFF     claim                  OWNED       slow, not dead
BACKOFF     back-off over          QUEUED      opened again, with the longest prefix that was ever asked for
OPENED,     reject: key frame      QUEUED      opened again at once, coded by itself
OWNED       missing
OWNED       reject: frame of a     QUEUED      opened again at once
            follow-up not held
any         terminal answer        same        the query is decided; DONE when it was the last
any         deadline               same        the query is *expired*; DONE when it was the last
any         attempts over, reject  DONE        the remaining queries are decided: *failed*
(unknown)   any control message    -           *revoke*
OWNED       asked more             same        *follow-up* to the owner; no latents
other       asked more             same        the next open names it, or a follow-up to whoever claims
(past)      asked more             OWNED       *follow-up* to the worker that answered last; with none, QUEUED
==========  =====================  ==========  ==================================================================

A frame may be coded given an earlier one of its camera, its key frame, or become one itself; then its open waits until
the key frame has left. Every attempt but the first is coded by itself, since its worker may lack the key frame.

While the connection is down no lease is judged; after a reconnect each is judged by one grace period. What connection
and statuses tell beside the leases is in :mod:`~pipeline.protocol.edge_connectivity`.

Here are the inputs, time, claims and decisions. The table and the state of one frame are in ``edge_frame``, what is
said in ``edge_messages``, how opens and key frames get out in ``edge_opens``, what is remembered beside frames in
``edge_caches``, and what a message offers the uplink in ``expected_gain``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.protocol.change_gate import Renewal
from pipeline.protocol.departures import Departure
from pipeline.protocol.edge_caches import AdHocQueries
from pipeline.protocol.edge_connectivity import EdgeConnectivity
from pipeline.protocol.edge_follow_ups import EdgeFollowUps
from pipeline.protocol.edge_frame import EdgeEvent, EdgeFrame, EdgeStage, queries_by_id
from pipeline.protocol.edge_messages import Control, EdgeMessages
from pipeline.protocol.edge_names import CameraNames
from pipeline.protocol.edge_opens import EdgeOpens
from pipeline.protocol.effects import AskedQuery, Decision, GivenKey, KeyFrameLost, Latent
from pipeline.protocol.expected_gain import ExpectedGain
from pipeline.protocol.frame_ring import FrameRing, HeldFrame, PastFrame
from pipeline.protocol.ports import Delivery
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.timers import Timers
from schemas.errors import RecordingGapError, StateError
from schemas.messages import Accept, Answer, Busy, NeedText, Refine, Reject, RejectReason, Status
from schemas.types import MAX_ATTEMPTS, Age, FrameId, Outcome, milliseconds

Key = tuple[str, FrameId]

_SEQUENCES = 2**32 - 1
"""Numbers of a camera's frames; then they begin again. The last one of the wire's names no frame."""


class EdgeFrames:
    """All unfinished frames of one edge process.

    Args:
        settings: times and bounds.
        site: this edge; it owns the standing questions.
        pool: worker pool that is asked.
        boot: random id of this process start; part of every frame id.
        fingerprint: first 4 bytes of the codec's fingerprint.
        priorities: weight of the queries of each camera on the uplink, 1 unless given.
        ring: kept frames, which may be asked again.

    Attributes:
        counters: what happened, by reason; the process exports them.
    """

    def __init__(
        self,
        settings: EdgeProtocolSettings,
        *,
        site: str,
        pool: str,
        boot: int,
        fingerprint: bytes,
        priorities: Mapping[str, float] | None = None,
        ring: FrameRing | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._settings = settings
        self._boot = boot
        self._sequence: Counter[str] = Counter()
        self._frames: dict[Key, EdgeFrame] = {}
        self._timers: Timers[Key] = Timers(self._due_s)
        self._messages = EdgeMessages(site, pool, fingerprint)
        self._ad_hoc = AdHocQueries(settings.terminal_cache)
        self._ring = FrameRing() if ring is None else ring
        self._follow_ups = EdgeFollowUps(settings, self._timers, self._messages, self.counters)
        self._connectivity = EdgeConnectivity(
            settings,
            pool,
            self._frames,
            self._timers,
            self.counters,
            self._lose_attempt,
            worker_lost=self._ring.worker_lost,
        )
        self._gain = ExpectedGain(priorities or {})
        self._opens = EdgeOpens(
            settings,
            self._timers,
            self._messages,
            self._gain,
            self.counters,
            delivered=self._open_delivered,
            key_frame_delivered=self._key_frame_delivered,
        )
        self._lost_keys: list[KeyFrameLost] = []
        self._names = CameraNames(site, boot)
        self._draining = False

    # ---- reading ----------------------------------------------------------------------------------------------------

    def replace_priorities(self, priorities: Mapping[str, float]) -> None:
        """Other weights of cameras, for what is decided from now on."""
        self._gain.priorities = priorities

    def take_departures(self) -> list[Departure]:
        """What wants to leave on the uplink, since the last call, in order."""
        return self._messages.take_departures()

    def take_decisions(self) -> list[Decision]:
        """Queries that were decided since the last call, in order."""
        return self._messages.take_decisions()

    def take_lost_keys(self) -> list[KeyFrameLost]:
        """Key frames that nothing more may be coded given, since the last call."""
        lost, self._lost_keys = self._lost_keys, []
        return lost

    def next_wake_s(self) -> float | None:
        """When :meth:`tick` is due next, None while nothing can time out."""
        return self._timers.next_s()

    @property
    def response_s(self) -> float:
        """From the departure of an open message to the first answer, smoothed."""
        return self._gain.response_s

    def unfinished(self) -> int:
        """Queries that have no outcome yet."""
        return sum(len(frame.queries) for frame in self._frames.values())

    def waiting(self) -> int:
        """Frames that no worker has taken yet."""
        return sum(frame.stage is not EdgeStage.OWNED for frame in list(self._frames.values()))

    def sizes(self) -> dict[str, int]:
        """Entries of every table that it keeps; those of unfinished frames are empty when no frame is."""
        running, decided = self._ad_hoc.sizes()
        return {
            "frames": len(self._frames),
            "timers": len(self._timers),
            "ad_hoc_running": running,
            "ad_hoc_decided": decided,
            "workers": self._connectivity.known_workers(),
        }

    def undecided(self) -> list[EdgeFrame]:
        """Frames that have undecided queries, for reading only."""
        return list(self._frames.values())

    def waits_for_uplink(self, camera: str) -> bool:
        """Whether a frame of this camera has still to leave: another one, taken now, would wait behind it."""
        mine = (frame for frame in self._frames.values() if frame.camera == camera and not frame.history)
        return any(frame.stage is EdgeStage.QUEUED for frame in mine)

    def ad_hoc_state(self, query_id: str) -> Decision | FrameId | None:
        """What became of an ad-hoc query: its decision, the frame that carries it, or None if it was never seen."""
        return self._ad_hoc.state(query_id)

    def asked(self, camera: str, frame: FrameId) -> int:
        """Undecided queries of a frame."""
        running = self._frames.get((camera, frame))
        return 0 if running is None else len(running.queries)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def next_id(self, camera: str) -> FrameId:
        """The id of the next frame of a camera."""
        frame = FrameId(self._boot, self._sequence[camera])
        self._sequence[camera] = (self._sequence[camera] + 1) % _SEQUENCES
        return frame

    def renew(self, camera: str, frame: FrameId, renewals: Sequence[Renewal]) -> None:
        """Answers to earlier frames hold on for this one.

        Args:
            camera: its camera.
            frame: its id.
            renewals: what holds on.
        """
        for renewal in renewals:
            self._messages.unchanged(camera, frame, renewal)
            self.counters[f"outcome_{Outcome.UNCHANGED}"] += 1

    def offer(
        self,
        camera: str,
        latent: Latent,
        base_latents: int,
        queries: Sequence[AskedQuery],
        now_s: float,
        *,
        frame: FrameId | None = None,
        given_key: GivenKey[Latent] | None = None,
        age_ms: Age | None = None,
        history: bool = False,
    ) -> FrameId:
        """Ask questions of a new frame.

        Args:
            camera: its camera.
            latent: its coded latent.
            base_latents: prefix that the first open carries.
            queries: at least one.
            now_s: the edge's monotonic time.
            frame: its id; None takes this boot's next one. Who plays recorded frames keeps their sequence numbers.
            given_key: the same latent, coded given a key frame or as one; None codes it by itself.
            age_ms: how old it is; None for a frame of now.
            history: it waited for the link to come back: it takes no other frame's place, and gives way to all.

        Returns:
            The id of the frame.

        Raises:
            StateError: no query, a prefix out of range, an ad-hoc query or frame that runs already, or the session
                drains.
        """
        if self._draining:
            raise StateError("the session drains: no frame may be offered")
        if not 1 <= base_latents <= latent.latent_count:
            raise StateError(f"base prefix of {base_latents} latents, the frame has {latent.latent_count}")
        if frame is None:
            frame = self.next_id(camera)
        elif (camera, frame) in self._frames:
            raise StateError(f"frame {camera}/{frame} runs already")
        by_id = queries_by_id(camera, frame, queries)
        for query_id, query in by_id.items():
            if query.ad_hoc and self.ad_hoc_state(query_id) is not None:
                raise StateError(f"ad-hoc query {query_id} is known already")
        if not history:
            self._supersede(camera, {query.question_id for query in queries if not query.ad_hoc})
        state = EdgeFrame(camera, frame, latent, by_id, base_latents, self._settings.base_lease_s)
        state.given_key, state.age_ms, state.history = given_key, age_ms, history
        self._frames[camera, frame] = state
        self._timers.touch((camera, frame))
        self._ad_hoc.carried_by(state)
        if not history:
            self._gain.offered(state, now_s)
        self._opens.begin(state)
        self._bound(camera)
        self._expire(state, now_s)
        return frame

    def ask_again(self, held: HeldFrame, queries: Sequence[AskedQuery], now_s: float, *, age_s: float) -> None:
        """Ask a frame of the past more, whether its earlier questions are decided or not.

        Args:
            held: the frame.
            queries: ad-hoc ones that no frame was asked yet; with those that are undecided at most 64.
            now_s: the edge's monotonic time.
            age_s: how old the frame was when they were asked.
        """
        camera, frame_id = held.camera, held.frame
        by_id = queries_by_id(camera, frame_id, queries)
        frame = self._find((camera, frame_id))
        if frame is None:
            past = held.past or PastFrame(0, None, held.base_latents, 0)
            prefix = max(held.base_latents, past.prefix)
            frame = EdgeFrame(camera, frame_id, held.latent, by_id, prefix, self._settings.base_lease_s)
            frame.attempt = frame.attempts_before = past.attempt
            frame.sent = past.sent
            self._frames[camera, frame_id] = frame
            if past.owner is not None:
                frame.stage, frame.owner = EdgeStage.OWNED, past.owner
        else:
            past = None
            frame.queries.update(by_id)
        frame.later.update(by_id)
        frame.later_age_ms = milliseconds(age_s)
        self._ad_hoc.carried_by(frame)
        self.counters["asked_again"] += len(by_id)
        if frame.stage is EdgeStage.OWNED:
            self._follow_ups.tell(frame, [*by_id])
        else:
            frame.untold.update(by_id)
            if past is not None:
                self._opens.begin(frame)
        self._bound(camera)
        self._expire(frame, now_s)

    def receive_control(self, camera: str, message: Control, now_s: float) -> None:
        """A worker spoke about a frame of this camera.

        Raises:
            CameraNameError: it has refused one, of this site or of another one, because both have a camera of the name.
        """
        self._connectivity.heard()
        frame = self._find((camera, message.frame))
        if isinstance(message, Reject) and message.reason is RejectReason.CAMERA:
            if frame is not None:
                self._reject(frame, message)
            self.counters["camera_name_refused"] += 1
            raise self._names.refused(camera, message.frame, now_s)
        if frame is None:
            self.counters["control_unknown_frame"] += 1
            if not self._names.foreign(camera, message.frame, now_s):
                self._revoke(camera, message)
            return
        if isinstance(message, Reject):
            self._reject(frame, message)
            return
        if not self._claim(frame, message.worker, message.attempt):
            self._revoke(camera, message)
            return
        if isinstance(message, Busy):
            frame.move(EdgeEvent.BUSY)
            frame.owner = None
            # The worker knows when it will have room; there may be another one that has some now.
            wait_s = self._settings.wait_after_busy_s(frame.attempt)
            frame.timer_s = now_s + max(message.retry_after_ms / 1000, wait_s)
            self.counters["busy"] += 1
            return
        if isinstance(message, Accept | Refine):
            frame.lease_s = max(message.lease_ms / 1000, self._settings.base_lease_s)
        frame.timer_s = now_s + frame.lease_s
        if isinstance(message, Refine):
            self._refine(frame, message)
        elif isinstance(message, NeedText):
            self.counters["texts"] += self._messages.texts(frame, message)

    def receive_answer(self, answer: Answer, now_s: float) -> None:
        """A worker answered a query of this edge's cameras. Provisional ones renew the lease, terminal ones decide.

        Raises:
            CameraNameError: it answers another site, which has a camera of the same name.
        """
        foreign = self._names.foreign_answer(answer, now_s)
        if foreign is not None:
            self.counters["answer_of_other_site"] += 1
            raise foreign
        # An ad-hoc query that came back after a restart has a new frame; an answer to the old one decides it too.
        frame = self._find(self._ad_hoc.running(answer.query_id) or (answer.camera, answer.frame))
        if frame is None or answer.query_id not in frame.queries:
            self.counters["answer_repeated" if answer.outcome else "answer_late"] += 1
            return
        if not frame.history:
            self._gain.answered(frame, answer, now_s)
        if answer.outcome is not None:
            self._decide(frame, answer.query_id, answer.outcome, reason=answer.reason, answer=answer)
        if frame.queries and frame.frame == answer.frame and self._claim(frame, answer.worker, answer.attempt):
            frame.timer_s = now_s + frame.lease_s

    def receive_worker_status(self, status: Status, now_s: float, *, retained: bool = False) -> None:
        """A worker's birth or last will: either may shorten a wait, neither extends one; an earlier boot's is ignored.

        Args:
            status: it.
            now_s: the edge's monotonic time.
            retained: the broker had kept it. Then a birth proves nothing: the worker may have died with the broker.
        """
        if status.kind == "worker":
            self._connectivity.worker_status(status, now_s, retained=retained)

    def connection(self, connected: bool, now_s: float) -> None:
        """The connection came or went: no lease is judged without one, and one grace period later when it is back."""
        self._connectivity.connection(connected, now_s)

    def tick(self, now_s: float) -> None:
        """Let time pass: deadlines, leases, back-off."""
        for key in self._timers.take_due(now_s):
            frame = self._frames.get(key)
            if frame is None:
                continue
            self._expire(frame, now_s)
            if not frame.queries or frame.timer_s is None or not self._connectivity.connected or frame.timer_s > now_s:
                continue
            if frame.stage is EdgeStage.BACKOFF:
                self._open_again(frame, EdgeEvent.BACKOFF_OVER)
            else:
                self.counters["lease_over" if frame.stage is EdgeStage.OWNED else "open_unanswered"] += 1
                self._lose_attempt(frame, EdgeEvent.SILENCE, now_s, wait_s=self._settings.wait_after_s(frame.attempt))

    def drain(self) -> None:
        """Take no new frames; those under way go on."""
        self._draining = True

    def abandon(self, reason: str) -> None:
        """Decide everything that is left as failed: the process is about to stop."""
        for frame in list(self._frames.values()):
            self._fail(frame, reason)

    # ---- the broker's word ------------------------------------------------------------------------------------------

    def _open_delivered(self, key: Key, delivery: Delivery, now_s: float) -> None:
        """What became of an open message. That nobody subscribes is only counted: a recorder on all topics hides it."""
        if delivery is Delivery.NO_SUBSCRIBERS:
            self._connectivity.nobody_subscribed()
        elif delivery is Delivery.CONNECTION_LOST:
            self._connectivity.open_lost(key, now_s)

    def _key_frame_delivered(self, key: Key, delivery: Delivery, _now_s: float) -> None:
        """A key frame that found no way out: its frame stands by itself, if it can still be told."""
        if delivery.arrived:
            return
        self.counters["key_frames_lost"] += 1
        self._lost_keys.append(KeyFrameLost(key[0], key[1].sequence))
        frame = self._find(key)
        if frame is not None:
            self._opens.key_frame_lost(frame)

    # ---- time -------------------------------------------------------------------------------------------------------

    def _find(self, key: Key) -> EdgeFrame | None:
        """A frame whose state is about to change."""
        self._timers.touch(key)
        return self._frames.get(key)

    def _due_s(self, key: Key) -> float | None:
        frame = self._frames.get(key)
        return None if frame is None else frame.due_s(leases_count=self._connectivity.connected)

    # ---- moves ------------------------------------------------------------------------------------------------------

    def _claim(self, frame: EdgeFrame, worker: str, attempt: int) -> bool:
        """Whether this worker owns the frame, by now at the latest. The first word for the attempt makes the owner."""
        if attempt != frame.attempt:
            self.counters["claim_other_attempt"] += 1
            return False
        if frame.owner is None and frame.can(EdgeEvent.CLAIM):
            frame.move(EdgeEvent.CLAIM)
            frame.owner = worker
            self._follow_ups.claimed(frame)
            return True
        if frame.owner != worker:
            self.counters["claim_of_second_worker"] += 1
            return False
        # A lost owner that speaks again before the next attempt has left keeps its lease.
        frame.move(EdgeEvent.RENEWAL if frame.stage is EdgeStage.OWNED else EdgeEvent.CLAIM)
        self._follow_ups.claimed(frame)
        return True

    def _refine(self, frame: EdgeFrame, message: Refine) -> None:
        if message.stop > frame.latent.latent_count:
            self.counters["refine_out_of_range"] += 1
            return
        try:
            self._messages.chunk(frame, message, self._gain.chunk_utility)
        except RecordingGapError as gap:  # a replayed frame, and a worker that wants more than its log holds
            self.counters["latents_not_recorded"] += 1
            self._fail(frame, str(gap))
            self._revoke(frame.camera, message)
            return
        self.counters["refines"] += 1
        self.counters["latents_sent_again_refine"] += frame.send(message.start, message.stop)
        frame.prefix = max(frame.prefix, message.stop)

    def _reject(self, frame: EdgeFrame, message: Reject) -> None:
        if message.reason is RejectReason.KEY_FRAME and frame.key is not None:
            # Whoever says so, a worker of the pool lacks it.
            self._lost_keys.append(KeyFrameLost(frame.camera, frame.key))
        if message.attempt != frame.attempt or frame.owner not in (None, message.worker):
            self.counters["reject_of_no_owner"] += 1
            return
        if message.reason is RejectReason.KEY_FRAME:
            self.counters["key_frame_missing"] += 1
            # Without a key it still had latents of the first attempt; then the number of attempts is its bound.
            last = frame.key is None and frame.tries >= self._settings.attempts
            frame.stand_alone()
            # Where the next open waits already, the broker dealt one open to two workers.
            if frame.can(EdgeEvent.KEY_MISSING) and last:
                self._fail(frame, f"no worker answered in {frame.tries} attempts")
            elif frame.can(EdgeEvent.KEY_MISSING):
                self._open_again(frame, EdgeEvent.KEY_MISSING)
            return
        if message.reason is RejectReason.FRAME:
            self.counters["follow_ups_not_held"] += 1
            if frame.tries >= self._settings.attempts:
                self._fail(frame, f"no worker answered in {frame.tries} attempts")
            elif frame.can(EdgeEvent.NOT_HELD):
                self._open_again(frame, EdgeEvent.NOT_HELD)
            return
        self.counters["rejected"] += 1
        self._fail(frame, self._messages.why_rejected(message))

    def _open_again(self, frame: EdgeFrame, event: EdgeEvent) -> None:
        if frame.attempt >= MAX_ATTEMPTS:
            self._fail(frame, f"the pool turned it away {frame.attempt} times")
            return
        frame.move(event)
        frame.timer_s = None
        if event in (EdgeEvent.KEY_MISSING, EdgeEvent.NOT_HELD):
            frame.owner = None
        self._opens.again(frame)

    def _lose_attempt(self, frame: EdgeFrame, event: EdgeEvent, now_s: float, *, wait_s: float) -> None:
        if frame.tries >= self._settings.attempts:
            self._fail(frame, f"no worker answered in {frame.tries} attempts")
            return
        frame.move(event)
        frame.timer_s = now_s + wait_s

    def _supersede(self, camera: str, question_ids: set[str]) -> None:
        """Standing queries that still wait for the uplink make room for the same question of a newer frame."""
        for frame in list(self._frames.values()):
            waits = frame.stage in (EdgeStage.QUEUED, EdgeStage.BACKOFF) and not frame.history
            if frame.camera == camera and waits:
                self._drop_standing(frame, question_ids, "newer frame")

    def _bound(self, camera: str) -> None:
        """Keep the number of unfinished frames of a camera; ad-hoc queries are never dropped for it."""
        mine = [frame for frame in self._frames.values() if frame.camera == camera and not frame.history]
        for frame in mine[: max(0, len(mine) - self._settings.max_frames_per_camera)]:
            self._drop_standing(frame, None, "too many unfinished frames")

    def _drop_standing(self, frame: EdgeFrame, question_ids: set[str] | None, reason: str) -> None:
        for query_id, query in list(frame.queries.items()):
            if not query.ad_hoc and (question_ids is None or query.question_id in question_ids):
                self._decide(frame, query_id, Outcome.SUPERSEDED, reason=reason, say=True)

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
        decision = self._messages.decision(frame, query_id, query, outcome, reason=reason, answer=answer, say=say)
        self.counters[f"outcome_{outcome}"] += 1
        if query.ad_hoc:
            self._ad_hoc.decide(decision)
        if not frame.queries:
            past = PastFrame(frame.attempt, _last_owner(frame, answer), frame.prefix, frame.sent)
            frame.move(EdgeEvent.DECIDED)
            del self._frames[frame.camera, frame.frame]
            self._ring.ended(frame.camera, frame.frame, past)

    def _expire(self, frame: EdgeFrame, now_s: float) -> None:
        for query_id, query in list(frame.queries.items()):
            if query.deadline_s <= now_s:
                self._decide(frame, query_id, Outcome.EXPIRED, reason=f"deadline while {frame.stage}", say=True)

    def _revoke(self, camera: str, message: Control) -> None:
        self.counters["revoke"] += 1
        self._messages.revoke(camera, message)


def _last_owner(frame: EdgeFrame, answer: Answer | None) -> str | None:
    """Who holds the latents of a frame whose last query is decided; its answer may be the first word of a worker."""
    spoke = answer is not None and (answer.frame, answer.attempt) == (frame.frame, frame.attempt)
    if answer is not None and spoke and frame.owner in (None, answer.worker):
        return answer.worker
    return frame.owner if frame.stage is EdgeStage.OWNED else None
