"""Birth and last will of a worker, retained, and its load."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.bus.base import Will
from schemas import topics, wire
from schemas.messages import Status


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who a worker is.

    Attributes:
        name: topic name, unique on the broker.
        pool: its pool.
        boot: drawn at process start; a will of an earlier boot is ignored.
        fingerprint: first 4 bytes of its codec's fingerprint.
    """

    name: str
    pool: str
    boot: int
    fingerprint: bytes

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
        return Will(self.topic, self.status(online=False))
