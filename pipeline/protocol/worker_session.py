"""The worker's side of the protocol, without clock, socket or model.

Messages and the time go in, effects come out; looks are pulled by the process whenever its model is free, and their
results come back in. Life of a frame (the code obeys the table
:data:`~pipeline.protocol.worker_frame.WORKER_TRANSITIONS`)::

       open, hand-over
             v         look taken           not safe -> refine
     +--- PARKED ----------------> LOOKING -------------------> WAITING
     |       ^  ^                     |                            |
     |       |  +---------------------+ prefix grew meanwhile      |
     |       +-----------------------------------------------------+ longer prefix
    NEED_TEXT (until the texts are known)

    from any stage: all queries decided -> DONE; gone, handed over, failed, past its deadlines -> DONE

==========  =====================  ==========  ==================================================================
stage       event                  next        effect
==========  =====================  ==========  ==================================================================
(new)       open, texts known      PARKED      *accept* only if the answer will take longer than the base lease
(new)       open, text unknown     NEED_TEXT   *need text*
(new)       open, no room          -           hand-over to a less loaded worker, else *busy*
(new)       open, wrong codec      -           *reject*: never decoded
(new)       open, all decided      -           the kept terminal answers again
PARKED      look taken             LOOKING
LOOKING     safe or whole latent   DONE        terminal answer; with queries left, the row below
LOOKING     not safe               WAITING     provisional answer, *refine* for the next rung of the ladder
LOOKING     prefix grew meanwhile  PARKED      provisional answer
WAITING     longer prefix          PARKED
WAITING     silence, reconnect     WAITING     *refine* again, a bounded number of times
any         lease half over        same        *accept*: progress renews it
any         margin before deadline same        best answer so far as *degraded*; DONE when it was the last
any         gone                   DONE
==========  =====================  ==========  ==================================================================

A query without any answer at its deadline is dropped in silence: the edge, whose clock the deadline is on, says
*expired*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pipeline.protocol.effects import (
    ChunkData,
    Look,
    LookAnswer,
    LookQuery,
    ReplyTo,
    WorkerEffect,
)
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.timers import Timers
from pipeline.protocol.worker_frame import WorkerEvent, WorkerFrame, WorkerQuery, WorkerStage
from pipeline.protocol.worker_memory import DecidedQueries, KnownQuestion, Peers, Questions
from pipeline.protocol.worker_pace import WorkerPace
from pipeline.protocol.worker_voice import WorkerVoice
from schemas.errors import BitstreamError, FingerprintError, TopicError
from schemas.messages import (
    Ask,
    Chunk,
    Gone,
    Handover,
    Open,
    Question,
    RejectReason,
    Status,
    Text,
)
from schemas.types import FrameId, Outcome

Key = tuple[str, FrameId]


class WorkerSession:
    """All frames of one worker process.

    Args:
        settings: times and bounds.
        worker: this worker's name.
        pool: its pool.
        fingerprint: first 4 bytes of the codec's fingerprint.
        stop_rule: when an answer is safe; its ladder ends at the whole latent.

    Attributes:
        counters: what happened, by reason; the process exports them.
    """

    def __init__(
        self, settings: WorkerProtocolSettings, *, worker: str, pool: str, fingerprint: bytes, stop_rule: StopRule
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._settings = settings
        self._fingerprint = fingerprint
        self._stop_rule = stop_rule
        self._latent_count = stop_rule.ladder[-1]
        self._frames: dict[Key, WorkerFrame] = {}
        self._timers: Timers[Key] = Timers(self._due_s)
        self._held_bytes = 0
        self._questions = Questions(settings.text_cache)
        self._voice = WorkerVoice(worker, fingerprint, self._questions)
        self._decided = DecidedQueries(settings.terminal_cache)
        self._peers = Peers(worker, pool, fingerprint.hex())
        self._pace = WorkerPace(settings)
        self._draining = False

    # ---- what the process reads -------------------------------------------------------------------------------------

    def take_effects(self) -> list[WorkerEffect]:
        """Effects since the last call, in order."""
        return self._voice.take()

    def next_wake_s(self) -> float | None:
        """When :meth:`tick` is due next, None while nothing can time out."""
        return self._timers.next_s()

    def unfinished(self) -> int:
        """Frames that are not decided."""
        return len(self._frames)

    def parked(self) -> int:
        """Frames that wait for the model."""
        return sum(frame.stage is WorkerStage.PARKED for frame in self._frames.values())

    def load(self) -> tuple[int, int]:
        """Frames held and frames that may be held: what the status message carries."""
        return len(self._frames), 0 if self._draining else self._settings.capacity_frames

    # ---- inputs: messages -------------------------------------------------------------------------------------------

    def receive_open(self, camera: str, message: Open, now_s: float, *, hops: int = 0) -> None:
        """An edge opened a frame, from the share group or by hand-over.

        Raises:
            FingerprintError: made for another model or codec; the edge was told.
            BitstreamError: more latents than this codec has; the edge was told.
        """
        if message.fingerprint != self._fingerprint:
            self.counters["rejected"] += 1
            self._voice.reject(camera, message, RejectReason.FINGERPRINT)
            raise FingerprintError(message.fingerprint, self._fingerprint)
        if message.stop > self._latent_count:
            self.counters["rejected"] += 1
            self._voice.reject(camera, message, RejectReason.BITSTREAM)
            raise BitstreamError(0, message.stop, f"this codec has {self._latent_count} latents")
        frame = self._find((camera, message.frame))
        if frame is not None:
            self._reopen(frame, message, now_s)
            return
        queries = self._undecided(camera, message, now_s)
        if not queries:
            return
        if not self._has_room(message):
            self._turn_away(camera, message, hops, now_s)
            return
        self._admit(camera, message, queries, now_s, hops)

    def receive_handover(self, message: Handover, now_s: float) -> None:
        """Another worker passed on an open message."""
        self.counters["handovers_received"] += 1
        self.receive_open(message.camera, message.to_open(), now_s, hops=message.hops)

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
        frame = self._find((camera, message.frame))
        if frame is None:
            self.counters["chunk_unknown_frame"] += 1
            return
        if message.stop > self._latent_count:
            self.counters["chunk_out_of_range"] += 1
            return
        before = frame.held_bytes
        done = frame.add_chunk(ChunkData(message.start, message.stop, message.payload))
        self._held_bytes += frame.held_bytes - before
        self.counters[f"chunk_{done}"] += 1
        frame.given_up = False
        if frame.stage is WorkerStage.WAITING and frame.prefix >= frame.target:
            frame.timer_s = None
            frame.move(WorkerEvent.LONGER_PREFIX)
            self._keep_alive(frame, now_s)

    def receive_gone(self, camera: str, message: Gone) -> None:
        """The frame has another owner or its outcome."""
        if message.camera != camera:
            raise TopicError("chunk", f"topic names camera {camera!r}, payload {message.camera!r}")
        frame = self._find((camera, message.frame))
        if frame is not None and message.attempt >= frame.attempt:
            self.counters["gone"] += 1
            self._forget(frame, WorkerEvent.GIVEN_UP)

    def receive_text(self, message: Text) -> None:
        """The text of a question, on request."""
        self._learn(message.question_id, KnownQuestion(message.text, message.answer_type))

    def receive_question(self, question_id: str, question: Question | None) -> None:
        """A standing question was set, or withdrawn (None)."""
        if question is None:
            self._questions.forget(question_id)
        else:
            self._learn(question_id, KnownQuestion(question.text, question.answer_type))

    def receive_ask(self, message: Ask, reply_to: ReplyTo | None) -> None:
        """A client asked an ad-hoc question; its text and reply topic are kept for when the frame comes."""
        self._learn(message.query_id, KnownQuestion(message.text, message.answer_type, reply_to))

    def receive_status(self, message: Status) -> None:
        """Another worker's birth or last will."""
        self._peers.learn_status(message)

    def receive_load(self, message: Status, now_s: float) -> None:
        """Another worker's load."""
        self._peers.learn_load(message, now_s)

    # ---- inputs: the model ------------------------------------------------------------------------------------------

    def take_looks(self, max_frames: int, now_s: float) -> list[Look]:
        """Frames for the model to look at next, the most urgent first.

        Args:
            max_frames: size of a batch.
            now_s: the worker's monotonic time.
        """
        parked = [frame for frame in self._frames.values() if frame.stage is WorkerStage.PARKED]
        parked.sort(key=WorkerFrame.first_deadline_s)
        looks = []
        for frame in parked[:max_frames]:
            self._timers.touch((frame.camera, frame.frame))
            frame.move(WorkerEvent.LOOK_TAKEN)
            frame.looks += 1
            queries = []
            for query_id, query in frame.queries.items():
                known = self._questions.get(query.question_id)
                if known is not None:
                    queries.append(LookQuery(query_id, query.question_id, known.text, known.answer_type))
            looks.append(
                Look(
                    frame.camera,
                    frame.frame,
                    frame.attempt,
                    tuple(frame.chunks),
                    frame.prefix,
                    tuple(queries),
                    frame.looks,
                )
            )
            self._keep_alive(frame, now_s)
        if looks:
            self._pace.batch_starts(len(looks), now_s)
        return looks

    def finish_look(self, look: Look, answers: Sequence[LookAnswer], now_s: float) -> None:
        """The model has answered a look: say what is safe, ask for more where it is not."""
        frame = self._find((look.camera, look.frame))
        if frame is None or frame.stage is not WorkerStage.LOOKING:
            self.counters["look_in_vain"] += 1
            return
        types = {query.query_id: query.answer_type for query in look.queries}
        for answer in answers:
            query = frame.queries.get(answer.query_id)
            if query is None:
                continue
            if now_s >= query.deadline_s:
                self._drop_late(frame, answer.query_id)
                continue
            query.text, query.score, query.prefix = answer.text, answer.score, look.stop
            if self._stop_rule.is_safe(types[answer.query_id], look.stop, answer.score):
                self._decide(frame, answer.query_id, Outcome.ANSWERED)
            elif now_s >= query.deadline_s - self._settings.finalise_margin_s:
                self._decide(frame, answer.query_id, Outcome.DEGRADED, "deadline")
            else:
                self.counters["provisional_answers"] += 1
                self._voice.answer(frame, answer.query_id, query, None)
                frame.spoke_s = now_s
        if not frame.queries:
            self._forget(frame, WorkerEvent.DECIDED)
        elif frame.prefix > look.stop:
            frame.move(WorkerEvent.OVERTAKEN)
        else:
            frame.move(WorkerEvent.NOT_SAFE)
            frame.target = self._stop_rule.next_prefix(frame.prefix)
            frame.tries = 0
            self._refine(frame, now_s)

    def fail_look(self, look: Look, reason: RejectReason, problem: str) -> None:
        """The look raised: these latents do not decode, or the model failed on them. Nothing else is touched."""
        frame = self._find((look.camera, look.frame))
        if frame is None or frame.stage is not WorkerStage.LOOKING:
            self.counters["look_in_vain"] += 1
            return
        self.counters[f"look_failed_{reason.name.lower()}"] += 1
        for query_id in list(frame.queries):
            self._decide(frame, query_id, Outcome.FAILED, f"{reason.name.lower()}: {problem}"[:200])
        self._forget(frame, WorkerEvent.DECIDED)

    def note_batch(self, seconds: float, frames: int) -> None:
        """Time of a batch, from which the wait of the next ones is expected (moving average)."""
        self._pace.note_batch(seconds, frames)
        for key in self._frames:
            self._timers.touch(key)  # leases that a stalled model let lie are renewed again

    # ---- inputs: time -----------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """Let time pass: deadlines, repeated requests, lease renewal, hand-over."""
        for key in self._timers.take_due(now_s):
            frame = self._frames.get(key)
            if frame is None:
                continue
            self._finalise_late(frame, now_s)
            if not frame.queries:
                continue
            if frame.timer_s is not None and frame.timer_s <= now_s:
                self._repeat(frame, now_s)
            self._keep_alive(frame, now_s)
        self._pass_on(now_s)

    def connection_made(self, now_s: float) -> None:
        """The connection is back: what was asked for meanwhile may have fallen into the hole, so it is asked again.

        An edge that has given the frame to another worker answers *gone*, and nothing contradictory is said later.
        """
        for key, frame in self._frames.items():
            if frame.stage in (WorkerStage.WAITING, WorkerStage.NEED_TEXT):
                self._timers.touch(key)
                frame.tries, frame.given_up = 0, False
                self._ask_again(frame, now_s)

    def drain(self, now_s: float) -> None:
        """Admit nothing more; hand over what the edge has not heard of from here, finish the rest."""
        self._draining = True
        self._pass_on(now_s)

    # ---- admission --------------------------------------------------------------------------------------------------

    def _undecided(self, camera: str, message: Open, now_s: float) -> dict[str, WorkerQuery]:
        """The queries that still need work here; kept answers of the others are said again."""
        queries: dict[str, WorkerQuery] = {}
        for query_id, ref in zip(message.query_ids(camera), message.queries, strict=True):
            decided = self._decided.get(query_id)
            if decided is not None:
                self.counters["terminal_repeated"] += 1
                self._voice.repeat(decided)
            elif ref.remaining_ms > 0:
                queries[query_id] = WorkerQuery(ref.question_id, ref.ad_hoc, now_s + ref.remaining_ms / 1000)
        return queries

    def _has_room(self, message: Open) -> bool:
        return (
            not self._draining
            and len(self._frames) < self._settings.capacity_frames
            and self._held_bytes + len(message.payload) <= self._settings.capacity_bytes
        )

    def _turn_away(self, camera: str, message: Open, hops: int, now_s: float) -> None:
        may_hop = hops < self._settings.max_hops
        peer = self._peers.less_loaded(len(self._frames) + 1, now_s) if may_hop else None
        if peer is not None:
            self.counters["handovers_sent"] += 1
            self._voice.hand_over(peer, camera, message, hops)
            return
        self.counters["busy"] += 1
        self._voice.busy(camera, message, self._pace.wait_s(len(self._frames)))

    def _admit(self, camera: str, message: Open, queries: dict[str, WorkerQuery], now_s: float, hops: int) -> None:
        frame = WorkerFrame(
            camera, message.frame, message.attempt, queries, WorkerStage.NEED_TEXT, self._settings.base_lease_s, now_s
        )
        frame.hops = hops
        frame.add_chunk(ChunkData(0, message.stop, message.payload))
        self._frames[camera, message.frame] = frame
        self._timers.touch((camera, message.frame))
        self._held_bytes += frame.held_bytes
        self.counters["admitted"] += 1
        if self._unknown_texts(frame):
            self._ask_texts(frame, now_s)
        else:
            frame.move(WorkerEvent.TEXTS_KNOWN)
            self._pass_on(now_s)
        if (camera, message.frame) in self._frames:
            self._keep_alive(frame, now_s)

    def _reopen(self, frame: WorkerFrame, message: Open, now_s: float) -> None:
        """A further open of a frame that is here: a duplicate, or a later attempt of an edge that missed our word."""
        if message.attempt <= frame.attempt:
            self.counters["open_duplicate"] += 1
            return
        self.counters["reopened_here"] += 1
        frame.attempt = message.attempt
        frame.spoke_s, frame.admitted_s, frame.lease_s = None, now_s, self._settings.base_lease_s
        frame.tries, frame.given_up = 0, False
        frame.queries |= {
            query_id: query
            for query_id, query in self._undecided(frame.camera, message, now_s).items()
            if query_id not in frame.queries
        }
        before = frame.held_bytes
        if frame.replace_prefix(ChunkData(0, message.stop, message.payload)) and (
            frame.stage is WorkerStage.WAITING and frame.prefix >= frame.target
        ):
            frame.timer_s = None
            frame.move(WorkerEvent.LONGER_PREFIX)
        self._held_bytes += frame.held_bytes - before
        self._ask_again(frame, now_s)
        self._keep_alive(frame, now_s)

    def _unknown_texts(self, frame: WorkerFrame) -> list[str]:
        return [q.question_id for q in frame.queries.values() if self._questions.get(q.question_id) is None]

    def _ask_texts(self, frame: WorkerFrame, now_s: float) -> None:
        frame.tries += 1
        frame.timer_s = now_s + self._settings.text_timeout_s
        frame.spoke_s = now_s
        self.counters["texts_asked"] += 1
        self._voice.need_text(frame, self._unknown_texts(frame))

    def _learn(self, question_id: str, question: KnownQuestion) -> None:
        known = self._questions.get(question_id)
        if known is not None and question.reply_to is None:
            question = replace(question, reply_to=known.reply_to)
        self._questions.learn(question_id, question)
        for frame in self._frames.values():
            if frame.stage is WorkerStage.NEED_TEXT and not self._unknown_texts(frame):
                frame.timer_s = None
                frame.given_up = False
                self._timers.touch((frame.camera, frame.frame))
                frame.move(WorkerEvent.TEXTS_KNOWN)

    def _find(self, key: Key) -> WorkerFrame | None:
        """A frame whose state is about to change."""
        self._timers.touch(key)
        return self._frames.get(key)

    def _due_s(self, key: Key) -> float | None:
        frame = self._frames.get(key)
        if frame is None:
            return None
        due_s = min(self._pace.renew_at_s(frame), *(self._decided_by_s(query) for query in frame.queries.values()))
        return due_s if frame.timer_s is None else min(due_s, frame.timer_s)

    # ---- progress ---------------------------------------------------------------------------------------------------

    def _keep_alive(self, frame: WorkerFrame, now_s: float) -> None:
        """Say *accept*, unless the edge has heard from us a moment ago or never had to."""
        if self._pace.must_speak(frame, len(self._frames), now_s):
            frame.spoke_s = now_s
            frame.lease_s = self._pace.lease_s(len(self._frames))
            self.counters["accepts"] += 1
            self._voice.accept(frame)

    def _refine(self, frame: WorkerFrame, now_s: float) -> None:
        frame.tries += 1
        frame.timer_s = now_s + self._settings.refine_timeout_s
        frame.spoke_s = now_s
        frame.lease_s = self._pace.lease_s(len(self._frames)) + self._settings.refine_timeout_s
        self.counters["refines" if frame.tries == 1 else "refines_repeated"] += 1
        self._voice.refine(frame)

    def _repeat(self, frame: WorkerFrame, now_s: float) -> None:
        """A request went unanswered: ask again a bounded number of times, then let the lease run out."""
        if frame.tries >= self._settings.refine_tries:
            frame.timer_s = None
            frame.given_up = True
            self.counters["requests_given_up"] += 1
        else:
            self._ask_again(frame, now_s)

    def _ask_again(self, frame: WorkerFrame, now_s: float) -> None:
        if frame.stage is WorkerStage.WAITING:
            self._refine(frame, now_s)
        elif frame.stage is WorkerStage.NEED_TEXT:
            self._ask_texts(frame, now_s)

    def _decided_by_s(self, query: WorkerQuery) -> float:
        """When time decides a query: a margin before its deadline with an answer at hand, else at its deadline."""
        return query.deadline_s - (0.0 if query.text is None else self._settings.finalise_margin_s)

    def _finalise_late(self, frame: WorkerFrame, now_s: float) -> None:
        for query_id, query in list(frame.queries.items()):
            if now_s >= query.deadline_s:
                self._drop_late(frame, query_id)
            elif now_s >= self._decided_by_s(query):
                self._decide(frame, query_id, Outcome.DEGRADED, f"deadline while {frame.stage}")
        if not frame.queries:
            self._forget(frame, WorkerEvent.GIVEN_UP)

    def _drop_late(self, frame: WorkerFrame, query_id: str) -> None:
        """Too late to count: the edge has said so. A worker that was frozen wakes up here."""
        del frame.queries[query_id]
        self.counters["deadline_passed"] += 1

    def _pass_on(self, now_s: float) -> None:
        """Hand parked frames that nobody waits for here to a less loaded worker, the latest deadline first."""
        if not self._draining and self._pace.wait_s(len(self._frames)) <= self._settings.handover_wait_s:
            return
        waiting = [frame for frame in self._frames.values() if frame.may_pass_on(self._settings.max_hops)]
        waiting.sort(key=WorkerFrame.first_deadline_s, reverse=True)
        for frame in waiting:
            parked = len(self._frames) if not self._draining else 1 << 30
            peer = self._peers.less_loaded(parked, now_s)
            if peer is None:
                return
            self.counters["handovers_sent"] += 1
            self._voice.hand_over_frame(peer, frame, now_s)
            self._forget(frame, WorkerEvent.GIVEN_UP)

    def _decide(self, frame: WorkerFrame, query_id: str, outcome: Outcome, reason: str = "") -> None:
        query = frame.queries.pop(query_id)
        self.counters[f"outcome_{outcome}"] += 1
        self._decided.add(self._voice.answer(frame, query_id, query, outcome, reason))

    def _forget(self, frame: WorkerFrame, event: WorkerEvent) -> None:
        frame.move(event)
        self._held_bytes -= frame.held_bytes
        del self._frames[frame.camera, frame.frame]
