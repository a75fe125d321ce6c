"""The two operating points: what their frames show, how their folders are called, and budgets by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from schemas.errors import ConfigError
from training.codec.config import BUDGETS, DETAILED_BUDGETS, CodecBudget
from training.codec.data import Domain
from training.codec.vlm import FrozenVlm

CodecName = Literal["klt", "meta_autoencoder"]

POINTS: Final = {"small": BUDGETS, "detailed": DETAILED_BUDGETS}
"""Budgets of the two operating points."""
FOLDERS: Final[dict[str, dict[CodecName, str]]] = {
    "small": {"klt": "klt", "meta_autoencoder": "meta_autoencoder"},
    "detailed": {"klt": "klt_detailed", "meta_autoencoder": "meta_autoencoder_detailed"},
}
DOMAINS: Final[dict[str, Domain]] = {"small": "rendered", "detailed": "detail"}
"""What their frames show."""


def point_of(frozen: FrozenVlm) -> str:
    """The operating point of codecs for frames of this size: `detailed` for those larger than the VLM usually reads."""
    return "small" if frozen.image_size_px <= frozen.usual_size_px else "detailed"


def budget_of(point: str, budget: CodecBudget | str, max_seconds: float | None = None) -> CodecBudget:
    """A budget by its name at an operating point, or itself.

    Args:
        point: A key of `POINTS`.
        budget: A name among the point's budgets, or a budget.
        max_seconds: A limit that replaces the budget's, unless None.

    Raises:
        ConfigError: an unknown point or name.
    """
    if point not in POINTS:
        raise ConfigError("point", f"{point!r} is none of {', '.join(POINTS)}")
    if isinstance(budget, str):
        if budget not in POINTS[point]:
            raise ConfigError("budget", f"{budget!r} is none of {', '.join(POINTS[point])}")
        budget = POINTS[point][budget]
    return budget if max_seconds is None else replace(budget, max_seconds=max_seconds)


def domains_of(point: str, photos: Path | None) -> tuple[Domain, ...]:
    """What the frames that codecs learn from show; photographs only at the small point."""
    return (DOMAINS[point],) if photos is None or point != "small" else (DOMAINS[point], "photographs")
