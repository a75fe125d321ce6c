"""Deliberate faults about questions and memory: whose text, whose answer, what is kept, who goes first.

What they break shows in answers, in passes, in the sizes that sessions tell their metrics, and in the order of
messages.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from pipeline.protocol import expected_gain, worker_progress
from pipeline.protocol.edge_caches import AdHocQueries, WorkerBoots
from pipeline.protocol.effects import Decision, InferencePass, PassAnswer, PassQuery, ReplyTo
from pipeline.protocol.worker_caches import DecidedQueries, Edges, Peers
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery, WorkerStage
from pipeline.protocol.worker_frames import WorkerFrames
from pipeline.protocol.worker_messages import WorkerMessages
from pipeline.protocol.worker_passes import InferencePasses
from pipeline.protocol.worker_store import FrameStore
from pipeline.protocol.worker_texts import OwnedStore
from schemas.identity import QuestionContent
from schemas.messages import Answer, Question, Status
from schemas.types import Outcome
from simulation.mutation import Mutation, nothing

_inference_pass = WorkerFrame.inference_pass
_receive_question = WorkerFrames.receive_question
_finish = InferencePasses.finish
_answer = WorkerMessages.answer
_wait_for = FrameStore.wait_for
_drop = FrameStore.drop
_to_ask = WorkerFrame.to_ask


# ---- whose text, whose answer ----------------------------------------------------------------------------------------


def _take_by_id(self: WorkerQuery, question: QuestionContent, reply_to: ReplyTo | None = None) -> bool:
    if self.question is not None or self.ref.question_id != question.question_id:
        return False
    self.question, self.reply_to = question, reply_to
    return True


def _changes_frames(self: WorkerFrames, question: Question) -> None:
    _receive_question(self, question)
    content = question.content()
    for frame in self.frames():
        for query in frame.queries.values():
            if query.question is not None and (query.owner, query.question_id) == (content.owner, content.question_id):
                query.question = content


def _swapped_texts(self: WorkerFrame, queries: Sequence[PassQuery], work: int = 1) -> InferencePass:
    questions = [query.question for query in queries]
    rotated = [
        PassQuery(query.query_id, question)
        for query, question in zip(queries, [*questions[1:], *questions[:1]], strict=True)
    ]
    return _inference_pass(self, rotated, work)


def _swapped_answers(
    self: InferencePasses, inference_pass: InferencePass, answers: Sequence[PassAnswer], now_s: float, *, batch: int = 0
) -> None:
    ids = [answer.query_id for answer in answers]
    rotated = [
        replace(answer, query_id=query_id) for answer, query_id in zip(answers, [*ids[1:], *ids[:1]], strict=True)
    ]
    _finish(self, inference_pass, rotated, now_s, batch=batch)


def _owner_of_site(
    self: WorkerMessages,
    frame: WorkerFrame,
    query_id: str,
    query: WorkerQuery,
    outcome: Outcome | None,
    reason: str = "",
) -> Answer:
    return _answer(self, frame, query_id, replace(query, owner=f"site/{frame.site}"), outcome, reason)


class _DecidedByBareId(DecidedQueries):
    """Kept answers by camera and the id that the client chose, as if no other client could choose it."""

    def get(self, query_id: str, digest: bytes) -> Answer | None:
        camera, asked, question_id = query_id.split("/")
        if not asked.startswith("@"):
            return DecidedQueries.get(self, query_id, digest)
        for (known, _), answer in self._answers.items():
            known_camera, known_asked, known_id = known.split("/")
            if known_asked.startswith("@") and (known_camera, known_id) == (camera, question_id):
                return answer
        return None


# ---- what is kept ----------------------------------------------------------------------------------------------------


def _keep_all_texts(self: OwnedStore[Any, Any]) -> None:
    pass


def _keep_all_answers(self: DecidedQueries, answer: Answer, digest: bytes) -> None:
    self._answers[answer.query_id, digest] = answer


def _keep_all_terminals(self: AdHocQueries, decision: Decision) -> None:
    del self._running[decision.query_id]
    self._decided[decision.query_id] = decision


def _runs_for_ever(self: AdHocQueries, decision: Decision) -> None:
    self._decided[decision.query_id] = decision
    if len(self._decided) > self.capacity:
        self._decided.popitem(last=False)


def _bytes_stay(self: FrameStore, frame: WorkerFrame) -> None:
    held_bytes = self.held_bytes
    _drop(self, frame)
    self.held_bytes = held_bytes


def _waits_for_ever(self: FrameStore, frame: WorkerFrame, digests: Collection[bytes]) -> None:
    if digests:
        _wait_for(self, frame, digests)


def _never_decided(_self: DecidedQueries, _query_id: str, _digest: bytes) -> None:
    """Every answer that was given is forgotten."""


# ---- words of earlier starts -----------------------------------------------------------------------------------------


def _any_will_of_a_worker(self: WorkerBoots, status: Status) -> bool:
    if not status.online:
        return True
    known = self._boots.get(status.id)
    self._boots[status.id] = status.boot
    return known is not None and known != status.boot


_learn_edge = Edges.learn


def _any_will_of_an_edge(self: Edges, status: Status) -> frozenset[str]:
    known = self._known.get(status.id)
    if not status.online and known is not None:
        status = status.model_copy(update={"boot": known.boot})
    return _learn_edge(self, status)


def _any_will_of_a_peer(self: Peers, status: Status) -> None:
    if status.kind == "worker" and not status.online:
        self._loads.pop(status.id, None)


# ---- who goes first --------------------------------------------------------------------------------------------------


def _standing_first(self: WorkerFrame) -> list[tuple[str, WorkerQuery]]:
    return sorted(_to_ask(self), key=lambda entry: entry[1].ad_hoc)


def _parked_is_never_ad_hoc(self: WorkerFrame) -> bool:
    return self.stage is not WorkerStage.PARKED and any(query.ad_hoc for query in self.queries.values())


QUESTION_MUTATIONS: tuple[Mutation, ...] = (
    Mutation("texts by question id: any owner's will do", 4, WorkerQuery, "take", _take_by_id),
    Mutation("texts swapped between the questions of a pass", 1, WorkerFrame, "inference_pass", _swapped_texts),
    Mutation("a changed question is asked of earlier frames", 1, WorkerFrames, "receive_question", _changes_frames),
    Mutation("answers swapped between the queries of a pass", 1, InferencePasses, "finish", _swapped_answers),
    Mutation("kept answers by the client's bare id", 1, worker_progress, "DecidedQueries", _DecidedByBareId),
    Mutation("answers name the site as owner", 1, WorkerMessages, "answer", _owner_of_site),
    Mutation("no bound on texts", 1, OwnedStore, "_bound", _keep_all_texts),
    Mutation("no bound on kept answers", 1, DecidedQueries, "add", _keep_all_answers),
    Mutation("no bound on decided ad-hoc questions", 1, AdHocQueries, "decide", _keep_all_terminals),
    Mutation("a leak: ad-hoc questions run for ever", 1, AdHocQueries, "decide", _runs_for_ever),
    Mutation("a leak: bytes of frames that are done", 1, FrameStore, "drop", _bytes_stay),
    Mutation("a leak: frames that wait for texts", 1, FrameStore, "wait_for", _waits_for_ever),
    Mutation("a decided query is computed again", 2, DecidedQueries, "get", _never_decided),
    Mutation("revoke is ignored", 1, WorkerFrames, "receive_revoke", nothing),
    Mutation("an edge believes stale wills of workers", 1, WorkerBoots, "lost_by", _any_will_of_a_worker),
    Mutation("a worker believes stale wills of edges", 5, Edges, "learn", _any_will_of_an_edge),
    Mutation("a worker believes stale wills of workers", 1, Peers, "learn_status", _any_will_of_a_peer),
    Mutation("standing questions of a frame go first", 5, WorkerFrame, "to_ask", _standing_first),
    Mutation("ad-hoc frames wait with the others", 3, WorkerFrame, "ad_hoc", property(_parked_is_never_ad_hoc)),
    Mutation("ad-hoc opens count less on the uplink", 3, expected_gain, "AD_HOC_WEIGHT", 0.1),
)
