"""Reasons of outcomes that somebody acts on; all other reasons are words for a person."""

from __future__ import annotations

from typing import Final

OVERLOAD: Final = "overload"
"""Begins the reason of a *degraded* answer whose frame waited for the model: the pool has more work than time."""
UPLINK_BUDGET: Final = "uplink_budget"
"""Begins the reason of a refused question: the site has spent the budget of its uplink, and says until when."""
EDGE_LOST: Final = "edge_lost"
"""The edge is gone and can say nothing about the query: its worker does."""
NOT_HELD: Final = "not_held"
"""Begins the reason of a *failed* question about a frame of the past that the edge does not keep."""

_LABELS: Final = (
    (OVERLOAD, "overload"),
    (UPLINK_BUDGET, "uplink_budget"),
    (EDGE_LOST, "edge_lost"),
    (NOT_HELD, "not_held"),
    ("deadline", "deadline"),
    ("form", "form"),
    ("model", "model"),
    ("bitstream", "bitstream"),
    ("internal", "internal"),
    ("no worker", "no_worker"),
    ("the pool turned it away", "turned_away"),
    ("the edge was stopped", "stopped"),
    ("newer frame", "newer_frame"),
    ("too many unfinished frames", "too_many_frames"),
)


def reason_label(reason: str) -> str:
    """A reason as the label of a metric: one of few, whatever the words are; ``none`` where none is given."""
    if not reason:
        return "none"
    return next((label for begins, label in _LABELS if reason.startswith(begins)), "other")
