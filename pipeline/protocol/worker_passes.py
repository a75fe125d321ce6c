"""Inference passes: which frames the model reads next, and what follows from its answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from math import inf, isfinite

from pipeline.protocol.effects import InferencePass, PassAnswer, PassQuery
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_caches import KeyFrames
from pipeline.protocol.worker_frame import WorkerEvent, WorkerFrame, WorkerQuery, WorkerStage
from pipeline.protocol.worker_kept import KeptFrames
from pipeline.protocol.worker_messages import WorkerMessages
from pipeline.protocol.worker_progress import Progress
from pipeline.protocol.worker_schedule import Schedule
from pipeline.protocol.worker_store import FrameStore
from pipeline.protocol.worker_throughput import ThroughputEstimate
from pipeline.protocol.worker_work import WorkCosts
from schemas.answer_value import answer_value, says_something
from schemas.messages import RejectReason
from schemas.types import FrameId, Outcome

Alone = Callable[[str, str, FrameId], AbstractContextManager[None]]
"""Work on one frame: where, its camera and its id; an error that nobody has handled ends this frame and no other."""


class InferencePasses:
    """What goes to the model, and what comes back.

    Args:
        settings: times and bounds.
        stop_rule: when an answer is safe; its ladder ends at the whole latent.
        costs: work of a pass.
        frames: the frames held.
        throughput: how fast the model is.
        schedule: what goes first.
        messages: what the worker says.
        progress: what becomes of a frame that was admitted.
        keys: key frames of the pool's cameras.
        kept: latents of answered frames.
        counters: what happened, by reason.
        alone: contains what arises at one frame.
    """

    def __init__(
        self,
        settings: WorkerProtocolSettings,
        stop_rule: StopRule,
        costs: WorkCosts,
        *,
        frames: FrameStore,
        throughput: ThroughputEstimate,
        schedule: Schedule,
        messages: WorkerMessages,
        progress: Progress,
        keys: KeyFrames,
        kept: KeptFrames,
        counters: Counter[str],
        alone: Alone,
    ) -> None:
        self._settings = settings
        self._stop_rule = stop_rule
        self._latent_count = stop_rule.ladder[-1]
        self._costs = costs
        self._frames = frames
        self._throughput = throughput
        self._schedule = schedule
        self._messages = messages
        self._progress = progress
        self._keys = keys
        self._kept = kept
        self._counters = counters
        self._alone = alone

    def waiting(self) -> int:
        """Frames that wait for the model."""
        return len(self._frames.in_stage(WorkerStage.PARKED))

    def take(self, max_frames: int, now_s: float, max_work: float = inf, *, batch: int = 0) -> list[InferencePass]:
        """Frames for the model to read next, by the rule of :mod:`~pipeline.protocol.worker_schedule`.

        Args:
            max_frames: frames of a batch.
            now_s: the worker's monotonic time.
            max_work: work of a batch.
            batch: names the batch.
        """
        self._throughput.max_frames, self._throughput.max_work = max_frames, max_work
        for frame in self._frames.in_stage(WorkerStage.PARKED):
            self._progress.drop_decided(frame)
        if not (parked := self._frames.in_stage(WorkerStage.PARKED)):
            return []
        for frame in parked:
            self._weigh(frame)
        picked = self._schedule.pick(parked, max_frames, now_s, max_work=max_work, frame_work=self._costs.frame)
        for frame in picked.hopeless:
            self._counters["standing_too_late"] += 1
            self._progress.give_up(frame)
        passes = []
        for part in picked.batch:
            frame = part.frame
            with self._alone("pass taken", frame.camera, frame.frame):
                frame.move(WorkerEvent.TAKEN)
                known = [
                    PassQuery(query_id, query.question)
                    for query_id in part.query_ids
                    if (query := frame.queries.get(query_id)) is not None and query.question is not None
                ]
                inference_pass = frame.inference_pass(known, part.work, batch)
                self._progress.keep_alive(frame, now_s)
                passes.append(inference_pass)
                self._throughput.note_pass(part.work)
        if passes:
            self._throughput.batch_starts(sum(inference_pass.work for inference_pass in passes), now_s, batch)
        return passes

    def finish(
        self, inference_pass: InferencePass, answers: Sequence[PassAnswer], now_s: float, *, batch: int = 0
    ) -> None:
        """The model has answered a pass: say what is safe, ask for more where it is not."""
        frame = self._frame_of(inference_pass, batch)
        if frame is None:
            return
        asked = {query.query_id: query for query in inference_pass.queries}
        for answer in answers:
            query = frame.queries.get(answer.query_id)
            if query is None:
                continue
            if now_s >= query.deadline_s:
                self._progress.drop_late(frame, answer.query_id)
                continue
            frame.spoke_s = now_s  # whatever is said now makes this worker the owner
            self._answered(frame, query, asked[answer.query_id], inference_pass.stop, answer, now_s)
        more = self._has_more_to_ask(frame, asked)
        if inference_pass.stop >= self._latent_count and frame.prefix == inference_pass.stop and not more:
            # There is nothing further to ask the edge for.
            for query_id in list(frame.queries):
                self._progress.decide(frame, query_id, Outcome.FAILED, "model: no answer")
        if not frame.queries:
            self._throughput.note_frame(frame.passes)
            self._kept.keep(frame)
            self._frames.forget(frame, WorkerEvent.DECIDED)
        elif frame.prefix > inference_pass.stop:
            frame.move(WorkerEvent.OVERTAKEN)
        elif more:
            frame.move(WorkerEvent.PARTLY_ASKED)
        else:
            frame.move(WorkerEvent.NOT_SAFE)
            frame.target = self._stop_rule.next_prefix(frame.prefix)
            frame.tries = 0
            self._progress.refine(frame, now_s)

    def _answered(
        self, frame: WorkerFrame, query: WorkerQuery, asked: PassQuery, prefix: int, answer: PassAnswer, now_s: float
    ) -> None:
        """Decide a query by the model's answer, or publish it as provisional."""
        whole = prefix >= self._latent_count
        problem, failed = answer.problem, answer.failed
        if not problem and not (isfinite(answer.score) and 0.0 <= answer.score <= 1.0):
            problem, failed = f"a score of {answer.score}", "model"
        if problem:
            # Another worker has the same model: the frame must not go round the pool.
            self._counters[f"query_failed_{failed}"] += 1
            self._progress.decide(frame, answer.query_id, Outcome.FAILED, f"{failed}: {problem}")
            return
        self._progress.answered(frame, query)
        if not says_something(answer.text):
            self._counters["wordless_answers"] += 1
            query.text, query.score, query.prefix = None, 0.0, prefix
            if whole:
                self._progress.decide(frame, answer.query_id, Outcome.FAILED, "form: the answer has no words")
            return
        query.text, query.score, query.prefix = answer.text, answer.score, prefix
        fitting = answer_value(asked.answer_type, answer.text, asked.question.options) is not None
        if fitting and self._stop_rule.is_safe(asked.answer_type, prefix, answer.score, asked.question.risk):
            self._progress.decide(frame, answer.query_id, Outcome.ANSWERED)
        elif not fitting and whole:
            self._counters["unfit_answers"] += 1
            self._progress.decide(frame, answer.query_id, Outcome.DEGRADED, f"form: no {asked.answer_type} answer")
        elif now_s >= query.deadline_s - self._settings.finalise_margin_s:
            self._progress.degrade(frame, answer.query_id)
        else:
            self._counters["provisional_answers"] += 1
            self._messages.answer(frame, answer.query_id, query, None)

    def fail(self, inference_pass: InferencePass, reason: RejectReason, problem: str, *, batch: int = 0) -> None:
        """The pass raised: these latents do not decode, or the model failed on them. Nothing else is touched."""
        frame = self._frame_of(inference_pass, batch)
        if frame is None:
            return
        self._counters[f"pass_failed_{reason.name.lower()}"] += 1
        if reason is RejectReason.BITSTREAM and any(chunk.key is not None for chunk in inference_pass.chunks):
            # Perhaps the key frame is damaged. The frame by itself will tell.
            self._keys.forget(inference_pass.camera)
            self._progress.reject_key(frame)
            return
        for query_id in list(frame.queries):
            self._progress.decide(frame, query_id, Outcome.FAILED, f"{reason.name.lower()}: {problem}")
        self._frames.forget(frame, WorkerEvent.DECIDED)

    def note_batch(self, batch_s: float, work: float, *, counted_s: float | None = None, batch: int = 0) -> None:
        """Time of a batch, from which the wait of the next ones is expected, see :class:`ThroughputEstimate`."""
        self._throughput.note_batch(batch_s, work, counted_s=counted_s, batch=batch)
        self._frames.touch_all()  # leases that a stalled model let lie are renewed again

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _frame_of(self, inference_pass: InferencePass, batch: int) -> WorkerFrame | None:
        """The frame of a pass, unless it has ended since; one that came again meanwhile is in another batch."""
        frame = self._frames.find(inference_pass.camera, inference_pass.frame)
        if frame is None or frame.stage is not WorkerStage.INFERRING or frame.batch != batch:
            self._counters["pass_discarded"] += 1
            return None
        return frame

    def _weigh(self, frame: WorkerFrame) -> None:
        """Find out what the queries of a frame cost; their texts are known by now."""
        for query in frame.queries.values():
            if query.work is None and query.question is not None:
                query.work = self._costs.question(query.question.prompt, query.question.answer_type)

    def _has_more_to_ask(self, frame: WorkerFrame, asked: Collection[str]) -> bool:
        """Whether a pass has left out queries of its prefix."""
        return any(query_id not in asked and query.prefix < frame.prefix for query_id, query in frame.queries.items())
