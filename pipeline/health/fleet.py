"""What the statuses, loads and outcomes of a fleet say about its health.

:func:`fleet_signs` needs nothing but the statuses, so that a command can look once. :class:`FleetHealth` also remembers
what came and when, for whoever listens all the time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pipeline.health.conditions import HealthKind, Sign, Subject, worst_first
from pipeline.health.deadlines import MISSED_SHARE, Deadlines
from pipeline.protocol.fleet_view import FleetView
from pipeline.protocol.reasons import OVERLOAD
from schemas.counting import counted
from schemas.messages import Status
from schemas.types import Outcome, UplinkStage

BACKLOG_BAD: Final = 0.8
BACKLOG_OVER: Final = 0.5
"""Share of what the workers of a pool may hold: from the first on they hold too much, up to the second they do not."""
SILENCE_S: Final = 600.0
"""A site with standing questions that says nothing for so long is silent, unless it has been so before."""
SILENCE_FACTOR: Final = 1.5
"""Of the second longest silence within :data:`HABIT_S`: sites have nights and weekends."""
HABIT_S: Final = 15 * 86_400.0
KEPT_SILENCES: Final = 64
"""Of one site."""
MAX_SITES: Final = 4_096
_LEFT_OUT: Final = {
    UplinkStage.STRETCHED: "standing questions are asked less often",
    UplinkStage.AD_HOC_ONLY: "standing questions are not asked",
    UplinkStage.SPENT: "no questions are asked",
}
_JUDGED: Final = (Outcome.ANSWERED, Outcome.UNCHANGED, Outcome.DEGRADED, Outcome.EXPIRED)
_SUBJECTS: Final[dict[str, Subject]] = {"edge": "site", "worker": "worker", "gateway": "gateway"}


def fleet_signs(fleet: FleetView) -> list[Sign]:
    """What the statuses say at this moment, good and bad."""
    signs = [sign for edge in fleet.edges for sign in _edge_signs(edge)]
    if fleet.workers_are_seen:
        signs += [sign for worker in fleet.workers if worker.online for sign in _reported(worker)]
        signs += [sign for pool in _pools(fleet) for sign in _pool_signs(fleet, pool)]
    return signs


def _edge_signs(edge: Status) -> Iterator[Sign]:
    cameras = counted(len(edge.cameras), "camera")
    yield Sign(HealthKind.SITE_OFFLINE, "site", edge.id, not edge.online, detail=cameras)
    if edge.online:
        yield Sign(
            HealthKind.UPLINK_BUDGET,
            "site",
            edge.id,
            edge.uplink is not UplinkStage.NORMAL,
            detail=_LEFT_OUT.get(edge.uplink, ""),
            severity="critical" if edge.uplink is UplinkStage.SPENT else None,
        )
        yield from _reported(edge)


def _reported(status: Status) -> Iterator[Sign]:
    """What a process says of itself."""
    subject = _SUBJECTS.get(status.kind)
    if subject is not None:
        for condition in status.conditions:
            yield Sign(condition.kind, subject, status.id, part=condition.about)


def _pools(fleet: FleetView) -> list[str]:
    """Pools that an edge asks."""
    return sorted({edge.pool for edge in fleet.edges if edge.online and edge.pool is not None})


def _pool_signs(fleet: FleetView, pool: str) -> Iterator[Sign]:
    edges = [edge for edge in fleet.edges if edge.online and edge.pool == pool]
    workers = [worker for worker in fleet.workers if worker.online and worker.pool == pool]
    yield Sign(HealthKind.POOL_EMPTY, "pool", pool, not workers)
    if not workers:
        return
    codecs = {worker.fingerprint for worker in workers}
    foreign = sorted({edge.id for edge in edges if edge.fingerprint not in codecs})
    named = f"{counted(len(foreign), 'site')} ({', '.join(foreign[:5])})"
    yield Sign(HealthKind.CODEC_MISMATCH, "pool", pool, bool(foreign), detail=named)
    held, capacity = sum(worker.parked for worker in workers), sum(worker.capacity for worker in workers)
    if capacity:
        share = held / capacity
        bad = True if share >= BACKLOG_BAD else False if share <= BACKLOG_OVER else None
        yield Sign(HealthKind.BACKLOG_GROWING, "pool", pool, bad, detail=f"{held} of {capacity}")


@dataclass(slots=True)
class _Heard:
    """When something came from a site, and its long silences.

    Attributes:
        last_s: when something came last; None while nobody listened.
        silences: when each of the latest long ones was over, and how long it was.
    """

    last_s: float | None
    silences: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT_SILENCES))

    def heard(self, now_s: float) -> None:
        if self.last_s is not None and now_s - self.last_s >= SILENCE_S / SILENCE_FACTOR:
            self.silences.append((now_s, now_s - self.last_s))
        self.last_s = now_s

    def limit_s(self, now_s: float) -> float:
        """Silence from which on it is silent. What was so once is no habit: the second longest counts."""
        lengths = sorted(length_s for over_s, length_s in self.silences if now_s - over_s < HABIT_S)
        return max(SILENCE_S, SILENCE_FACTOR * lengths[-2]) if len(lengths) > 1 else SILENCE_S


class FleetHealth:
    """Health of a fleet for somebody who hears all of its outcomes.

    Args:
        fleet: what the statuses say.
        missed_share: of the questions, what may miss its deadline.
    """

    def __init__(self, fleet: FleetView, missed_share: float = MISSED_SHARE) -> None:
        self._fleet = fleet
        self._deadlines = Deadlines(missed_share)
        self._heard: OrderedDict[str, _Heard] = OrderedDict()

    def heard(
        self, site: str | None, outcome: Outcome | None, now_s: float, *, reason: str = "", late: bool = False
    ) -> None:
        """An answer or outcome came.

        Args:
            site: of its camera, if it is known.
            outcome: None of a provisional answer.
            now_s: monotonic time.
            reason: why the outcome is this one.
            late: of a frame that waited for the link: its deadline says nothing.
        """
        if site is None:
            return
        self._of(site, now_s).heard(now_s)
        if not late and outcome in _JUDGED:
            self._deadlines.ended(site, _missed(outcome, reason), now_s)

    def deaf(self) -> None:
        """The broker is not heard for a while: nobody is silent in that time."""
        for known in self._heard.values():
            known.last_s = None

    def signs(self, now_s: float) -> list[Sign]:
        """Everything that can be judged at this moment, good and bad."""
        asked = {site for site, _ in self._fleet.questions}
        signs = fleet_signs(self._fleet)
        pools = {worker.pool for worker in self._fleet.workers if worker.online}
        for edge in self._fleet.edges:
            if not edge.online:
                if edge.id in self._heard:
                    self._heard[edge.id].last_s = None
                continue
            known = self._of(edge.id, now_s)
            burn = self._deadlines.burn(edge.id, now_s)
            signs.append(
                Sign(
                    HealthKind.DEADLINES_MISSED,
                    "site",
                    edge.id,
                    burn.bad,
                    detail=f"{burn.missed} of {burn.asked} within {burn.minutes} min",
                    severity=burn.severity,
                )
            )
            silent_s = now_s - (now_s if known.last_s is None else known.last_s)
            # A site whose budget or pool is gone asks nothing; that is an alert of its own.
            speaks = edge.id in asked and edge.uplink is UplinkStage.NORMAL and edge.pool in pools
            signs.append(
                Sign(
                    HealthKind.SITE_SILENT,
                    "site",
                    edge.id,
                    speaks and silent_s > known.limit_s(now_s),
                    detail=f"{silent_s / 60:.0f} min",
                )
            )
        return signs

    def sizes(self) -> dict[str, int]:
        """Entries of its tables."""
        return {"sites_heard": len(self._heard), "sites_with_deadlines": len(self._deadlines)}

    def _of(self, site: str, now_s: float) -> _Heard:
        known = self._heard.get(site)
        if known is None:
            known = self._heard[site] = _Heard(now_s)
            if len(self._heard) > MAX_SITES:
                self._heard.popitem(last=False)
        if known.last_s is None:
            known.last_s = now_s
        return known


def problems_of(fleet: FleetView) -> list[Sign]:
    """What is wrong at this moment, as far as the statuses say, the worst first."""
    return worst_first([sign for sign in fleet_signs(fleet) if sign.bad])


def _missed(outcome: Outcome | None, reason: str) -> bool:
    """Whether the deadline came first, or would have. An answer of another form than asked for is no matter of it."""
    return outcome is Outcome.EXPIRED or (outcome is Outcome.DEGRADED and reason.startswith(("deadline", OVERLOAD)))
