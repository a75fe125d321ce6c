"""Birth and last will of a worker, retained, and its load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.bus.base import Will
from schemas import topics, wire
from schemas.messages import Status

STATUS_EXPIRY_S: Final = 86_400
"""A retained status under a drawn name is forgotten after so long, should the worker never say that it goes."""
STATUS_REFRESH_S: Final = STATUS_EXPIRY_S / 4
"""So long before it is published again: it must not expire while the worker lives."""
WILL_EXPIRY_S: Final = 600
"""A last will under a drawn name tells those who connect within so long; the name never comes back."""


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who a worker is.

    Attributes:
        name: topic name, unique on the broker.
        pool: its pool.
        boot: drawn at process start; a will of an earlier boot is ignored.
        fingerprint: first 4 bytes of its codec's fingerprint.
        drawn: the name was drawn at process start, so that nobody comes back under it and takes its status back.
    """

    name: str
    pool: str
    boot: int
    fingerprint: bytes
    drawn: bool = False

    @property
    def expiry_s(self) -> int | None:
        """Time after which the broker forgets the retained status; None never."""
        return STATUS_EXPIRY_S if self.drawn else None

    @property
    def topic(self) -> str:
        """Its status topic, which every edge reads over a thin link."""
        return topics.status_topic("worker", self.name)

    @property
    def load_topic(self) -> str:
        """Where it reports its load to the other workers."""
        return topics.load_topic(self.pool, self.name)

    def status(self, *, online: bool, parked: int = 0, capacity: int = 0) -> bytes:
        """Status message.

        Args:
            online: False in the will and at a planned end.
            parked: frames held.
            capacity: frames that may be held.
        """
        return wire.encode(
            Status(
                kind="worker",
                id=self.name,
                boot=self.boot,
                online=online,
                pool=self.pool,
                fingerprint=self.fingerprint.hex(),
                parked=parked,
                capacity=capacity,
            )
        )

    def will(self) -> Will:
        """What the broker says when the worker vanishes."""
        return Will(self.topic, self.status(online=False), expiry_s=WILL_EXPIRY_S if self.drawn else None)
