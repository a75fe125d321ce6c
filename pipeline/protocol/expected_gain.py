"""What an open message or a chunk is expected to gain: queries that are safely answered because of it.

The estimate for one query, before its weight:

- The message brings the whole latent: 1. The stop rule calls every answer from the whole latent safe.
- A first pass, at the base prefix: the share of this camera's queries that the base prefix was enough for so far.
- A further pass after an answer of score s: s times how well scores kept that promise so far. A score is the estimated
  chance that the whole latent gives the same answer. Were it exact, it would be a martingale along the ladder, and by
  Markov's inequality its chance to reach a threshold at the next rung is at most s over that threshold. The ratio of
  what came to what the scores said makes an estimate of the bound; it absorbs the threshold, which the edge
  does not know, and a model that is too sure of itself.

Every share starts from a prior and forgets slowly, so that it follows the time of day. Weights: the priority of the
camera, and :data:`AD_HOC_WEIGHT` for a question that a client waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pipeline.protocol.edge_frame import EdgeFrame, EdgeStage
from pipeline.protocol.effects import AskedQuery, Utility
from schemas.messages import Answer, Chunk, QueryRef
from schemas.types import Outcome

AD_HOC_WEIGHT: Final = 4.0
"""A client waits for an ad-hoc question and it is asked of one frame; a standing one is asked again of the next."""

FIRST_BASE_SHARE: Final = 0.5
_PRIOR_WEIGHT: Final = 4.0
"""Queries that the prior stands for."""
_KEPT: Final = 0.98
"""Share of the memory that one more query leaves: about fifty queries are remembered."""

DECISION_MARGIN_S: Final = 0.3
"""A worker decides so long before the deadline (``finalise_margin_s`` of its settings)."""
_FIRST_RESPONSE_S: Final = 0.25
_DEVIATIONS: Final = 2.0

_OPEN_FIELDS_BYTES: Final = 37
"""With a site's name of six letters."""
_QUERY_FIELDS_BYTES: Final = 18
_CHUNK_FIELDS_BYTES: Final = 26


def open_message_bytes(queries: Iterable[AskedQuery | QueryRef], payload_bytes: int) -> int:
    """Size of an open message, within a few bytes and without encoding it."""
    names = sum(len(query.question_id) + len(query.client or "") + _QUERY_FIELDS_BYTES for query in queries)
    return _OPEN_FIELDS_BYTES + payload_bytes + names


def chunk_message_bytes(camera: str, payload_bytes: int) -> int:
    """Size of a chunk message, within a few bytes and without encoding it."""
    return _CHUNK_FIELDS_BYTES + len(camera) + payload_bytes


@dataclass(slots=True)
class Share:
    """What came of what was expected, with a prior, and a memory that fades."""

    prior: float
    _came: float = 0.0
    _expected: float = 0.0

    def note(self, came: bool, expected: float = 1.0) -> None:
        """One more query: whether it came true, and what was expected of it in [0, 1]."""
        self._came = self._came * _KEPT + came
        self._expected = self._expected * _KEPT + expected

    @property
    def value(self) -> float:
        """The share; above 1 when more came than was expected."""
        return (self._came + self.prior * _PRIOR_WEIGHT) / (self._expected + _PRIOR_WEIGHT)


@dataclass(slots=True)
class ResponseTime:
    """Time from an open message's departure to the first answer, smoothed as TCP smooths round trips (RFC 6298)."""

    mean_s: float = _FIRST_RESPONSE_S
    deviation_s: float = _FIRST_RESPONSE_S / 2

    def note(self, elapsed_s: float) -> None:
        """One more measurement."""
        self.deviation_s += 0.25 * (abs(elapsed_s - self.mean_s) - self.deviation_s)
        self.mean_s += 0.125 * (elapsed_s - self.mean_s)

    @property
    def margin_s(self) -> float:
        """How long before a deadline a message must have left for its answer to be in time."""
        return DECISION_MARGIN_S + self.mean_s + _DEVIATIONS * self.deviation_s


class ExpectedGain:
    """Learns from the answers that an edge reads, and values the messages that wait for its uplink.

    Args:
        priorities: by camera; 1 for one that is not named.
    """

    def __init__(self, priorities: Mapping[str, float]) -> None:
        self.priorities = priorities
        self._response = ResponseTime()
        self._base: dict[str, Share] = {}
        self._refined = Share(1.0)
        self._standing_s: dict[str, float] = {}

    @property
    def response_s(self) -> float:
        """From the departure of an open message to the first answer, smoothed."""
        return self._response.mean_s

    def offered(self, frame: EdgeFrame, now_s: float) -> None:
        """Note when the next frame of this camera will probably supersede the standing queries of this one."""
        if any(not query.ad_hoc for query in frame.queries.values()):
            before_s = self._standing_s.get(frame.camera)
            self._standing_s[frame.camera] = now_s
            if before_s is not None:
                frame.newer_s = 2 * now_s - before_s

    def answered(self, frame: EdgeFrame, answer: Answer, now_s: float) -> None:
        """Learn from an answer to an undecided query, before the session acts on it."""
        if frame.left_s is not None and answer.attempt == frame.attempt and answer.frame == frame.frame:
            self._response.note(now_s - frame.left_s)
            frame.left_s = None
        latents, score = frame.read.get(answer.query_id, (0, 0.0))
        if answer.latents <= latents or answer.outcome is Outcome.FAILED:
            return
        if answer.latents < frame.latent.latent_count:
            safe = answer.outcome is Outcome.ANSWERED
            if latents:
                self._refined.note(safe, score)
            else:
                self._base_share(frame.camera).note(safe)
        frame.read[answer.query_id] = (answer.latents, answer.score)

    def open_utility(self, frame: EdgeFrame, now_s: float) -> Utility | None:
        """What the open message of a frame is worth; None when it does not wait any more."""
        if frame.stage is not EdgeStage.QUEUED:
            return None
        size_bytes = open_message_bytes(frame.queries.values(), len(frame.coded_prefix()))
        utility = self._utility(frame, frame.prefix, size_bytes, now_s)
        if utility is not None and now_s < frame.newer_s < utility.leave_by_s:
            return replace(utility, leave_by_s=frame.newer_s)
        return utility

    def chunk_utility(self, frame: EdgeFrame, chunk: Chunk, now_s: float) -> Utility | None:
        """What a chunk of a frame is worth; None when the frame was decided or opened again since."""
        if frame.stage is EdgeStage.DONE or chunk.attempt != frame.attempt:
            return None
        size_bytes = chunk_message_bytes(chunk.camera, len(chunk.payload))
        return self._utility(frame, chunk.stop, size_bytes, now_s)

    def _utility(self, frame: EdgeFrame, prefix: int, message_bytes: int, now_s: float) -> Utility | None:
        margin_s = self._response.margin_s
        asked = [(query_id, query) for query_id, query in frame.queries.items() if query.deadline_s > now_s]
        if not asked:
            return None
        # Those that can still be in time; when none can, an answer that comes too late to be safe is better than none.
        asked = [entry for entry in asked if entry[1].deadline_s - margin_s > now_s] or asked
        gain = sum(self._chance(frame, key, prefix) * (AD_HOC_WEIGHT if query.ad_hoc else 1.0) for key, query in asked)
        return Utility(
            gain * self.priorities.get(frame.camera, 1.0),
            message_bytes,
            min(query.deadline_s for _, query in asked) - margin_s,
            max(query.deadline_s for _, query in asked),
        )

    def _chance(self, frame: EdgeFrame, query_id: str, prefix: int) -> float:
        """Chance that a pass over this prefix is safe for a query."""
        if prefix >= frame.latent.latent_count:
            return 1.0
        latents, score = frame.read.get(query_id, (0, 0.0))
        return min(1.0, score * self._refined.value) if latents else self._base_share(frame.camera).value

    def _base_share(self, camera: str) -> Share:
        return self._base.setdefault(camera, Share(FIRST_BASE_SHARE))
