"""How an *unchanged* outcome names the query whose answer holds on: its reason is ``same as {frame}``."""

from __future__ import annotations

import re
from typing import Final

from schemas.identity import standing_query_id
from schemas.messages import QueryOutcome
from schemas.types import FrameId, Outcome

SAME_AS: Final = "same as"
"""Begins the reason; the frame that the answer was given to follows."""
_REASON: Final = re.compile(rf"^{SAME_AS} ([0-9a-f]{{8}})-([0-9]{{1,10}})$", re.ASCII)


def same_as(frame: FrameId) -> str:
    """The reason of an outcome that renews the answer to this frame."""
    return f"{SAME_AS} {frame}"


def renewed_query_id(outcome: QueryOutcome) -> str | None:
    """Key of the query whose answer an outcome renews; None where it renews none, or does not say which."""
    found = _REASON.match(outcome.reason) if outcome.outcome is Outcome.UNCHANGED else None
    if found is None or outcome.ad_hoc:
        return None
    frame = FrameId(int(found[1], 16), int(found[2]))
    return standing_query_id(outcome.camera, frame, outcome.question_id)
