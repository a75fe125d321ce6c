"""What a client session gives its shell beside the ports of all machines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from pipeline.protocol.ports import Acknowledge, Problem, Publish, Subscription, Unsubscribe
from schemas.messages import Answer, QueryOutcome


class Ending(StrEnum):
    """How a query ended for this client."""

    OUTCOME = "outcome"
    """Its terminal message came."""
    NO_OUTCOME = "no outcome"
    """Nothing came by the deadline and a margin."""
    CAMERA_UNKNOWN = "camera unknown"
    """No edge that is online serves the camera; it was not asked."""
    EDGE_REFUSES = "edge refuses"
    """The edge cannot read the question."""
    BROKER_REFUSES = "broker refuses"
    """This client may not ask the camera, or may not read its answers."""


@dataclass(frozen=True, slots=True)
class AnswerRead:
    """A provisional answer that is new to somebody here. Those of a frame come with growing prefixes.

    Attributes:
        message: it.
        mine: new to whoever asked the question here.
        watched: new to those who watch its camera.
    """

    message: Answer
    mine: bool
    watched: bool


@dataclass(frozen=True, slots=True)
class QueryEnded:
    """A query is over: once for each asking here, and once for those who watch its camera.

    Attributes:
        query_id: its key in the fleet.
        camera: its camera.
        ending: how it ended.
        message: its terminal message, if ``ending`` is an outcome.
        mine: it ends a question that was asked here.
        watched: its camera is watched, and this is the first terminal of the query.
        reason: why, in words, if camera, edge or broker is the cause.
        site: the edge, if that refuses.
        cause: why no answer came, as far as the statuses tell.
        limit_s: how long an outcome was waited for, if none came.
    """

    query_id: str
    camera: str
    ending: Ending
    message: Answer | QueryOutcome | None
    mine: bool
    watched: bool
    reason: str = ""
    site: str = ""
    cause: str | None = None
    limit_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WatchEnded:
    """The broker does not let this client read what it watches.

    Attributes:
        camera: camera that is no longer watched; None: all of them.
    """

    camera: str | None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe now, kept across reconnects. The shell answers each one once with ``subscribed(token, ...)``.

    Attributes:
        subscription: what to.
        token: names this one; no other one of the machine has it.
    """

    subscription: Subscription
    token: int


ClientOutput: TypeAlias = (
    Publish | Acknowledge | Subscribe | Unsubscribe | AnswerRead | QueryEnded | WatchEnded | Problem
)
