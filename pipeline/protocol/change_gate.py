"""The change gate: standing questions are not asked of a frame that shows what the last answered one showed.

For each camera and standing question the gate keeps what was seen of the frame that was answered last. A new frame that
is close enough creates no query; now and then an *unchanged* outcome says that the answer holds on, so that a camera
that is silent and a scene that does not change are told apart. When in doubt the gate asks:

==================  ====================================================================================================
a question is       when
==================  ====================================================================================================
``ad_hoc``          a client asks it, whatever the scene shows
``open``            the settings leave the gate open for its camera or for itself, or no limit is proved for it
``first``           nothing was answered yet: a new process, a new question, another text, options or accepted risk
``under_way``       it was asked of an earlier frame and has no outcome yet: nobody knows which answer would be renewed
``degraded``        what it got last was no safe answer
``old``             the answer is of a frame that is older than the bounded age
``changed``         the frame differs
==================  ====================================================================================================

Frames are compared with the answered frame, never with the one before, so slow changes add up until they are noticed.
What the comparison is, and which distance is small enough, is calibrated (``pipeline.codec.gate_file``).

An operator accepts one risk for a question. Of one that the gate may hold, :data:`GATE_SHARE` is the gate's; the rest
is left to the stop rule, and the pool is asked with that (:meth:`ChangeGate.share`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pipeline.protocol.effects import AskedQuery, Decision, Latent
from schemas.messages import Question
from schemas.types import AnswerType, FrameId, Outcome

GATE_SHARE: Final = 0.75
"""Of the accepted risk. Where the gate holds most frames, an early stop of the few that are asked saves little."""
MAX_GATED_QUESTIONS: Final = 1_024
"""Texts whose limits are remembered: twice what a site may have."""


class GateRule(Protocol):
    """When a frame shows the same as one that was answered, as far as a question goes."""

    def look(self, latent: Latent) -> Any:
        """What is kept of a frame; it is compared and never sent."""

    def distance(self, before: Any, now: Any) -> float:
        """How far two looks are apart, 0 for the same."""

    def limit(self, answer_type: AnswerType, risk: float) -> float | None:
        """The largest distance at which an answer holds on; None where none is proved.

        Args:
            answer_type: of the question.
            risk: accepted share of answers that differ because of the gate.
        """


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Bounds of the gate, and what it leaves alone.

    Attributes:
        risk: accepted for questions that name none: the pool's.
        max_age_s: from the capture of a frame, its answer is renewed so long at most.
        renew_s: silence about a question, after which an *unchanged* outcome is due.
        open_cameras: cameras whose questions are always asked.
        open_questions: ids of questions that are always asked.
    """

    risk: float = 0.02
    max_age_s: float = 600.0
    renew_s: float = 180.0
    open_cameras: Collection[str] = ()
    open_questions: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Renewal:
    """An answer that holds on, and has not been renewed for a while.

    Attributes:
        query: what would have been asked.
        frame: the frame that was answered.
        age_s: how long ago that was captured.
    """

    query: AskedQuery
    frame: FrameId
    age_s: float


@dataclass(frozen=True, slots=True)
class Sifted:
    """What becomes of the queries of a frame.

    Attributes:
        asked: these are asked.
        renewals: of these everybody is told that their answers hold on.
        held: ids of questions that are not asked, those of the renewals among them.
    """

    asked: list[AskedQuery]
    renewals: list[Renewal] = field(default_factory=list)
    held: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Last:
    """The last answer to a question."""

    digest: bytes
    number: int
    frame: FrameId
    captured_s: float
    look: Any
    safe: bool
    said_s: float

    def answers(self, digest: bytes) -> bool:
        """Whether exactly this text was answered, with these options and this risk."""
        return self.digest == digest

    def is_older(self, max_age_s: float, captured_s: float) -> bool:
        """Whether the answered frame is too old for one that is taken now."""
        return captured_s - self.captured_s > max_age_s

    def is_before(self, frame: _UnderWay) -> bool:
        """Whether a frame was taken later than the one that was answered."""
        return self.number < frame.number


@dataclass(slots=True)
class _UnderWay:
    """A frame whose standing questions have no outcome yet."""

    number: int
    captured_s: float
    look: Any
    asked: dict[str, bytes]


@dataclass(slots=True)
class _Camera:
    last: dict[str, _Last] = field(default_factory=dict)
    under_way: dict[FrameId, _UnderWay] = field(default_factory=dict)

    def is_under_way(self, question_id: str) -> bool:
        """Whether a question was asked of a frame and has no outcome yet."""
        return any(question_id in frame.asked for frame in self.under_way.values())


class ChangeGate:
    """The gate of a site. It has no clock.

    Args:
        rule: what is calibrated.
        settings: bounds and exceptions.

    Attributes:
        counters: standing questions of frames, by why they were asked, and those that were held and renewed.
        settings: bounds and exceptions.
    """

    def __init__(self, rule: GateRule, settings: GateSettings | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self._rule = rule
        self.settings = settings or GateSettings()
        self._cameras: dict[str, _Camera] = {}
        self._frames = 0
        self._limits: OrderedDict[bytes, float] = OrderedDict()

    def replace(self, settings: GateSettings) -> None:
        """Other bounds and exceptions."""
        self.settings = settings

    def share(self, question: Question) -> Question:
        """A standing question as the pool is asked it: with the stop rule's part of the risk, if the gate may hold it.

        Args:
            question: with the risk that its operator accepts.
        """
        if question.question_id in self.settings.open_questions:
            return question
        risk = self.settings.risk if question.risk is None else question.risk
        limit = self._rule.limit(question.answer_type, GATE_SHARE * risk)
        if limit is None:
            return question
        shared = question.model_copy(update={"risk": (1 - GATE_SHARE) * risk})
        digest = shared.content().digest
        self._limits[digest] = limit
        self._limits.move_to_end(digest)
        if len(self._limits) > MAX_GATED_QUESTIONS:
            self._limits.popitem(last=False)
        return shared

    def sift(
        self,
        camera: str,
        latent: Latent,
        queries: Sequence[AskedQuery],
        captured_s: float,
        *,
        tells: bool = True,
        asked: Collection[str] | None = None,
    ) -> Sifted:
        """Which queries of a frame are asked. A renewal is told by whoever calls: it counts as said.

        Args:
            camera: its camera.
            latent: its latent.
            queries: its ad-hoc questions, and at the time for them its standing ones, see :meth:`share`.
            captured_s: when it was taken.
            tells: somebody can be told; else renewals wait.
            asked: ids of all its standing questions, whether they are due now or not; None: those among the queries.
        """
        sifted = Sifted([])
        standing = [query for query in queries if not query.ad_hoc]
        state = self._cameras.setdefault(camera, _Camera())
        if standing:
            ids = {query.question_id for query in standing} if asked is None else set(asked)
            for gone in state.last.keys() - ids:
                del state.last[gone]
        look = self._rule.look(latent) if state.last else None
        for query in queries:
            why = "ad_hoc" if query.ad_hoc else self._why(camera, state, query, captured_s, look)
            if why:
                self.counters[why] += not query.ad_hoc
                sifted.asked.append(query)
                continue
            self.counters["held"] += 1
            sifted.held.append(query.question_id)
            last = state.last[query.question_id]
            if tells and captured_s - last.said_s >= self.settings.renew_s:
                self.counters["renewed"] += 1
                last.said_s = captured_s
                sifted.renewals.append(Renewal(query, last.frame, captured_s - last.captured_s))
        return sifted

    def offered(
        self, camera: str, frame: FrameId, latent: Latent, queries: Sequence[AskedQuery], captured_s: float
    ) -> None:
        """Questions are asked of a frame.

        Args:
            camera: its camera.
            frame: its id.
            latent: its latent.
            queries: what is asked.
            captured_s: when it was taken.
        """
        asked = {query.question_id: query.question.digest for query in queries if not query.ad_hoc}
        if not asked:
            return
        self._frames += 1
        state = self._cameras.setdefault(camera, _Camera())
        state.under_way[frame] = _UnderWay(self._frames, captured_s, self._rule.look(latent), asked)

    def ended(self, decision: Decision, now_s: float) -> None:
        """A query has its outcome. Only a safe answer can be renewed; any other answer ends the one before."""
        state = self._cameras.get(decision.camera)
        frame = None if state is None else state.under_way.get(decision.frame)
        question_id = decision.question.question_id
        if state is None or frame is None or decision.ad_hoc or question_id not in frame.asked:
            return
        digest = frame.asked.pop(question_id)
        if not frame.asked:
            del state.under_way[decision.frame]
        if decision.outcome not in (Outcome.ANSWERED, Outcome.DEGRADED):
            return
        known = state.last.get(question_id)
        if known is not None and not known.is_before(frame):
            return  # a later frame was answered first
        safe = decision.outcome is Outcome.ANSWERED
        state.last[question_id] = _Last(digest, frame.number, decision.frame, frame.captured_s, frame.look, safe, now_s)

    def sizes(self) -> dict[str, int]:
        """Entries of every table that it keeps."""
        return {
            "gate_answers": sum(len(state.last) for state in self._cameras.values()),
            "gate_frames": sum(len(state.under_way) for state in self._cameras.values()),
        }

    def _why(self, camera: str, state: _Camera, query: AskedQuery, captured_s: float, look: Any) -> str:
        """Why a standing question is asked; empty where it is not."""
        question_id, digest = query.question_id, query.question.digest
        limit = self._limits.get(digest)
        if limit is None or camera in self.settings.open_cameras:
            return "open"
        self._limits.move_to_end(digest)
        if state.is_under_way(question_id):
            return "under_way"
        last = state.last.get(question_id)
        if last is None or not last.answers(digest):
            return "first"
        if not last.safe:
            return "degraded"
        if last.is_older(self.settings.max_age_s, captured_s):
            return "old"
        return "" if self._rule.distance(last.look, look) <= limit else "changed"
