"""One frame in the edge session: its stage, its queries, and the table of moves between stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.protocol.effects import AskedQuery, GivenKey, Latent
from schemas.errors import StateError
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.types import Age, FrameId

_DOUBT_AFTER = 2 / 3
"""Share of the base lease: half of it, when a worker speaks at the latest, and some time for the way."""


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
    """All queries are decided; only *revoke* is said about it."""


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
    KEY_MISSING = "key frame missing"
    NOT_HELD = "frame of a follow-up not held"
    DECIDED = "all queries decided"


S, E = EdgeStage, EdgeEvent
EDGE_TRANSITIONS: dict[tuple[EdgeStage, EdgeEvent], EdgeStage] = {
    (S.QUEUED, E.LEFT_UPLINK): S.OPENED,
    (S.QUEUED, E.CLAIM): S.OWNED,  # a slow owner of the attempt before speaks before the next open has left
    (S.QUEUED, E.DECIDED): S.DONE,
    (S.OPENED, E.CLAIM): S.OWNED,
    (S.OPENED, E.NO_WORKER): S.BACKOFF,
    (S.OPENED, E.SILENCE): S.BACKOFF,
    (S.OPENED, E.KEY_MISSING): S.QUEUED,
    (S.OPENED, E.DECIDED): S.DONE,
    (S.OWNED, E.RENEWAL): S.OWNED,
    (S.OWNED, E.BUSY): S.BACKOFF,
    (S.OWNED, E.SILENCE): S.BACKOFF,
    (S.OWNED, E.OWNER_LOST): S.BACKOFF,
    (S.OWNED, E.KEY_MISSING): S.QUEUED,
    (S.OWNED, E.NOT_HELD): S.QUEUED,
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
        left_s: when its last open left the uplink, until the first answer to it comes.
        newer_s: when a newer frame is expected to supersede its standing queries, if it still waits then.
        read: by undecided query, the prefix that its last answer was read from, and the answer's score.
        given_key: how its first attempt is coded; None codes it by itself, as every further attempt is.
        key_waits: its first open waits until its own key frame has left.
        attempts_before: opens of the frame before the questions that it is asked now.
        later: queries that were asked when the frame was one of the past.
        untold: queries that the last open has not named, and its owner was not told of.
        later_age_ms: how old it was when the latest of them was asked.
        age_ms: how old it was when it was offered; None for a frame of now.
        history: it waited on this edge for the link to come back, and gives way to everything else.
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
    sent: int = 0
    left_s: float | None = None
    newer_s: float = math.inf
    read: dict[str, tuple[int, float]] = field(default_factory=dict)
    given_key: GivenKey[Latent] | None = None
    key_waits: bool = False
    attempts_before: int = 0
    later: set[str] = field(default_factory=set)
    later_age_ms: int = 0
    untold: set[str] = field(default_factory=set)
    age_ms: Age | None = None
    history: bool = False
    _coded: tuple[int, bytes] = (0, b"")

    @property
    def key(self) -> int | None:
        """Sequence number of the key frame that the latents are coded given; None for none."""
        given = self.given_key
        if given is None:
            return None
        return self.frame.sequence if given.sequence is None else given.sequence

    def payload(self, start: int, stop: int) -> bytes:
        """Coded bytes of latents ``start..stop``."""
        return (self.latent if self.given_key is None else self.given_key.latent).payload(start, stop)

    def coded_prefix(self) -> bytes:
        """Coded bytes of the prefix; coded once, though the uplink asks for their size before they leave."""
        if self._coded[0] != self.prefix:
            self._coded = (self.prefix, self.payload(0, self.prefix))
        return self._coded[1]

    def stand_alone(self) -> None:
        """From now on the latents are coded by themselves."""
        self.given_key = None
        self.key_waits = False
        self._coded = (0, b"")

    def move(self, event: EdgeEvent) -> None:
        """Go where the table says.

        Raises:
            StateError: the table has no such move.
        """
        target = EDGE_TRANSITIONS.get((self.stage, event))
        if target is None:
            raise StateError(f"edge frame {self.camera}/{self.frame}: no move from {self.stage} on {event}")
        self.stage = target

    def leave(self, now_s: float, lease_s: float) -> None:
        """An open message of the frame leaves the uplink: a further attempt begins, with its lease."""
        self.move(EdgeEvent.LEFT_UPLINK)
        self.attempt += 1
        self.owner = None
        self.untold = self.queries.keys() - self.named(now_s)
        self.lease_s = lease_s
        self.timer_s = now_s + lease_s
        self.left_s = now_s

    def age_for(self, query_id: str) -> Age | None:
        """How old the frame was when a query was asked; None for a frame of now."""
        return self.later_age_ms if query_id in self.later else self.age_ms

    def named(self, now_s: float) -> list[str]:
        """Queries that an open message names.

        They agree about the age of the frame: those that were asked when it was taken, or else those that were asked
        later. The others are told to the owner.
        """
        timely = [query_id for query_id, query in self.queries.items() if query.deadline_s > now_s]
        return [query_id for query_id in timely if query_id not in self.later] or timely

    @property
    def tries(self) -> int:
        """Opens for the questions that it is asked now."""
        return self.attempt - self.attempts_before

    def send(self, start: int, stop: int) -> int:
        """Latents ``start..stop`` go to the uplink; how many of them were sent before."""
        again = max(0, min(self.sent, stop) - start)
        self.sent = max(self.sent, stop)
        return again

    def due_s(self, *, leases_count: bool) -> float:
        """When time will next change something: the first deadline, or the end of the stage."""
        due_s = min(query.deadline_s for query in self.queries.values())
        return min(due_s, self.timer_s) if leases_count and self.timer_s is not None else due_s

    def lease_ends_by(self, time_s: float) -> None:
        """The connection is back: whoever has the frame speaks at once, so silence until then will do."""
        if self.stage in (EdgeStage.OPENED, EdgeStage.OWNED):
            self.timer_s = time_s

    def doubt(self) -> None:
        """A worker was lost, and nobody knows whether it got this open: any other one speaks at half of the lease."""
        if self.stage is EdgeStage.OPENED and self.timer_s is not None and self.left_s is not None:
            self.timer_s = min(self.timer_s, self.left_s + _DOUBT_AFTER * self.lease_s)

    def can(self, event: EdgeEvent) -> bool:
        """Whether the table has a move for this event."""
        return (self.stage, event) in EDGE_TRANSITIONS


def queries_by_id(camera: str, frame: FrameId, queries: Sequence[AskedQuery]) -> dict[str, AskedQuery]:
    """What a frame is asked, by query id.

    Raises:
        StateError: no query, too many, or the same one twice.
    """
    by_id = {query.query_id(camera, frame): query for query in queries}
    if not 1 <= len(queries) <= MAX_QUERIES_PER_FRAME or len(by_id) < len(queries):
        raise StateError(f"{len(queries)} queries, {len(by_id)} different: 1 to {MAX_QUERIES_PER_FRAME} are allowed")
    return by_id
