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
