"""Binds the change gate of a codec folder to a site. Where it cannot be used, every frame is asked."""

from __future__ import annotations

from pathlib import Path

from pipeline.codec.gate_file import GateFile, find_gate_file
from pipeline.codec.spec import CodecSpec
from pipeline.codec.stop_file import find_stop_file
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.logs import get_logger
from pipeline.config.question_settings import QuestionSettings
from pipeline.protocol.change_gate import GATE_SHARE, ChangeGate, GateSettings
from schemas.errors import ArtifactError

_log = get_logger(__name__)
_FIX = "latentbus codec calibrate-gate"


def make_change_gate(edge: EdgeSettings, codec_dir: Path, spec: CodecSpec) -> ChangeGate | None:
    """The gate of a site; None asks standing questions of every frame.

    Args:
        edge: section of the settings.
        codec_dir: codec folder.
        spec: of that folder.

    Raises:
        ArtifactError: ``stop.json`` is damaged.
    """
    wanted = edge.change_gate
    if not wanted.enabled:
        return None
    try:
        rule = find_gate_file(codec_dir, spec)
    except ArtifactError as error:
        _log.error("standing questions are asked of every frame: the change gate is of no use", problem=str(error))
        return None
    if rule is None:
        _log.info("standing questions are asked of every frame: the codec has no change gate", fix=_FIX)
        return None
    settings = gate_settings(edge, _accepted_risk(rule, codec_dir), spec)
    gate = ChangeGate(rule, settings)
    _tell_closed(edge, rule, settings)
    return gate


def gate_settings(edge: EdgeSettings, risk: float, spec: CodecSpec) -> GateSettings:
    """Bounds and exceptions of the gate.

    Args:
        edge: section of the settings.
        risk: accepted for questions that name none.
        spec: of the codec folder.
    """
    return GateSettings(
        risk=risk,
        max_age_s=edge.change_gate.max_age_s,
        renew_s=edge.change_gate.renew_s,
        # A frame that is fitted in another way is none of those that the gate was calibrated on.
        open_cameras=frozenset(
            name
            for name, camera in edge.cameras.items()
            if not camera.change_gate or camera.fit not in (None, spec.fit.mode)
        ),
        open_questions=frozenset(name for name, question in edge.questions.items() if not question.change_gate),
    )


def _accepted_risk(rule: GateFile, codec_dir: Path) -> float:
    """What the pool accepts where a question says nothing: its stop rule's, from the same codec folder."""
    stop = find_stop_file(codec_dir)
    return stop.rule.risk if stop is not None and stop.rule.risk > 0 else rule.risk / GATE_SHARE


def _tell_closed(edge: EdgeSettings, rule: GateFile, settings: GateSettings) -> None:
    """Say which questions of the settings are asked of every frame, although they need not be by the settings."""
    asked = {
        name: rule.closed.get(question.answer_type, "nothing is proved for this answer type and risk")
        for name, question in edge.questions.items()
        if question.change_gate and rule.limit(question.answer_type, GATE_SHARE * _risk(question, settings)) is None
    }
    if asked:
        _log.info("some standing questions are asked of every frame", questions=asked, fix=_FIX)


def _risk(question: QuestionSettings, settings: GateSettings) -> float:
    return settings.risk if question.risk is None else question.risk
