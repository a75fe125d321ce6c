"""Seeded faults: what breaks in an episode, and when it heals."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """What can break."""

    WORKER_CRASH = "worker crash"
    WORKER_FREEZE = "worker freeze"
    WORKER_SLOW = "worker slow"
    WORKER_PARTITION = "worker partition"
    WORKER_DRAIN = "worker drain"
    EDGE_CRASH = "edge crash"
    EDGE_PARTITION = "edge partition"
    BROKER_RESTART = "broker restart"
    BAD_WIRE = "bad wire"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        start_s: when it begins, virtual time.
        kind: what breaks.
        target: index of the process among its kind.
        lasts_s: when it heals: a restart, a wake, the end of a partition.
        strength: in [0, 1]: how slow, how lossy.
    """

    start_s: float
    kind: FaultKind
    target: int
    lasts_s: float
    strength: float


def draw_faults(draw: random.Random, *, duration_s: float, workers: int, edges: int, rate_hz: float) -> list[Fault]:
    """Faults of an episode, in time order.

    Args:
        draw: random numbers.
        duration_s: length of the episode.
        workers: number of workers.
        edges: number of edges.
        rate_hz: mean faults a second.
    """
    faults: list[Fault] = []
    time_s = draw.expovariate(rate_hz) if rate_hz else duration_s
    while time_s < duration_s:
        kind = draw.choice(list(FaultKind))
        many = edges if kind in (FaultKind.EDGE_CRASH, FaultKind.EDGE_PARTITION) else workers
        faults.append(Fault(time_s, kind, draw.randrange(max(1, many)), 0.2 + draw.expovariate(1 / 6), draw.random()))
        time_s += draw.expovariate(rate_hz)
    return faults
