"""Answers and outcomes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from schemas.identity import (
    Owner,
    is_ad_hoc,
)
from schemas.limits import (
    MAX_ANSWER_CHARS,
    MAX_REASON_CHARS,
)
from schemas.messages.base import JsonMessage
from schemas.types import (
    Age,
    Attempt,
    FrameId,
    LatentIndex,
    Name,
    Outcome,
    Probability,
    QueryId,
    UInt32,
)


class Answer(JsonMessage):
    """Worker to anyone: a provisional answer (``outcome`` is null) or the terminal one."""

    query_id: QueryId
    """Key of the query: ``{camera}/@{client}/{question_id}`` of an ad-hoc question, else
    ``{camera}/{frame}/{question_id}``."""
    owner: Owner
    """Whose question it is: ``site/{site}``, or ``client/{client}`` of an ad-hoc one."""
    camera: Name
    """Camera of the frame."""
    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    attempt: Attempt
    """Attempt that the worker held."""
    question_id: Name
    """Its question."""
    worker: Name
    """Who answers."""
    outcome: Literal[Outcome.ANSWERED, Outcome.DEGRADED, Outcome.FAILED] | None = None
    """Null: provisional. ``answered``: safe, or the latent is whole. ``degraded``: the best there was, not safe.
    ``failed``: no answer. For both see ``reason``."""
    text: Annotated[str, Field(max_length=MAX_ANSWER_CHARS)]
    """The answer; empty when the outcome is ``failed``."""
    score: Probability
    """Estimated chance that the answer from the whole latent is the same."""
    latents: LatentIndex
    """Length of the prefix that was read."""
    payload_bytes: UInt32
    """Latent payload that reached this worker for the frame so far."""
    looks: Annotated[int, Field(ge=0, le=1_000)]
    """How many prefixes the model has read."""
    age_ms: Age | None = None
    """How old the frame was when the question was asked, ``unknown`` after a power cut; null for a frame of now."""
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARS)] = ""
    """Why, when ``outcome`` is degraded or failed."""

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client; else a standing question."""
        return is_ad_hoc(self.owner)

    @property
    def history(self) -> bool:
        """Of a frame that waited on its edge for the link to come back; else of a frame of its time."""
        return self.age_ms is not None and not self.ad_hoc


class QueryOutcome(JsonMessage):
    """Edge to anyone: a terminal outcome that only the edge can know."""

    query_id: QueryId
    """Key of the query: ``{camera}/@{client}/{question_id}`` of an ad-hoc question, else
    ``{camera}/{frame}/{question_id}``."""
    owner: Owner
    """Whose question it is: ``site/{site}``, or ``client/{client}`` of an ad-hoc one."""
    camera: Name
    """Camera of the frame."""
    frame: FrameId
    """Boot id of the edge and sequence number within the camera."""
    question_id: Name
    """Its question."""
    outcome: Literal[Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED, Outcome.UNCHANGED]
    """``expired``: the deadline passed without an answer. ``superseded``: a newer frame took its place. ``failed``: see
    ``reason``. ``unchanged``: the last answer of the same standing question holds on."""
    age_ms: Age | None = None
    """How old the frame was when the question was asked, or the answer that holds on, ``unknown`` after a power cut;
    null for a frame of now. With the reason ``not_held``: how old the oldest kept frame is; null where none is kept."""
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARS)] = ""
    """Why, in words."""

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client; else a standing question."""
        return is_ad_hoc(self.owner)

    @property
    def history(self) -> bool:
        """Of a frame that waited on its edge for the link to come back; else of a frame of its time."""
        return self.age_ms is not None and not self.ad_hoc and self.outcome is not Outcome.UNCHANGED
