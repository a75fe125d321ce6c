"""Which faults a run has, in what order and how long each lasts; all of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class FaultKind(StrEnum):
    """What is done to a process, or to its link."""

    KILL_WORKER = "kill_worker"
    """SIGKILL, then started again."""
    FREEZE_WORKER = "freeze_worker"
    """SIGSTOP, later SIGCONT: it wakes and goes on as if nothing had happened."""
    KILL_EDGE = "kill_edge"
    """SIGKILL, then started again."""
    KILL_BROKER = "kill_broker"
    """SIGKILL, then started again from its database."""
    CUT_LINK = "cut_link"
    """Connections are torn down, new ones refused for a while."""
    STALL_LINK = "stall_link"
    """Nothing passes for a while, then everything does."""
    HALF_OPEN_LINK = "half_open_link"
    """The present connection loses every byte and nobody is told; a new connection works."""
    SLOW_LINK = "slow_link"
    """A few hundred bytes a second for a while."""


class Role(StrEnum):
    """What a fault is aimed at."""

    WORKER = "worker"
    EDGE = "edge"
    BROKER = "broker"


ROLES: Final[dict[FaultKind, tuple[Role, ...]]] = {
    FaultKind.KILL_WORKER: (Role.WORKER,),
    FaultKind.FREEZE_WORKER: (Role.WORKER,),
    FaultKind.KILL_EDGE: (Role.EDGE,),
    FaultKind.KILL_BROKER: (Role.BROKER,),
    FaultKind.CUT_LINK: (Role.WORKER, Role.EDGE),
    FaultKind.STALL_LINK: (Role.WORKER, Role.EDGE),
    FaultKind.HALF_OPEN_LINK: (Role.WORKER, Role.EDGE),
    FaultKind.SLOW_LINK: (Role.WORKER, Role.EDGE),
}
"""Whom each kind may hit."""

DURATIONS_S: Final[dict[FaultKind, tuple[float, float]]] = {
    FaultKind.KILL_WORKER: (0.0, 1.0),
    FaultKind.FREEZE_WORKER: (0.5, 12.0),
    FaultKind.KILL_EDGE: (0.0, 1.0),
    FaultKind.KILL_BROKER: (0.1, 2.0),
    FaultKind.CUT_LINK: (0.0, 3.0),
    FaultKind.STALL_LINK: (0.5, 12.0),
    FaultKind.HALF_OPEN_LINK: (0.0, 0.0),
    FaultKind.SLOW_LINK: (2.0, 6.0),
}
"""Shortest and longest; of a killed process, the time until somebody starts it again. Freezes and stalls reach from far
under the lease to beyond what the broker calls dead."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault before it has found its target.

    Attributes:
        number: its place in the plan.
        kind: what is done.
        role: what it is aimed at.
        after_asked: it is due once this many questions have been asked.
        duration_s: how long it lasts.
    """

    number: int
    kind: FaultKind
    role: Role
    after_asked: int
    duration_s: float


def make_plan(
    seed: int, *, faults: int, questions: int, kinds: Sequence[FaultKind] = tuple(FaultKind)
) -> list[PlannedFault]:
    """Draw a plan.

    Args:
        seed: same seed and numbers, same plan.
        faults: how many.
        questions: over how many questions they are spread, evenly.
        kinds: which kinds; each comes up equally often, as far as the number allows.
    """
    rng = random.Random(seed)
    order: list[FaultKind] = []
    while len(order) < faults:
        once = list(kinds)
        rng.shuffle(once)
        order += once
    return [
        PlannedFault(
            number,
            kind,
            rng.choice(ROLES[kind]),
            round(questions * (number + 0.5) / faults),
            round(rng.uniform(*DURATIONS_S[kind]), 3),
        )
        for number, kind in enumerate(order[:faults])
    ]
