"""Looks at held-out pictures during the training: which weights are best so far, and when to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from training.codec.fit.rate_curve import CurvePoint


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        step: Steps of the training before it.
        agreement: Mean over sizes that the closed form's prefixes have: share of questions whose answer begins as the
            uncompressed tokens' does, from as many bytes.
        error: Feature error, likewise.
        whole_bytes: Size of whole latents.
        counts: Whether all parts of the loss had been on; before, no look counts against the patience.
    """

    step: int
    agreement: float
    error: float
    whole_bytes: float
    counts: bool

    def is_better_than(self, other: Look) -> bool:
        """By agreement; where that is equal, by error."""
        return (self.agreement, -self.error) > (other.agreement, -other.error)


@dataclass(frozen=True, slots=True)
class Rungs:
    """What is held against each other: sizes in bytes, and what the closed form reaches with them on the same pictures.

    Attributes:
        sizes_bytes: Of its prefixes.
        agreement: With each of them.
        error: Likewise.
    """

    sizes_bytes: tuple[float, ...]
    agreement: tuple[float, ...]
    error: tuple[float, ...]

    @classmethod
    def of(cls, curve: Sequence[CurvePoint]) -> Self:
        """Those of the closed form's curve."""
        return cls(
            tuple(point.payload_bytes for point in curve),
            tuple(point.agreement for point in curve),
            tuple(point.error for point in curve),
        )

    def look(self, curve: Sequence[CurvePoint], step: int, *, counts: bool) -> Look:
        """Hold a curve against them, at the same bytes."""
        sizes = [point.payload_bytes for point in curve]
        agreement = np.interp(self.sizes_bytes, sizes, [point.agreement for point in curve])
        error = np.interp(self.sizes_bytes, sizes, [point.error for point in curve])
        return Look(step, round(float(agreement.mean()), 6), round(float(error.mean()), 6), round(sizes[-1], 2), counts)


class Looks:
    """All looks of a training, kept in a file.

    Args:
        path: The file.
        patience: Looks without a better one after which the training ends.
    """

    def __init__(self, path: Path, patience: int) -> None:
        self._path, self._patience = path, patience
        self.rungs: Rungs | None = None
        self._looks: list[Look] = []
        if path.exists():
            content = json.loads(path.read_bytes())
            self.rungs = Rungs(**{name: tuple(values) for name, values in content["rungs"].items()})
            self._looks = [Look(**look) for look in content["looks"]]

    def go_back_to(self, step: int) -> None:
        """Forget looks at later steps than a checkpoint's."""
        self._looks = [look for look in self._looks if look.step <= step]

    def at(self, step: int) -> Look | None:
        """The look at a step, if there was one."""
        return next((look for look in self._looks if look.step == step), None)

    @property
    def best(self) -> Look | None:
        """The best one so far; of equal ones the first."""
        best: Look | None = None
        for look in self._looks:
            if best is None or look.is_better_than(best):
                best = look
        return best

    def add(self, look: Look) -> None:
        """Take in a look and write the file."""
        self._looks.append(look)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.as_dict()), encoding="utf-8")
        partial.replace(self._path)

    def is_over(self) -> bool:
        """Whether patience has run out."""
        best = self.best
        since = [look for look in self._looks if best is not None and look.step > best.step and look.counts]
        return len(since) >= self._patience

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        rungs = None if self.rungs is None else asdict(self.rungs)
        return {"rungs": rungs, "looks": [asdict(look) for look in self._looks]}
