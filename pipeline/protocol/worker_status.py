"""Birth and last will of a worker, retained, and reports of its load."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pipeline.protocol.ports import Will
from pipeline.protocol.settings import WorkerProtocolSettings
from schemas import topics, wire
from schemas.messages import Status

STATUS_EXPIRY_S: Final = 86_400
"""A retained status under a drawn name is forgotten after so long, should the worker never say that it goes."""
STATUS_REFRESH_S: Final = STATUS_EXPIRY_S / 4
"""So long before it is published again: it must not expire while the worker lives."""
WILL_EXPIRY_S: Final = 600
"""A last will under a drawn name tells those who connect within so long; the name never comes back."""

Load = tuple[int, int]
"""Frames held, and frames that may be held."""


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

    def status(self, load: Load = (0, 0), *, online: bool = True) -> Status:
        """Status message.

        Args:
            load: frames held, and frames that may be held.
            online: False in the will and at a planned end.
        """
        parked, capacity = load
        return Status(
            kind="worker",
            id=self.name,
            boot=self.boot,
            online=online,
            pool=self.pool,
            fingerprint=self.fingerprint.hex(),
            parked=parked,
            capacity=capacity,
        )

    def will(self) -> Will:
        """What the broker says when the worker vanishes."""
        expiry_s = WILL_EXPIRY_S if self.drawn else None
        return Will(self.topic, wire.encode(self.status(online=False)), expiry_s=expiry_s)


@dataclass(slots=True)
class StatusSchedule:
    """When birth and load are said: the birth at each connection, the load soon after it changed, and regularly.

    Attributes:
        settings: times between two reports.
        drawn: the retained birth expires, so it is said again now and then.
        birth_due: say the birth as soon as there is a connection.
    """

    settings: WorkerProtocolSettings
    drawn: bool
    birth_due: bool = True
    _told: Load | None = None
    _told_s: float = -math.inf
    _retained_s: float = -math.inf

    def due_s(self, load: Load) -> float:
        """When something is to be said next."""
        if self.birth_due:
            return -math.inf
        wait_s = self.settings.load_interval_s if load == self._told else self.settings.load_on_change_s
        return min(self._told_s + wait_s, self._retained_s + STATUS_REFRESH_S if self.drawn else math.inf)

    def told(self, load: Load, now_s: float) -> bool:
        """The load is said now; whether the birth is as well."""
        birth = self.birth_due or (self.drawn and now_s >= self._retained_s + STATUS_REFRESH_S)
        if birth:
            self.birth_due, self._retained_s = False, now_s
        self._told, self._told_s = load, now_s
        return birth
