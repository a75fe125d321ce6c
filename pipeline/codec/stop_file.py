"""The calibrated stop rule of a codec folder, ``stop.json``: thresholds, score, and what watches over the promise.

Version 1 has thresholds on the probability of the answer alone. Version 2 adds, each of them optional, the model of the
score, the distribution of scores on the calibration's frames, and statistics for the edge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pipeline.codec.spec import STOP_FILE, read_json_file
from pipeline.codec.stop_score import StopScore
from pipeline.codec.stop_shift import ScoreQuantiles
from pipeline.codec.stop_statistics import StopStatistics
from pipeline.protocol.stop_rule import NEVER, VERSIONS, StopRule
from schemas.errors import ArtifactError
from schemas.types import AnswerType

_MAX_PROBLEM_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class StopFile:
    """What ``stop.json`` holds.

    Attributes:
        rule: Thresholds on the score.
        score: Its model; None when the score is the probability of the answer.
        shift: Scores of the calibration's frames at the shortest prefix.
        statistics: How often passes were safe there.
        calibrated_on: Frames, confidence and results of the calibration, for readers.
    """

    rule: StopRule
    score: StopScore | None = None
    shift: ScoreQuantiles | None = None
    statistics: StopStatistics | None = None
    calibrated_on: Mapping[str, Any] | None = None

    @classmethod
    def uncalibrated(cls, ladder: Sequence[int]) -> Self:
        """Of a codec that nobody calibrated: only the whole latent is safe."""
        return cls(StopRule.never_early(ladder))

    @classmethod
    def calibrated(
        cls,
        ladder: Sequence[int],
        thresholds: Mapping[AnswerType, float],
        *,
        risk: float,
        score: StopScore | None,
        shift: ScoreQuantiles | None,
        statistics: StopStatistics,
        calibrated_on: Mapping[str, Any],
        by_risk: Mapping[float, Mapping[AnswerType, float]] | None = None,
        at_once: int | None = None,
    ) -> Self:
        """One threshold an answer type, for every pass before the last; other types wait for the whole latent."""
        early = len(ladder) - 1

        def rows(limits: Mapping[AnswerType, float]) -> dict[AnswerType, tuple[float, ...]]:
            return {kind: (round(limit, 7),) * early + (0.0,) for kind, limit in limits.items()}

        others = {other: rows(limits) for other, limits in sorted((by_risk or {}).items())}
        rule = StopRule(tuple(ladder), (NEVER,) * early + (0.0,), rows(thresholds), risk, others, at_once)
        return cls(rule, score, shift, statistics, calibrated_on)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Parse the object of the file.

        Raises:
            ValueError: a field is missing or wrong.
        """
        rule = StopRule.from_json(data)
        parts: dict[str, Any] = {"score": None, "shift": None, "statistics": None}
        if data["version"] != 1:
            parts |= {name: data.get(name) for name in parts}
        score, shift, statistics = parts["score"], parts["shift"], parts["statistics"]
        return cls(
            rule,
            None if score is None else StopScore.from_json(score),
            None if shift is None else ScoreQuantiles.from_json(shift),
            None if statistics is None else StopStatistics.from_json(statistics, rule.ladder),
            data.get("calibrated_on"),
        )

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads, of the newest version."""
        return {
            "version": VERSIONS[-1],
            "method": "answer-probability" if self.score is None else "estimated-agreement",
            "risk": self.rule.risk,
            "ladder": list(self.rule.ladder),
            "thresholds": {str(kind): list(row) for kind, row in sorted(self.rule.thresholds.items())},
            "default": list(self.rule.default),
            "by_risk": [
                {"risk": risk, "thresholds": {str(kind): list(row) for kind, row in sorted(rows.items())}}
                for risk, rows in sorted(self.rule.by_risk.items())
            ],
            "at_once": self.rule.at_once,
            "score": None if self.score is None else self.score.as_json(),
            "shift": None if self.shift is None else self.shift.as_json(),
            "statistics": None if self.statistics is None else self.statistics.as_json(),
            "calibrated_on": dict(self.calibrated_on or {}),
        }


def load_stop_file(codec_dir: Path) -> StopFile:
    """The stop rule of a codec folder.

    Raises:
        ArtifactError: missing or wrong; the message names the command that makes it.
    """
    path = codec_dir / STOP_FILE
    try:
        return StopFile.from_json(json.loads(read_json_file(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(
            str(path), f"no usable stop rule ({str(error)[:_MAX_PROBLEM_CHARS]}); run `latentbus codec calibrate-stop`"
        ) from None


def load_stop_rule(codec_dir: Path) -> StopRule:
    """The thresholds alone, see `load_stop_file`."""
    return load_stop_file(codec_dir).rule


def find_stop_file(codec_dir: Path) -> StopFile | None:
    """The stop rule of a codec folder, None where there is none: an edge can do without.

    Raises:
        ArtifactError: ``stop.json`` is damaged.
    """
    return load_stop_file(codec_dir) if (codec_dir / STOP_FILE).is_file() else None


def save_stop_file(codec_dir: Path, stop: StopFile) -> None:
    """Write ``stop.json``."""
    (codec_dir / STOP_FILE).write_text(json.dumps(stop.as_json(), indent=1) + "\n", encoding="utf-8")
