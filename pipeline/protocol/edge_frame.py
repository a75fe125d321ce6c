"""One frame in the edge session: its stage, its queries, and the table of moves between stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.protocol.effects import AskedQuery, Latent
from schemas.errors import StateError
from schemas.types import FrameId, standing_query_id


class EdgeStage(StrEnum):
    """Where a frame stands at its edge."""

    QUEUED = "queued"
    """Waits for room on the uplink, for its first or a further open."""
    OPENED = "opened"
    """Sent to the pool; nobody has spoken for it yet."""
    OWNED = "owned"
    """A worker holds the lease."""
    BACKOFF = "backoff"
    """The attempt came to nothing; the next one waits."""
    DONE = "done"
    """All queries are decided; only *gone* is said about it."""


class EdgeEvent(StrEnum):
    """What moves a frame at its edge."""

    LEFT_UPLINK = "left uplink"
    CLAIM = "claim"
    RENEWAL = "renewal"
    BUSY = "busy"
    NO_WORKER = "no worker"
    SILENCE = "silence"
    OWNER_LOST = "owner lost"
    BACKOFF_OVER = "back-off over"
    DECIDED = "all queries decided"


S, E = EdgeStage, EdgeEvent
EDGE_TRANSITIONS: dict[tuple[EdgeStage, EdgeEvent], EdgeStage] = {
    (S.QUEUED, E.LEFT_UPLINK): S.OPENED,
    (S.QUEUED, E.CLAIM): S.OWNED,  # a slow owner of the attempt before speaks before the next open has left
    (S.QUEUED, E.DECIDED): S.DONE,
    (S.OPENED, E.CLAIM): S.OWNED,
    (S.OPENED, E.NO_WORKER): S.BACKOFF,
    (S.OPENED, E.SILENCE): S.BACKOFF,
    (S.OPENED, E.DECIDED): S.DONE,
    (S.OWNED, E.RENEWAL): S.OWNED,
    (S.OWNED, E.BUSY): S.BACKOFF,
    (S.OWNED, E.SILENCE): S.BACKOFF,
    (S.OWNED, E.OWNER_LOST): S.BACKOFF,
    (S.OWNED, E.DECIDED): S.DONE,
    (S.BACKOFF, E.CLAIM): S.OWNED,  # slow, not dead: cheaper than opening again
    (S.BACKOFF, E.BACKOFF_OVER): S.QUEUED,
    (S.BACKOFF, E.DECIDED): S.DONE,
}
"""Every move there is; any other is a bug and raises."""


@dataclass(slots=True)
class EdgeFrame:
    """A frame whose queries are not all decided.

    Attributes:
        camera: its camera.
        frame: its id.
        latent: the coded latent, kept until the frame is done.
        queries: undecided queries by query id.
        stage: where it stands.
        attempt: opens that have left the uplink so far.
        owner: worker that holds the lease.
        prefix: longest prefix that was ever asked for; the next open carries it.
        timer_s: when the stage has lasted too long; None while it waits for the uplink.
        lease_s: lease that the owner asked for last.
        sent: latents that reached the uplink in this attempt, to count what is sent twice.
    """

    camera: str
    frame: FrameId
    latent: Latent
    queries: dict[str, AskedQuery]
    prefix: int
    lease_s: float
    stage: EdgeStage = EdgeStage.QUEUED
    attempt: int = 0
    owner: str | None = None
    timer_s: float | None = None
    sent: int = field(default=0)

    def move(self, event: EdgeEvent) -> None:
        """Go where the table says.

        Raises:
            StateError: the table has no such move.
        """
        target = EDGE_TRANSITIONS.get((self.stage, event))
        if target is None:
            raise StateError(f"edge frame {self.camera}/{self.frame}: no move from {self.stage} on {event}")
        self.stage = target

    def can(self, event: EdgeEvent) -> bool:
        """Whether the table has a move for this event."""
        return (self.stage, event) in EDGE_TRANSITIONS


def query_id_of(camera: str, frame: FrameId, asked: AskedQuery) -> str:
    """The query's key: the client's own for an ad-hoc question, derived for a standing one."""
    return asked.question_id if asked.ad_hoc else standing_query_id(camera, frame, asked.question_id)
