"""Which order of departure answers more questions safely and in time on the same thin uplinks.

Sites whose cameras ask more than their uplink carries; one seeded workload, run once under each order. The pool is
never short: what is compared is the uplink alone. Load shedding is off, so that every order is asked
the same.

A query counts as answered when its edge heard the safe answer before the deadline.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import DepartureOrder
from pipeline.protocol.effects import Decision
from pipeline.protocol.expected_gain import AD_HOC_WEIGHT
from pipeline.protocol.load_shedding import LoadSheddingSettings
from schemas.types import Outcome
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.edge_actor import EdgeActor
from simulation.links import LinkFaults
from simulation.questions import published
from simulation.specs import EdgeCallbacks, EdgeSpec, WorkerCallbacks, WorkerSpec
from simulation.uplink_orders import FirstComeFirstServed, RoundRobin
from simulation.uplink_workload import DEADLINES_S, ComparisonPlan, ScoredModel, WorkloadCamera, draw_sites, schedule
from simulation.worker_actor import WorkerActor

ORDERS: Final[dict[str, Callable[[float | None], DepartureOrder]]] = {
    "first come first served": FirstComeFirstServed,
    "round robin": RoundRobin,
    "expected gain": DepartureQueue,
}
"""The orders that are compared; the last one is the edge's."""
BASELINES: Final = tuple(ORDERS)[:2]
OURS: Final = tuple(ORDERS)[2]

_POOL = "main"
_WIDE_KBPS = 100_000.0
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12,
          2.11, 2.101, 2.093)  # fmt: skip
"""Student's t at 97.5 % by degrees of freedom, 1 to 19; beyond that the last one errs on the safe side."""


@dataclass(slots=True)
class ComparisonResult:
    """What one order came to on one workload.

    Attributes:
        asked: queries.
        answered: safely and in time.
        degraded: answered in time, not safely.
        expired: not answered in time.
        superseded: a newer frame took their place on the uplink.
        failed: no worker answered.
        weighted: share of the weight answered, by priority of the camera and :data:`AD_HOC_WEIGHT`.
        ad_hoc: share of the ad-hoc questions answered.
        wire_bytes: bytes on all uplinks.
        uplink_use: share of what the uplinks could have carried until the last deadline.
        longest_wait_s: longest wait for an uplink, of open messages and chunks that left.
        fairness_jain: of the shares answered, over the cameras.
        worst_camera: smallest of these shares.
    """

    asked: int
    answered: int
    degraded: int
    expired: int
    superseded: int
    failed: int
    weighted: float
    ad_hoc: float
    wire_bytes: int
    uplink_use: float
    longest_wait_s: float
    fairness_jain: float
    worst_camera: float

    @property
    def answered_per_kb(self) -> float:
        """Queries answered for each 1,000 bytes on the wire."""
        return 1000 * self.answered / max(1, self.wire_bytes)


@dataclass(slots=True)
class _Ledger:
    """What became of the queries; counts by camera and whether they were ad-hoc."""

    priorities: dict[str, float]
    asked: Counter[tuple[str, bool]] = field(default_factory=Counter)
    answered: Counter[tuple[str, bool]] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)

    def take(self, decision: Decision) -> None:
        """A query has ended."""
        self.outcomes[str(decision.outcome)] += 1
        self.asked[decision.camera, decision.ad_hoc] += 1
        self.answered[decision.camera, decision.ad_hoc] += decision.outcome is Outcome.ANSWERED

    def weighted(self) -> float:
        """Share of the weight that was answered."""
        answered, asked = (
            sum(
                n * self.priorities[camera] * (AD_HOC_WEIGHT if ad_hoc else 1.0) for (camera, ad_hoc), n in part.items()
            )
            for part in (self.answered, self.asked)
        )
        return answered / asked

    def ad_hoc(self) -> float:
        """Share of the ad-hoc questions that was answered."""
        answered, asked = (sum(n for (_, ad_hoc), n in part.items() if ad_hoc) for part in (self.answered, self.asked))
        return answered / max(1, asked)

    def by_camera(self) -> list[float]:
        """Share of each camera's queries that was answered."""
        return [
            (self.answered[camera, False] + self.answered[camera, True])
            / (self.asked[camera, False] + self.asked[camera, True])
            for camera in self.priorities
        ]


@dataclass(frozen=True, slots=True)
class Workload:
    """A plan with the rates that follow from it.

    Attributes:
        plan: what is asked.
        need_kbps: what each site sends when its uplink has no limit, over the time in which frames are captured.
    """

    plan: ComparisonPlan
    need_kbps: tuple[float, ...]

    @classmethod
    def measured(cls, plan: ComparisonPlan) -> Self:
        """Run the plan once on wide uplinks."""
        _, edges = _simulate(plan, [_WIDE_KBPS] * plan.sites, DepartureQueue)
        return cls(plan, tuple(edge.wire_bytes * 8 / 1000 / plan.duration_s for edge in edges))

    def run(self, order: Callable[[float | None], DepartureOrder]) -> ComparisonResult:
        """Run it on thin uplinks under an order, which is made from the rate of its uplink in kbps."""
        rates_kbps = [self.plan.uplink_share * kbps for kbps in self.need_kbps]
        return _result(self.plan, sum(rates_kbps), *_simulate(self.plan, rates_kbps, order))


def _simulate(
    plan: ComparisonPlan, rates_kbps: list[float], order: Callable[[float | None], DepartureOrder]
) -> tuple[_Ledger, list[EdgeActor]]:
    clock = VirtualClock()
    broker = BrokerModel(clock, random.Random(plan.seed + 1), LinkFaults(delay_s=0.03))
    sites = draw_sites(plan)
    cameras = [camera for site in sites for camera in site]
    model = ScoredModel(plan.seed, {camera.name: camera.evidence for camera in cameras})
    ledger = _Ledger({camera.name: camera.priority for camera in cameras})
    questions = sorted({question for camera in cameras for question, _ in camera.questions})
    known = published((_site(index) for index in range(plan.sites)), questions)
    for index in range(2 + plan.sites):
        draw = random.Random(plan.seed + 2 + index)
        spec = WorkerSpec(f"w{index}", _POOL, batch_s=0.02, frame_s=0.002, questions=known)
        WorkerActor(clock, broker, draw, spec, model, WorkerCallbacks()).start()
    callbacks = EdgeCallbacks(on_terminal=lambda _site, decision: ledger.take(decision))
    edges = []
    for index, members in enumerate(sites):
        edge = EdgeActor(clock, broker, _edge_spec(index, members, rates_kbps[index], order), callbacks)
        edge.start()
        edges.append(edge)
        for camera in members:
            schedule(clock, edge, camera, plan.duration_s)
    while (next_s := clock.next_s()) is not None and next_s <= _end_s(plan):
        clock.step()
    return ledger, edges


def _edge_spec(
    index: int,
    cameras: Sequence[WorkloadCamera],
    uplink_kbps: float,
    order: Callable[[float | None], DepartureOrder],
) -> EdgeSpec:
    return EdgeSpec(
        _site(index),
        _POOL,
        tuple(camera.name for camera in cameras),
        uplink_kbps=uplink_kbps,
        priorities={camera.name: camera.priority for camera in cameras},
        load_shedding=LoadSheddingSettings(floor=1.0),
        order=order,
    )


def _end_s(plan: ComparisonPlan) -> float:
    """When every deadline is over."""
    return plan.duration_s + max(DEADLINES_S) + 1.0


def _result(plan: ComparisonPlan, rate_kbps: float, ledger: _Ledger, edges: list[EdgeActor]) -> ComparisonResult:
    shares = ledger.by_camera()
    squares = sum(share**2 for share in shares)
    wire_bytes = sum(edge.wire_bytes for edge in edges)
    return ComparisonResult(
        asked=ledger.asked.total(),
        answered=ledger.outcomes["answered"],
        degraded=ledger.outcomes["degraded"],
        expired=ledger.outcomes["expired"],
        superseded=ledger.outcomes["superseded"],
        failed=ledger.outcomes["failed"],
        weighted=ledger.weighted(),
        ad_hoc=ledger.ad_hoc(),
        wire_bytes=wire_bytes,
        uplink_use=wire_bytes * 8 / 1000 / (rate_kbps * _end_s(plan)),
        longest_wait_s=max(edge.longest_wait_s for edge in edges),
        fairness_jain=sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0,
        worst_camera=min(shares),
    )


def _site(index: int) -> str:
    return f"site{index}"


# ---- many seeds ------------------------------------------------------------------------------------------------------


def compare(
    plans: Sequence[ComparisonPlan], shares: Iterable[float], progress: Callable[[], None] | None = None
) -> list[dict[str, Any]]:
    """Run every order on every plan, at every share of what the sites need.

    Args:
        plans: at least two that differ in their seeds, for the confidence intervals.
        shares: see :class:`ComparisonPlan`.
        progress: called after each run; there are ``len(plans) * (1 + len(shares) * len(ORDERS))`` of them.

    Returns:
        By share: means of every figure for each order, and for each baseline the ratio of ours to it, with its 95 %
        confidence interval over the plans.
    """
    told = progress or (lambda: None)
    workloads = []
    for plan in plans:
        workloads.append(Workload.measured(plan))
        told()
    rows = []
    for share in shares:
        results: dict[str, list[ComparisonResult]] = {name: [] for name in ORDERS}
        for workload in workloads:
            for name, order in ORDERS.items():
                results[name].append(replace(workload, plan=replace(workload.plan, uplink_share=share)).run(order))
                told()
        rows.append(
            {
                "uplink_share": share,
                "orders": {name: _means(runs) for name, runs in results.items()},
                "ratios": {name: _ratios(results[OURS], results[name]) for name in BASELINES},
            }
        )
    return rows


def _means(runs: list[ComparisonResult]) -> dict[str, float]:
    figures = [{**asdict(run), "answered_per_kb": run.answered_per_kb} for run in runs]
    means = {name: statistics.fmean(figure[name] for figure in figures) for name in figures[0]}
    means["longest_wait_s"] = max(run.longest_wait_s for run in runs)
    means["worst_camera"] = min(run.worst_camera for run in runs)
    return {name: round(value, 4) for name, value in means.items()}


def _ratios(ours: list[ComparisonResult], theirs: list[ComparisonResult]) -> dict[str, dict[str, float] | None]:
    return {
        name: ratio_with_interval(
            [getattr(run, name) for run in ours],
            [getattr(run, name) for run in theirs],
        )
        for name in ("answered", "answered_per_kb", "weighted", "wire_bytes")
    }


def ratio_with_interval(ours: list[float], theirs: list[float]) -> dict[str, float] | None:
    """Geometric mean of paired ratios, with its 95 % confidence interval (Student's t on their logarithms).

    Returns:
        ``ratio``, ``low`` and ``high``; None when an order came to nothing, which has no ratio.
    """
    if min(*ours, *theirs) <= 0:
        return None
    logs = [math.log(mine / other) for mine, other in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(logs)
    spread = 0.0
    if len(logs) > 1:
        quantile = _T_975[min(len(logs) - 1, len(_T_975)) - 1]
        spread = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    return {
        "ratio": round(math.exp(mean), 4),
        "low": round(math.exp(mean - spread), 4),
        "high": round(math.exp(mean + spread), 4),
    }
