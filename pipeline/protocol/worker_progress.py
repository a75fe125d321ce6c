"""What becomes of a frame that a worker has admitted: words to its edge, requests, and the outcomes of its queries.

A worker decides a query in two cases: its model said enough, or time is up. A query without any answer at its deadline
is dropped in silence, because the edge, whose clock the deadline is on, says *expired*; unless that edge is gone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.reasons import EDGE_LOST, OVERLOAD
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_caches import DecidedQueries, Edges
from pipeline.protocol.worker_frame import WorkerEvent, WorkerFrame, WorkerQuery, WorkerStage
from pipeline.protocol.worker_messages import WorkerMessages
from pipeline.protocol.worker_store import FrameStore
from pipeline.protocol.worker_texts import Texts
from pipeline.protocol.worker_throughput import ThroughputEstimate
from schemas.identity import QuestionContent
from schemas.messages import RejectReason
from schemas.types import Outcome

KEPT_MEASURES: Final = 4_096
"""A process takes them after every input."""


@dataclass(frozen=True, slots=True)
class AnswerMeasure:
    """How an answer went.

    Attributes:
        admitted_s: when its frame was admitted, on the worker's clock.
        ad_hoc: a client asked it.
        outcome: how the query ended; None of its first answer.
        reason: why.
        latents: prefix that was read.
    """

    admitted_s: float
    ad_hoc: bool
    outcome: Outcome | None
    reason: str = ""
    latents: int = 0


class Progress:
    """Moves of admitted frames.

    Args:
        settings: times and bounds.
        frames: the frames held.
        throughput: how fast the model is.
        messages: what the worker says.
        texts: what is known of questions.
        counters: what happened, by reason.

    Attributes:
        decided: queries that were decided here.
        edges: which edges are gone.
        outcomes: terminal answers by outcome and by who asks: ``standing`` or ``ad_hoc``.
        measures: how answers went, for metrics: the latest, until somebody takes them.
    """

    def __init__(
        self,
        settings: WorkerProtocolSettings,
        frames: FrameStore,
        throughput: ThroughputEstimate,
        messages: WorkerMessages,
        texts: Texts,
        counters: Counter[str],
    ) -> None:
        self.decided = DecidedQueries(settings.terminal_cache)
        self.edges = Edges()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.measures: deque[AnswerMeasure] = deque(maxlen=KEPT_MEASURES)
        self._settings = settings
        self._frames = frames
        self._throughput = throughput
        self._messages = messages
        self._texts = texts
        self._counters = counters

    # ---- words to the edge ------------------------------------------------------------------------------------------

    def keep_alive(self, frame: WorkerFrame, now_s: float) -> None:
        """Say *accept*, unless the edge has heard from us a moment ago or never had to."""
        if self._throughput.must_speak(frame, len(self._frames), now_s):
            self._accept(frame, now_s)

    def speak_again(self, frame: WorkerFrame, now_s: float) -> None:
        """The edge may have missed the last words: repeat the request that the frame waits for, else *accept*.

        Not where it never heard of this worker, not right after the last word, which may be on its way still, and no
        *accept* while the model is stalled.
        """
        if frame.spoke_s is None:
            return
        self._frames.touch(frame)
        frame.tries, frame.given_up = 0, False
        due_s = frame.spoke_s + self._settings.repeat_s
        if frame.stage in (WorkerStage.WAITING, WorkerStage.NEED_TEXT):
            frame.timer_s = due_s if frame.timer_s is None else min(due_s, frame.timer_s)
            if due_s <= now_s:
                self.ask_again(frame, now_s)
        elif due_s <= now_s and not self._throughput.stalled(frame, now_s):
            self._accept(frame, now_s)

    def refine(self, frame: WorkerFrame, now_s: float) -> None:
        """Ask for the latents up to the frame's target."""
        frame.tries += 1
        frame.timer_s = now_s + self._settings.refine_timeout_s
        frame.spoke_s = now_s
        frame.lease_s = self._throughput.lease_s(len(self._frames)) + self._settings.refine_timeout_s
        self._counters["refines" if frame.tries == 1 else "refines_repeated"] += 1
        self._messages.refine(frame)

    def look_up(self, camera: str, query_id: str, query: WorkerQuery) -> bool:
        """Let a query keep its text, if that is known here; whether it has one.

        Of an ad-hoc question the reply address has to be known as well: the edge replies when it is asked for a text.
        """
        if query.question is None and query.ad_hoc:
            ask = self._texts.ask(query_id, query.owner, query.ref.digest)
            return ask is not None and query.take(ask.question, ask.reply_to)
        if query.question is None:
            question = self._texts.standing(camera, query.owner, query.ref.digest)
            return question is not None and query.take(question)
        return True

    def text_came(self, question: QuestionContent, query_id: str = "", reply_to: ReplyTo | None = None) -> None:
        """A text was learned: frames that wait for it keep it, whatever is forgotten elsewhere.

        Args:
            question: with its text.
            query_id: query that a client asked with it, if one did.
            reply_to: where that client wants its answers.
        """
        for frame in self._frames.waiting_for(question.digest):
            came = False
            for key, query in frame.queries.items():
                came |= query.take(question, reply_to if key == query_id else None)
            for key, query in list(frame.joining.items()):
                if query.take(question, reply_to if key == query_id else None):
                    frame.queries[key] = frame.joining.pop(key)
                    self._frames.touch(frame)
            if not came:
                continue
            self._frames.touch(frame)
            frame.tries, frame.given_up = 0, False
            frame.texts_asked.discard(question.digest)
            if not frame.texts_asked:
                frame.timer_s = frame.spoke_s  # what the last request named is here: ask for the rest at once
            self.settle_texts(frame)

    def settle_texts(self, frame: WorkerFrame) -> None:
        """A frame that waited for texts goes on when none is missing any more."""
        if frame.stage is not WorkerStage.NEED_TEXT or not frame.queries:
            return
        if all(query.question is not None for query in frame.queries.values()):
            self._frames.touch(frame)
            self._frames.wait_for(frame, ())
            frame.texts_asked.clear()
            frame.timer_s, frame.given_up, frame.tries = None, False, 0
            frame.move(WorkerEvent.TEXTS_KNOWN)

    def ask_texts(self, frame: WorkerFrame, now_s: float) -> None:
        """Ask for the texts of a frame's questions; each request names some of them, until the last one is here."""
        unknown = [
            query.ref.digest
            for query_id, query in frame.queries.items()
            if not self.look_up(frame.camera, query_id, query)
        ]
        if not unknown:
            self.settle_texts(frame)
            return
        missing = list(dict.fromkeys(unknown))
        self._frames.wait_for(frame, missing)
        frame.tries += 1
        frame.timer_s = now_s + self._settings.text_timeout_s
        frame.spoke_s = now_s
        self._counters["texts_asked"] += 1
        frame.texts_asked = set(self._messages.need_text(frame, missing))

    def ask_joining_texts(self, frame: WorkerFrame, digests: Sequence[bytes], now_s: float) -> None:
        """Ask for the texts of follow-ups to a frame that goes on without them; once, as the edge opens it again."""
        self._frames.touch(frame)
        self._frames.wait_for(frame, frame.missing.union(digests))
        frame.spoke_s = now_s
        self._counters["texts_asked"] += 1
        self._messages.need_text(frame, digests)

    def repeat(self, frame: WorkerFrame, now_s: float) -> None:
        """A request went unanswered: ask again a bounded number of times, then let the lease run out."""
        if frame.tries >= self._settings.refine_tries and frame.stage is WorkerStage.NEED_TEXT:
            # Nothing was said about it yet, so it is of no use here; its edge opens it again.
            self._counters["texts_never_came"] += 1
            self._end_orphaned(frame)
            self._frames.forget(frame, WorkerEvent.GIVEN_UP)
        elif frame.tries >= self._settings.refine_tries:
            frame.timer_s = None
            frame.given_up = True
            self._counters["requests_given_up"] += 1
        else:
            self.ask_again(frame, now_s)

    def ask_again(self, frame: WorkerFrame, now_s: float) -> None:
        """Repeat the request that a frame waits for, if it waits for one."""
        if frame.stage is WorkerStage.WAITING:
            self.refine(frame, now_s)
        elif frame.stage is WorkerStage.NEED_TEXT:
            self.ask_texts(frame, now_s)

    def _accept(self, frame: WorkerFrame, now_s: float) -> None:
        frame.spoke_s = now_s
        frame.lease_s = self._throughput.lease_s(len(self._frames))
        self._counters["accepts"] += 1
        self._messages.accept(frame)

    def answered(self, frame: WorkerFrame, query: WorkerQuery) -> None:
        """The model has answered a query, which has not been answered before if it has read nothing."""
        if not query.prefix:
            self.measures.append(AnswerMeasure(frame.admitted_s, query.ad_hoc, None))

    # ---- outcomes ---------------------------------------------------------------------------------------------------

    def decide(self, frame: WorkerFrame, query_id: str, outcome: Outcome, reason: str = "") -> None:
        """Say the terminal answer of a query, unless another frame of a client's question was sooner."""
        query = frame.queries.pop(query_id)
        if self._is_decided(query_id, query):
            return
        self._counters[f"outcome_{outcome}"] += 1
        self.outcomes[str(outcome), "ad_hoc" if query.ad_hoc else "standing"] += 1
        self.measures.append(AnswerMeasure(frame.admitted_s, query.ad_hoc, outcome, reason, query.prefix))
        self.decided.add(self._messages.answer(frame, query_id, query, outcome, reason), query.ref.digest)

    def drop_decided(self, frame: WorkerFrame) -> None:
        """Ask nothing that was decided here: an edge that came back asks a client's question of another frame."""
        for query_id, query in list(frame.queries.items()):
            if self._is_decided(query_id, query):
                del frame.queries[query_id]
        if not frame.queries:
            self._frames.forget(frame, WorkerEvent.GIVEN_UP)

    def finalise_late(self, frame: WorkerFrame, now_s: float) -> None:
        """Decide what time has decided; the frame is forgotten when nothing is left."""
        frame.joining = {key: query for key, query in frame.joining.items() if query.deadline_s > now_s}
        for query_id, query in list(frame.queries.items()):
            if now_s >= query.deadline_s:
                self.drop_late(frame, query_id)
            elif now_s >= self._throughput.decided_by_s(query):
                self.degrade(frame, query_id)
        if not frame.queries:
            self._frames.forget(frame, WorkerEvent.GIVEN_UP)
        else:
            # Perhaps the one whose text was missing is over.
            self.settle_texts(frame)

    def degrade(self, frame: WorkerFrame, query_id: str) -> None:
        """Time is up for a query that has an answer: it is the best there will be."""
        reason = f"deadline while {frame.stage}"
        if self._orphan(frame, query_id):
            reason = EDGE_LOST
        elif frame.stage is WorkerStage.PARKED:
            reason = f"{OVERLOAD}: {reason}"
        self.decide(frame, query_id, Outcome.DEGRADED, reason)

    def drop_late(self, frame: WorkerFrame, query_id: str) -> None:
        """Too late to count: the edge has said so, if there is one. A worker that was frozen wakes up here."""
        self._counters["deadline_passed"] += 1
        if self._orphan(frame, query_id):
            self._speak_for_edge(frame, query_id)
        else:
            del frame.queries[query_id]

    def revoke(self, frame: WorkerFrame) -> None:
        """The edge does not know the frame any more.

        One that came after the frame's own edge says so as well, but can say nothing about standing questions: those
        are kept until their deadline.
        """
        for query_id in list(frame.queries):
            if not self._orphan(frame, query_id):
                del frame.queries[query_id]
        if not frame.queries:
            self._frames.forget(frame, WorkerEvent.GIVEN_UP)

    def orphaned(self, frame: WorkerFrame) -> bool:
        """Whether nobody but this worker will say what became of some query of a frame."""
        return any(self._orphan(frame, query_id) for query_id in frame.queries)

    def end_orphans(self) -> None:
        """This worker is about to stop, so it speaks for edges that are gone now."""
        for frame in list(self._frames):
            self._end_orphaned(frame)
            if not frame.queries:
                self._frames.forget(frame, WorkerEvent.GIVEN_UP)

    def reject_key(self, frame: WorkerFrame) -> None:
        """Forget a frame whose key frame is of no use; its edge opens it again, coded by itself, unless it is gone."""
        self._end_orphaned(frame)
        if frame.queries:
            self._messages.reject(frame.camera, frame, RejectReason.KEY_FRAME)
        self._frames.forget(frame, WorkerEvent.GIVEN_UP)

    def abandon(self, frame: WorkerFrame, reason: str) -> None:
        """Fail what is left of a frame, whatever state a bug of ours has left it in."""
        for query_id, query in list(frame.queries.items()):
            # Perhaps the answer at hand is what cannot be said.
            query.text, query.score, query.prefix = None, 0.0, 0
            with suppress(ValueError):
                self.decide(frame, query_id, Outcome.FAILED, reason)
        frame.queries.clear()
        self._frames.drop(frame)

    def give_up(self, frame: WorkerFrame) -> None:
        """Forget a frame that there is no time or room for; its edge hears of it.

        Standing queries that have an answer end with it, for the others the edge may still find another worker.
        """
        for query_id, query in list(frame.queries.items()):
            if self._orphan(frame, query_id):
                self._speak_for_edge(frame, query_id)
            elif query.text is not None and not query.ad_hoc:
                self._counters["standing_finalised_early"] += 1
                self.degrade(frame, query_id)
        if frame.queries:
            self._messages.busy(frame.camera, frame, self._throughput.wait_s(len(self._frames)))
        self._frames.forget(frame, WorkerEvent.GIVEN_UP)

    def _is_decided(self, query_id: str, query: WorkerQuery) -> bool:
        decided = query.ad_hoc and self.decided.get(query_id, query.ref.digest) is not None
        self._counters["decided_in_another_frame"] += decided
        return decided

    def _end_orphaned(self, frame: WorkerFrame) -> None:
        for query_id in list(frame.queries):
            if self._orphan(frame, query_id):
                self._frames.touch(frame)
                self._speak_for_edge(frame, query_id)

    def _speak_for_edge(self, frame: WorkerFrame, query_id: str) -> None:
        answered = frame.queries[query_id].text is not None
        self.decide(frame, query_id, Outcome.DEGRADED if answered else Outcome.FAILED, EDGE_LOST)

    def _orphan(self, frame: WorkerFrame, query_id: str) -> bool:
        return self.edges.lost(frame.site, frame.camera, frame.frame, ad_hoc=frame.queries[query_id].ad_hoc)
