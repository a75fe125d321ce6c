"""Deliberate faults in the protocol code. A simulator that misses one of them would miss a real bug of that kind too.

Each mutation replaces a function for the time of a context; :func:`detect` says which seed catches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.protocol import edge_frames, worker_throughput
from pipeline.protocol.edge_frame import EdgeEvent, EdgeFrame, EdgeStage
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.edge_messages import EdgeMessages
from pipeline.protocol.effects import ChunkData, KeyData, UtilityFunction
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_admission import Admission
from pipeline.protocol.worker_caches import KeyFrames
from pipeline.protocol.worker_frame import WorkerEvent, WorkerFrame, WorkerStage
from pipeline.protocol.worker_frames import WorkerFrames
from pipeline.protocol.worker_messages import WorkerMessages
from pipeline.protocol.worker_progress import Progress
from schemas.identity import QuestionContent
from schemas.messages import Chunk, Open, Refine, Reject, RejectReason, Revoke, Text
from schemas.types import FrameId, Outcome
from simulation.mutation import Mutation, nothing
from simulation.mutations_of_budgets import BUDGET_MUTATIONS
from simulation.mutations_of_disk import DISK_MUTATIONS
from simulation.mutations_of_gate import GATE_MUTATIONS
from simulation.mutations_of_past import PAST_MUTATIONS
from simulation.mutations_of_questions import QUESTION_MUTATIONS
from simulation.mutations_of_store import STORE_MUTATIONS
from simulation.run import simulate


def _no(*_: Any, **__: Any) -> bool:
    return False


def _yes(*_: Any, **__: Any) -> bool:
    return True


_lose_attempt = EdgeFrames._lose_attempt  # noqa: SLF001 - a mutation reaches inside on purpose
_refine = EdgeFrames._refine  # noqa: SLF001
_decide = EdgeFrames._decide  # noqa: SLF001
_reject = EdgeFrames._reject  # noqa: SLF001
_to_worker = EdgeMessages._to_worker  # noqa: SLF001
_receive_open = WorkerFrames.receive_open
_hand_over = WorkerMessages.hand_over
_query_id = QuestionContent.query_id


def _no_silence(self: EdgeFrames, frame: EdgeFrame, event: EdgeEvent, now_s: float, *, wait_s: float) -> None:
    if event in (EdgeEvent.SILENCE, EdgeEvent.OWNER_LOST):
        frame.timer_s = None
        return
    _lose_attempt(self, frame, event, now_s, wait_s=wait_s)


def _append_always(self: WorkerFrame, chunk: ChunkData) -> str:
    self.chunks.append(chunk)
    self.payload_bytes += len(chunk.payload)
    return "extended"


def _last_claim_owns(_: EdgeFrames, frame: EdgeFrame, worker: str, _attempt: int) -> bool:
    if frame.can(EdgeEvent.CLAIM):
        frame.move(EdgeEvent.CLAIM)
    frame.owner = worker
    return frame.stage is EdgeStage.OWNED


def _any_attempt(_: EdgeFrames, frame: EdgeFrame, worker: str, _attempt: int) -> bool:
    if frame.can(EdgeEvent.CLAIM):
        frame.move(EdgeEvent.CLAIM)
        frame.owner = worker
    return frame.stage is EdgeStage.OWNED


def _same_boot(_boot: int, sequence: int) -> FrameId:
    return FrameId(0, sequence)


def _uncounted(self: EdgeFrames, frame: EdgeFrame, message: Refine) -> None:
    frame.sent = 0
    _refine(self, frame, message)


def _supersede_all(self: EdgeFrames, camera: str, _question_ids: set[str]) -> None:
    for frame in self.undecided():
        if frame.camera == camera and frame.stage in (EdgeStage.QUEUED, EdgeStage.BACKOFF):
            for query_id in list(frame.queries):
                self._decide(frame, query_id, Outcome.SUPERSEDED, say=True)


def _silent_expiry(self: EdgeFrames, frame: EdgeFrame, now_s: float) -> None:
    for query_id, query in list(frame.queries.items()):
        if query.deadline_s <= now_s:
            _decide(self, frame, query_id, Outcome.EXPIRED, say=False)


def _without_frame(self: QuestionContent, camera: str, _frame: FrameId) -> str:
    return _query_id(self, camera, FrameId(0, 0))


def _unclaimed_or_not(self: WorkerFrame, max_hops: int) -> bool:
    return self.stage is WorkerStage.PARKED and self.hops < max_hops


def _any_hops(self: WorkerFrame, _max_hops: int) -> bool:
    return self.stage is WorkerStage.PARKED and self.spoke_s is None


def _forget(self: Progress, frame: WorkerFrame) -> None:
    self._frames.forget(frame, WorkerEvent.GIVEN_UP)


def _missing_key_ignored(self: WorkerFrames, camera: str, message: Open, now_s: float, *, hops: int = 0) -> None:
    if message.key is not None and self._keys.get(camera, message.frame.boot, message.key) is None:
        message = message.model_copy(update={"key": None})
    _receive_open(self, camera, message, now_s, hops=hops)


def _latest_key(self: KeyFrames, camera: str, _boot: int, _sequence: int) -> KeyData | None:
    return next(reversed(self._known.get(camera, {}).values()), None)


def _keep_all_keys(self: KeyFrames, camera: str, frame: FrameId, payload: bytes) -> None:
    self.held_bytes += len(payload)
    self._known.setdefault(camera, {})[frame] = KeyData(frame.sequence, payload)


def _chunk_without_key(
    self: EdgeMessages, worker: str, camera: str, message: Chunk | Revoke | Text, utility: UtilityFunction | None = None
) -> None:
    if isinstance(message, Chunk):
        message = message.model_copy(update={"key": None})
    _to_worker(self, worker, camera, message, utility)


def _handover_without_key(self: WorkerMessages, peer: str, camera: str, message: Open, hops: int) -> None:
    _hand_over(self, peer, camera, message.model_copy(update={"key": None}), hops)


def _fail_without_key(self: EdgeFrames, frame: EdgeFrame, message: Reject) -> None:
    if message.reason is RejectReason.KEY_FRAME:
        message = message.model_copy(update={"reason": RejectReason.BITSTREAM})
    _reject(self, frame, message)


def _reject_orphans_too(self: Progress, frame: WorkerFrame) -> None:
    self._messages.reject(frame.camera, frame, RejectReason.KEY_FRAME)
    self._frames.forget(frame, WorkerEvent.GIVEN_UP)


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("no lease: silence is never judged", 2, EdgeFrames, "_lose_attempt", _no_silence),
    Mutation("no duplicate check: a chunk is always appended", 3, WorkerFrame, "add_chunk", _append_always),
    Mutation("no boot id in frame ids", 3, edge_frames, "FrameId", _same_boot),
    Mutation("first-accept rule reversed: the last claim owns", 1, EdgeFrames, "_claim", _last_claim_owns),
    Mutation("no attempt check: claims of earlier attempts count", 1, EdgeFrames, "_claim", _any_attempt),
    Mutation("no deadline at the edge", 2, EdgeFrames, "_expire", nothing),
    Mutation("expiry is not said", 1, EdgeFrames, "_expire", _silent_expiry),
    Mutation("no deadline at the worker", 2, Progress, "finalise_late", nothing),
    Mutation("no stop rule: every answer is safe", 1, StopRule, "is_safe", _yes),
    Mutation("no capacity bound at the worker", 1, Admission, "has_room", _yes),
    Mutation("latents sent again are not counted", 2, EdgeFrames, "_refine", _uncounted),
    Mutation("ad-hoc questions are superseded too", 2, EdgeFrames, "_supersede", _supersede_all),
    Mutation("a query's key lacks its frame", 1, QuestionContent, "query_id", _without_frame),
    Mutation("a stalled model keeps its leases", 4, worker_throughput.ThroughputEstimate, "batch_starts", nothing),
    Mutation("claimed frames are handed over", 3, WorkerFrame, "may_pass_on", _unclaimed_or_not),
    Mutation("no hop limit", 5, WorkerFrame, "may_pass_on", _any_hops),
    Mutation("nobody speaks for a lost edge", 3, Progress, "_orphan", _no),
    Mutation("the next edge process is believed", 6, Progress, "revoke", _forget),
    Mutation("a missing key frame is not missed", 1, WorkerFrames, "receive_open", _missing_key_ignored),
    Mutation("any key frame of the camera will do", 1, KeyFrames, "get", _latest_key),
    Mutation("chunks do not name their key frame", 1, EdgeMessages, "_to_worker", _chunk_without_key),
    Mutation("hand-overs do not name their key frame", 1, WorkerMessages, "hand_over", _handover_without_key),
    Mutation("a missing key frame fails its frame", 1, EdgeFrames, "_reject", _fail_without_key),
    Mutation("opened again given the same key frame", 1, EdgeFrame, "stand_alone", nothing),
    Mutation("no bound on key frames", 1, KeyFrames, "learn", _keep_all_keys),
    Mutation("rejected though the edge is lost", 3, Progress, "reject_key", _reject_orphans_too),
    *QUESTION_MUTATIONS,
    *DISK_MUTATIONS,
    *BUDGET_MUTATIONS,
    *GATE_MUTATIONS,
    *STORE_MUTATIONS,
    *PAST_MUTATIONS,
)


@dataclass(frozen=True, slots=True)
class MutationResult:
    """What the simulator made of a mutation.

    Attributes:
        mutation: its name.
        caught_by: the rule that it broke, None when nothing was found.
        events: events until then.
        episode: seed of the episode.
    """

    mutation: str
    caught_by: str | None
    events: int
    episode: int | None


def detect(mutation: Mutation, *, events: int = 1_000_000, seed: int | None = None) -> MutationResult:
    """Simulate with a mutation in place until an invariant breaks."""
    with mutation.applied():
        report = simulate(seed=mutation.seed if seed is None else seed, events=events, stop_at_first=True)
    if not report.violations:
        return MutationResult(mutation.name, None, report.events, None)
    episode, violation = report.violations[0]
    return MutationResult(mutation.name, violation.rule, report.events, episode)
