"""When an answer from a prefix is safe: its score reaches the threshold of its answer type at that prefix length.

The thresholds come from calibration (``latentbus codec calibrate-stop``) against the answer from the whole latent;
nothing here loads or fits anything.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from schemas.types import AnswerType

VERSIONS = (1, 2)
"""Of ``stop.json``. Thresholds stand in both alike; ``pipeline.codec.stop_file`` reads what else version 2 holds."""
NEVER = 2.0
"""A threshold that no score in [0, 1] reaches."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """Thresholds on the score, for each answer type and rung of the ladder of prefixes.

    Attributes:
        ladder: prefix lengths in latents, ascending; the last is the whole latent.
        default: one threshold a rung.
        thresholds: the same for answer types that were calibrated on their own.
        risk: accepted chance that an early answer differs from the whole latent's.
        by_risk: thresholds by answer type for other accepted risks, each a promise of its own.
        at_once: a prefix length, no rung of the ladder, that keeps the promise whatever the scores are: a frame that
            opens with it is answered from it. Nothing else is ever read there.
    """

    ladder: tuple[int, ...]
    default: tuple[float, ...]
    thresholds: Mapping[AnswerType, tuple[float, ...]]
    risk: float
    by_risk: Mapping[float, Mapping[AnswerType, tuple[float, ...]]] = field(default_factory=dict)
    at_once: int | None = None

    def __post_init__(self) -> None:
        """Check the ladder and the lengths.

        Raises:
            ValueError: no ascending ladder, not one threshold a rung, a risk outside [0, 1], or `at_once` on a rung.
        """
        for risk in (self.risk, *self.by_risk):
            if not 0.0 <= risk <= 1.0:
                raise ValueError(f"a risk of {risk}")
        if not self.ladder or list(self.ladder) != sorted(set(self.ladder)) or self.ladder[0] < 1:
            raise ValueError(f"ladder {self.ladder} is not ascending from 1 or more")
        if self.at_once is not None and (not 1 <= self.at_once < self.ladder[-1] or self.at_once in self.ladder):
            raise ValueError(f"at_once {self.at_once} is a rung of {self.ladder}, or beside it")
        others = [row for rows in self.by_risk.values() for row in rows.items()]
        for name, row in (("default", self.default), *self.thresholds.items(), *others):
            if len(row) != len(self.ladder) or not all(math.isfinite(value) and value >= 0 for value in row):
                raise ValueError(f"thresholds of {name}: {len(self.ladder)} finite numbers expected, got {row}")

    def is_safe(self, answer_type: AnswerType, prefix: int, score: float, risk: float | None = None) -> bool:
        """Whether to stop at this pass.

        Args:
            answer_type: of the question.
            prefix: latents that the answer was read from.
            score: of the answer, in [0, 1]; 0 where it is not to be trusted.
            risk: accepted by the question, None for the rule's own. The largest calibrated risk that is not above it
                decides; below all of them only the whole latent is safe.
        """
        if prefix >= self.ladder[-1]:
            return True
        accepted = (
            self.risk if risk is None else max((r for r in (self.risk, *self.by_risk) if r <= risk), default=None)
        )
        if accepted is None:
            return False
        thresholds = self.thresholds if accepted == self.risk else self.by_risk[accepted]
        if prefix == self.at_once:
            return accepted >= self.risk and answer_type in self.thresholds and score > 0
        rung = bisect_right(self.ladder, prefix) - 1
        return rung >= 0 and score >= thresholds.get(answer_type, self.default)[rung]

    def next_prefix(self, prefix: int) -> int:
        """The next rung above a prefix; the whole latent at the end."""
        return self.ladder[min(bisect_right(self.ladder, prefix), len(self.ladder) - 1)]

    @classmethod
    def never_early(cls, ladder: Sequence[int]) -> Self:
        """The rule of an uncalibrated codec: only the whole latent is safe."""
        return cls(tuple(ladder), (NEVER,) * len(ladder), {}, 0.0)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Thresholds as ``stop.json`` holds them.

        Raises:
            ValueError: a field is missing or wrong.
        """
        if not isinstance(data, Mapping) or data.get("version") not in VERSIONS:
            raise ValueError(f"not an object of version {' or '.join(map(str, VERSIONS))}")
        try:
            return cls(
                ladder=tuple(int(rung) for rung in data["ladder"]),
                default=tuple(float(value) for value in data["default"]),
                thresholds=_rows(data["thresholds"]),
                risk=float(data["risk"]),
                by_risk={float(entry["risk"]): _rows(entry["thresholds"]) for entry in data.get("by_risk", ())},
                at_once=None if data.get("at_once") is None else int(data["at_once"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"field {error} is missing or wrong") from None


def _rows(data: Mapping[str, Sequence[float]]) -> dict[AnswerType, tuple[float, ...]]:
    return {AnswerType(kind): tuple(float(value) for value in row) for kind, row in data.items()}
