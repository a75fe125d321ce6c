"""The change gate of simulated edges: scenes that last for some frames, and a ledger of what is held back.

A frame shows a scene, by number; two frames are as near as their scenes are the same. So it is known of every question
that is held back whether it may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.protocol.change_gate import Sifted
from pipeline.protocol.effects import AskedQuery, Decision, Latent
from pipeline.protocol.renewals import renewed_query_id
from schemas.identity import QuestionContent, standing_query_id
from schemas.types import AnswerType, FrameId, Outcome
from simulation.content import SimulatedLatent
from simulation.query_ledger import Problem

HELD_WRONGLY = "held back though it must be asked"
NOT_RENEWED = "an answer is not renewed in time"
RENEWED_WRONGLY = "another answer is renewed"
_LEAST_RISK = 0.004
_CLOSED = AnswerType.WORD
_LIMIT = 0.5


@dataclass(frozen=True, slots=True)
class GatePlan:
    """The gate of a simulated site.

    Attributes:
        scene_frames: frames of a camera that show one scene; then comes the other one, and the first again.
        max_age_s: bounded age of an answer.
        renew_s: silence after which an answer is renewed.
    """

    scene_frames: int
    max_age_s: float
    renew_s: float

    def scene(self, number: int) -> int:
        """What a camera's frame shows."""
        return number // self.scene_frames % 2


class SceneRule:
    """A :class:`~pipeline.protocol.change_gate.GateRule`: nothing is proved for words, nor for very small risks."""

    def look(self, latent: Latent) -> int:
        """The scene; a frame of somebody else's making shows one of its own."""
        return latent.scene if isinstance(latent, SimulatedLatent) else -1

    def distance(self, before: Any, now: Any) -> float:
        """0 for the same scene, 1 for another."""
        return float(before != now or now < 0)

    def limit(self, answer_type: AnswerType, risk: float) -> float | None:
        """One for all, if any."""
        return None if answer_type is _CLOSED or risk < _LEAST_RISK else _LIMIT


@dataclass(slots=True)
class _Asked:
    frame: FrameId
    question: QuestionContent
    scene: int
    captured_s: float
    outcome: Outcome | None = None


class GateLedger:
    """What one edge process asked of its frames, what came of it, and what it held back.

    Args:
        site: its name.
        plan: of its gate.
        on_problem: told what is broken.
    """

    def __init__(self, site: str, plan: GatePlan, on_problem: Problem) -> None:
        self._site = site
        self._plan = plan
        self._on_problem = on_problem
        self._asked: dict[tuple[str, str], list[_Asked]] = {}
        self._said_s: dict[tuple[str, str], float] = {}

    def taken(
        self,
        camera: str,
        scene: int,
        queries: Sequence[AskedQuery],
        sifted: Sifted,
        frame: FrameId | None,
        now_s: float,
        *,
        linked: bool = True,
    ) -> None:
        """A frame was taken; nothing that came of it was told before.

        Args:
            camera: its camera.
            scene: what it shows.
            queries: what it would be asked.
            sifted: what became of them.
            frame: its id, if it has one.
            now_s: virtual time.
            linked: the edge has a link; without one renewals wait.
        """
        asked = {query.query_id(camera, FrameId(0, 0)) for query in sifted.asked}
        renewed = {renewal.query.question_id for renewal in sifted.renewals}
        for query in queries:
            key = (camera, query.question_id)
            if query.query_id(camera, FrameId(0, 0)) not in asked:
                self._held(camera, query, scene, now_s)
                silent_s = now_s - self._said_s.get(key, now_s)
                if linked and query.question_id not in renewed and silent_s > self._plan.renew_s:
                    self._on_problem(NOT_RENEWED, f"{camera}/{query.question_id}", f"silent for {silent_s:.1f} s")
                elif query.question_id in renewed:
                    self._said_s[key] = now_s
            elif not query.ad_hoc and frame is not None:
                self._asked.setdefault(key, []).append(_Asked(frame, query.question, scene, now_s))

    def decided(self, decision: Decision, now_s: float) -> None:
        """The session has decided a query."""
        if decision.ad_hoc:
            return
        key = (decision.camera, decision.question.question_id)
        if decision.outcome is Outcome.UNCHANGED:
            self._renewed(decision, now_s)
            return
        for asked in self._asked.get(key, ()):
            if asked.frame == decision.frame:
                asked.outcome = decision.outcome
        if decision.outcome in (Outcome.ANSWERED, Outcome.DEGRADED):
            self._said_s[key] = now_s

    def _last(self, camera: str, question_id: str) -> _Asked | None:
        answered = [
            asked
            for asked in self._asked.get((camera, question_id), ())
            if asked.outcome in (Outcome.ANSWERED, Outcome.DEGRADED)
        ]
        return answered[-1] if answered else None

    def _held(self, camera: str, query: AskedQuery, scene: int, now_s: float) -> None:
        last = self._last(camera, query.question_id)
        under_way = any(asked.outcome is None for asked in self._asked.get((camera, query.question_id), ()))
        risk = query.question.risk
        for wrong, what in (
            (query.ad_hoc, "a client's"),
            (last is None, "never answered"),
            (under_way, "under way"),
            (last is not None and last.outcome is Outcome.DEGRADED, "its answer was not safe"),
            (last is not None and last.question != query.question, "another text was answered"),
            (last is not None and last.scene != scene, "another scene was answered"),
            (last is not None and now_s - last.captured_s > self._plan.max_age_s, "its answer is too old"),
            (query.answer_type is _CLOSED, "nothing is proved for its answer type"),
            (risk is None or not 0.004 < risk < 0.006, f"the pool is left a risk of {risk}"),
        ):
            if wrong:
                self._on_problem(HELD_WRONGLY, f"{camera}/{query.question_id}", f"{self._site}: {what}")

    def _renewed(self, decision: Decision, now_s: float) -> None:
        last, said = self._last(decision.camera, decision.question.question_id), decision.publish
        if last is None or said is None:
            self._on_problem(RENEWED_WRONGLY, decision.query_id, f"{self._site} renews nothing")
            return
        expected = standing_query_id(decision.camera, last.frame, decision.question.question_id)
        age_ms = round(1000 * (now_s - last.captured_s))
        if renewed_query_id(said) != expected or said.age_ms != age_ms:
            problem = f"{self._site} renews {said.reason}, {said.age_ms} ms, not {last.frame}, {age_ms} ms"
            self._on_problem(RENEWED_WRONGLY, decision.query_id, problem)
