"""Seeded faults: what breaks in an episode, when, and when it heals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """What can break."""

    WORKER_CRASH = "worker crash"
    """SIGKILL; another process of that name starts later."""
    WORKER_RESTART = "worker restart"
    """SIGKILL and a new process at once, or a loss of power: the broker learns of it by the next connection."""
    WORKER_FREEZE = "worker freeze"
    """SIGSTOP and a late SIGCONT."""
    WORKER_SLOW = "worker slow"
    """Every other batch takes up to a hundred times as long; with no target the whole pool's, as on a shared host."""
    WORKER_FULL = "worker full"
    """A burst of frames from elsewhere takes its room."""
    WORKER_PARTITION = "worker partition"
    """Its network is gone; either side notices by its keep-alive."""
    WORKER_DRAIN = "worker drain"
    """SIGTERM; replaced when it has ended."""
    WORKER_KEYS = "worker key frames"
    """The key frames that it keeps do not decode any more, and those that come neither."""
    EDGE_CRASH = "edge crash"
    EDGE_GONE = "edge gone"
    """SIGKILL, and nobody starts it again before all of its deadlines are over."""
    EDGE_FREEZE = "edge freeze"
    EDGE_PARTITION = "edge partition"
    EDGE_DRAIN = "edge drain"
    EDGE_DISK_FULL = "edge disk full"
    EDGE_DISK_DAMAGE = "edge disk damage"
    """A row of the journal is overwritten with what means nothing."""
    EDGE_POWER_CUT = "edge power cut"
    """The machine loses its power: what is on disk stays, and nobody knows how old it is."""
    EDGE_STORE_DAMAGE = "edge store damage"
    """A stored frame is overwritten with what means nothing."""
    HOSTILE_CLIENT = "hostile client"
    """A client floods a site with questions and with what is none."""
    HOSTILE_WORKER = "hostile worker"
    """A worker of the pool meddles with frames that are not its own."""
    BROKER_RESTART = "broker restart"
    """SIGKILL of the broker: no wills, what is retained stays; if it is strong, not what came after a snapshot."""
    DELAY = "delay"
    """Deliveries on a link, or on all of them, take seconds."""
    LOSS = "loss"
    """Deliveries at QoS 0 are lost."""
    DUPLICATE = "duplicate"
    """Deliveries at QoS 1 come twice."""
    REORDER = "reorder"
    """Deliveries are overtaken."""


WORKER_FAULTS = frozenset(kind for kind in FaultKind if kind.startswith("worker "))
EDGE_FAULTS = frozenset(kind for kind in FaultKind if kind.startswith("edge "))
HOSTILE_PEERS = frozenset((FaultKind.HOSTILE_CLIENT, FaultKind.HOSTILE_WORKER))
_DRAWN_APART = frozenset((FaultKind.WORKER_KEYS, FaultKind.EDGE_POWER_CUT, FaultKind.EDGE_STORE_DAMAGE))
"""Those that make sense for some fleets alone."""
WIRE_FAULTS = frozenset((FaultKind.DELAY, FaultKind.LOSS, FaultKind.DUPLICATE, FaultKind.REORDER))

_CASCADE_SHARE = 0.5
_CASCADE_S = 8.0
"""A fault seldom comes alone: what took one process away often reaches its neighbour within a second or two."""
_LONG = WIRE_FAULTS | {FaultKind.WORKER_FREEZE, FaultKind.EDGE_FREEZE}
_LONG_TIMES = 3.0
"""A bad link stays bad, and a stopped machine stopped, for longer than a process takes to restart."""


_ORPHANS_SHARE = 0.3
HEIR = "heir"
_AT_THE_STORE = (
    FaultKind.EDGE_CRASH,
    FaultKind.EDGE_POWER_CUT,
    FaultKind.EDGE_STORE_DAMAGE,
    FaultKind.EDGE_DISK_FULL,
    FaultKind.BROKER_RESTART,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        start_s: when it begins, virtual time.
        kind: what breaks.
        target: name of the process, or of the one at the end of the link. Empty is the worker that has most to lose at
            that moment, the whole pool of slow workers, every link, or the broker. :data:`HEIR` waits for a worker that
            has taken a frame over from another one, and strikes when it asks for more.
        lasts_s: when it heals: a restart, a wake, the end of a partition.
        strength: in [0, 1]: how slow, how lossy.
    """

    start_s: float
    kind: FaultKind
    target: str
    lasts_s: float
    strength: float


def draw_faults(
    draw: random.Random, *, duration_s: float, workers: Sequence[str], sites: Sequence[str], rate_hz: float
) -> list[Fault]:
    """Faults of an episode, in time order.

    Each episode draws which kinds it has at all: few kinds that come together often reach states that a mixture of all
    hardly ever does (swarm testing; Groce et al., 2012).

    Args:
        draw: random numbers.
        duration_s: length of the episode.
        workers: names of the workers.
        sites: names of the edges.
        rate_hz: mean faults a second, those that follow another one at once not counted.
    """
    faults: list[Fault] = []
    draw_from = draw.choice([WORKER_FAULTS, WORKER_FAULTS | WIRE_FAULTS, frozenset(FaultKind)])
    possible = [kind for kind in FaultKind if kind in draw_from and kind not in _DRAWN_APART]
    kinds = draw.sample(possible, draw.choice([2, 4, len(possible)]))
    if draw.random() < 0.5:
        # What leaves an owner behind that does not know it reaches most.
        kinds.append(FaultKind.WORKER_FREEZE)
    time_s = draw.expovariate(rate_hz) if rate_hz else duration_s
    follows = False
    while time_s < duration_s:
        kind = draw.choice(kinds)
        target = ""
        if kind in EDGE_FAULTS | HOSTILE_PEERS:
            target = draw.choice(sites)
        elif kind in WORKER_FAULTS:
            target = HEIR if follows else draw.choice(["", HEIR, draw.choice(workers)])
        elif kind in WIRE_FAULTS and draw.random() < 0.5:
            target = draw.choice([*workers, *sites])
        lasts_s = min(10.0, 0.2 + draw.expovariate(1 / 6))
        if kind in _LONG:
            lasts_s *= _LONG_TIMES
        faults.append(Fault(time_s, kind, target, lasts_s, draw.random()))
        follows = draw.random() < _CASCADE_SHARE
        time_s += draw.random() * _CASCADE_S if follows else draw.expovariate(rate_hz)
    return faults


def draw_key_faults(
    draw: random.Random, *, duration_s: float, workers: Sequence[str], sites: Sequence[str]
) -> list[Fault]:
    """Times at which workers keep damaged key frames; some of the frames that meet them lose their edge first.

    Args:
        draw: random numbers.
        duration_s: length of the episode.
        workers: names of the workers.
        sites: names of the edges that have key frames.
    """
    faults: list[Fault] = []
    for _ in range(draw.choice([1, 2, 4])):
        time_s = draw.uniform(0.0, duration_s)
        target = draw.choice(["", *workers])
        faults.append(Fault(time_s, FaultKind.WORKER_KEYS, target, draw.uniform(0.2, 8.0), draw.random()))
        if draw.random() < _ORPHANS_SHARE:
            crash_s = time_s + draw.uniform(0.5, 4.0)
            faults.append(Fault(crash_s, FaultKind.EDGE_CRASH, draw.choice(sites), 5.0, draw.random()))
    return faults


def draw_store_faults(draw: random.Random, *, duration_s: float, sites: Sequence[str]) -> list[Fault]:
    """Times without a link, and what goes wrong with frames that are stored meanwhile.

    Args:
        draw: random numbers.
        duration_s: length of the episode.
        sites: names of the edges that store frames.
    """
    faults: list[Fault] = []
    for _ in range(draw.choice([1, 2, 3])):
        site, cut_s, lasts_s = draw.choice(sites), draw.uniform(0.0, duration_s), draw.uniform(4.0, 25.0)
        faults.append(Fault(cut_s, FaultKind.EDGE_PARTITION, site, lasts_s, draw.random()))
        for kind in draw.sample(_AT_THE_STORE, draw.choice([0, 1, 2])):
            begins_s = cut_s + draw.uniform(0.0, 1.5 * lasts_s)
            faults.append(Fault(begins_s, kind, site, draw.uniform(0.5, 6.0), draw.random()))
    return faults


def draw_relay(draw: random.Random, *, duration_s: float) -> list[Fault]:
    """Faults under which frames change their owner twice while the first one still reads them, in time order.

    The worker that has most to lose stops for a while, and nobody misses it, so that it stays in the share group. Who
    takes its frames over dies after asking for more, and they come back to the first one with a longer prefix.

    Args:
        draw: random numbers.
        duration_s: length of the episode.
    """
    faults: list[Fault] = []
    time_s = draw.uniform(2.0, 6.0)
    while time_s < duration_s:
        freeze_s = draw.uniform(8.0, 16.0)
        faults += [
            Fault(time_s, FaultKind.WORKER_FREEZE, "", freeze_s, draw.random()),
            Fault(time_s, FaultKind.WORKER_CRASH, HEIR, freeze_s, draw.random()),
        ]
        time_s += freeze_s + draw.uniform(5.0, 10.0)
    return faults
