"""Deliberate faults of the change gate. What they break shows in what is held back, renewed, or left to the pool."""

from __future__ import annotations

from typing import Any

from pipeline.protocol import change_gate
from pipeline.protocol.change_gate import ChangeGate, Sifted
from pipeline.protocol.effects import AskedQuery, Decision, Latent
from schemas.messages import Question
from schemas.types import Outcome
from simulation.change_gate import SceneRule
from simulation.mutation import Mutation

_sift = ChangeGate.sift
_ended = ChangeGate.ended
_share = ChangeGate.share


def _no(*_: Any, **__: Any) -> bool:
    return False


def _yes(*_: Any, **__: Any) -> bool:
    return True


def _any_outcome_answers(self: ChangeGate, decision: Decision, now_s: float) -> None:
    if decision.outcome in (Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED):
        decision = Decision(
            decision.camera, decision.frame, decision.query_id, decision.question, Outcome.ANSWERED,
            decision.reason, decision.answer, decision.publish,
        )  # fmt: skip
    _ended(self, decision, now_s)


def _degraded_answers(self: ChangeGate, decision: Decision, now_s: float) -> None:
    _ended(self, decision, now_s)
    for last in self._cameras[decision.camera].last.values() if decision.camera in self._cameras else ():
        last.safe = True


def _whole_risk(self: ChangeGate, question: Question) -> Question:
    shared = _share(self, question)
    limit = self._limits.get(shared.content().digest)
    if limit is not None:
        self._limits[question.content().digest] = limit
    return question


def _never_told(
    self: ChangeGate,
    camera: str,
    latent: Latent,
    queries: list[AskedQuery],
    captured_s: float,
    *,
    tells: bool = True,  # noqa: ARG001 - of the original
) -> Sifted:
    return _sift(self, camera, latent, queries, captured_s, tells=False)


def _one_scene(_self: SceneRule, _before: Any, _now: Any) -> float:
    return 0.0


GATE_MUTATIONS: tuple[Mutation, ...] = (
    Mutation("the gate sees no change", 1, SceneRule, "distance", _one_scene),
    Mutation("a question under way is held back", 1, change_gate._Camera, "is_under_way", _no),  # noqa: SLF001
    Mutation("an answer to another text holds on", 1, change_gate._Last, "answers", _yes),  # noqa: SLF001
    Mutation("no bounded age of an answer", 1, change_gate._Last, "is_older", _no),  # noqa: SLF001
    Mutation("any outcome is an answer that holds on", 1, ChangeGate, "ended", _any_outcome_answers),
    Mutation("degraded answers hold on", 1, ChangeGate, "ended", _degraded_answers),
    Mutation("answers are never renewed", 1, ChangeGate, "sift", _never_told),
    Mutation("gate and stop rule take the whole risk each", 1, ChangeGate, "share", _whole_risk),
)
