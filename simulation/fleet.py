"""What a large fleet would do: the real machines, no faults but one, and figures for planning."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.protocol.effects import AskedQuery, Decision
from pipeline.protocol.load_shedding import LoadSheddingSettings
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_schedule import Schedule
from pipeline.protocol.worker_throughput import ThroughputEstimate
from schemas.errors import ConfigError
from schemas.messages import Message, Question
from schemas.types import Outcome
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.content import SimulatedModel
from simulation.edge_actor import EdgeActor
from simulation.links import LinkFaults
from simulation.questions import published, standing
from simulation.specs import EdgeCallbacks, EdgeSpec, WorkerCallbacks, WorkerSpec
from simulation.worker_actor import WorkerActor

_POOL = "main"
MAX_BATCH_FRAMES = 16
_WARM_UP_SHARE = 0.2
_LOAD_EVERY_S = 5.0
"""Loads go to every worker, so their number grows with the square of the pool; a large one reports them less often."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A fleet to simulate.

    Attributes:
        cameras: cameras in all.
        workers: workers in the pool.
        site_kbps: uplink of a site.
        cameras_per_site: cameras that share it.
        interval_s: time between frames of a camera.
        questions: standing questions of a camera.
        deadline_s: deadline of each.
        batch_ms: time of a batch beside its frames, on one worker.
        frame_ms: time of a frame in a batch.
        duration_s: virtual time.
        lost_share: share of the workers that dies at half time.
        seed: decides the rest.
    """

    cameras: int = 100
    workers: int = 4
    site_kbps: float = 1000.0
    cameras_per_site: int = 20
    interval_s: float = 5.0
    questions: int = 3
    deadline_s: float = 10.0
    batch_ms: float = 40.0
    frame_ms: float = 15.0
    duration_s: float = 60.0
    lost_share: float = 0.25
    seed: int = 1

    def check(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            ConfigError: a number is out of range.
        """
        for name in ("cameras", "workers", "cameras_per_site", "questions"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"{getattr(self, name)} is not 1 or more")
        for name in ("site_kbps", "interval_s", "deadline_s", "duration_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"{getattr(self, name)} is not above 0")
        if not 0 <= self.lost_share < 1:
            raise ConfigError("lost_share", f"{self.lost_share} is not in [0, 1)")


class SimulatedFleet:
    """Clock, broker, workers and edges of a plan; who uses it brings the workload.

    Args:
        plan: the fleet.
        callbacks: of every edge.
        schedule: makes the rule by which workers order their frames.
        load_shedding: how edges give way to an overloaded pool.
    """

    def __init__(
        self,
        plan: FleetPlan,
        callbacks: EdgeCallbacks,
        *,
        schedule: Callable[[WorkerProtocolSettings, ThroughputEstimate], Schedule] = Schedule,
        load_shedding: LoadSheddingSettings | None = None,
    ) -> None:
        plan.check()
        self.draw = random.Random(plan.seed)
        self.clock = VirtualClock()
        self.broker = BrokerModel(self.clock, random.Random(plan.seed + 1), LinkFaults(delay_s=0.02))
        self.questions = tuple(f"q{index}" for index in range(plan.questions))
        sites = {
            f"site{first}": tuple(
                f"cam{index}" for index in range(first, min(first + plan.cameras_per_site, plan.cameras))
            )
            for first in range(0, plan.cameras, plan.cameras_per_site)
        }
        known = published(sites, self.questions)
        self.workers = [self._worker(plan, index, known, schedule) for index in range(plan.workers)]
        self.edges = [
            EdgeActor(
                self.clock,
                self.broker,
                EdgeSpec(site, _POOL, cameras, uplink_kbps=plan.site_kbps, load_shedding=load_shedding),
                callbacks,
            )
            for site, cameras in sites.items()
        ]

    def _worker(
        self,
        plan: FleetPlan,
        index: int,
        known: tuple[Question, ...],
        schedule: Callable[[WorkerProtocolSettings, ThroughputEstimate], Schedule],
    ) -> WorkerActor:
        spec = WorkerSpec(
            f"w{index}",
            _POOL,
            batch_s=plan.batch_ms / 1000,
            frame_s=plan.frame_ms / 1000,
            settings=WorkerProtocolSettings(load_interval_s=_LOAD_EVERY_S, load_on_change_s=_LOAD_EVERY_S),
            questions=known,
            schedule=schedule,
            max_batch_frames=MAX_BATCH_FRAMES,
        )
        draw = random.Random(self.draw.random())
        return WorkerActor(self.clock, self.broker, draw, spec, SimulatedModel(plan.seed), WorkerCallbacks())

    def start(self) -> None:
        """Every process starts."""
        for worker in self.workers:
            worker.start()
        for edge in self.edges:
            edge.start()

    def standing(self, site: str, deadline_s: float) -> list[AskedQuery]:
        """The standing questions of a frame of a site that is captured now."""
        return [AskedQuery(standing(site, question), self.clock.now_s + deadline_s) for question in self.questions]

    def run_until(self, end_s: float, progress: Callable[[float], None] | None = None) -> None:
        """Run all events up to a time; ``progress`` is called about once a virtual second."""
        next_progress_s = self.clock.now_s + 1.0
        while (next_s := self.clock.next_s()) is not None and next_s <= end_s:
            self.clock.step()
            if progress is not None and self.clock.now_s >= next_progress_s:
                progress(self.clock.now_s)
                next_progress_s = self.clock.now_s + 1.0


class FleetSimulation:
    """One run of a plan, with standing questions alone.

    Args:
        plan: the fleet.
        progress: called about once a virtual second with the time that has passed.
    """

    def __init__(self, plan: FleetPlan, progress: Callable[[float], None] | None = None) -> None:
        self._plan = plan
        self._progress = progress
        self._fleet = SimulatedFleet(plan, EdgeCallbacks(on_query=self._query, on_terminal=self._terminal))
        self._clock = self._fleet.clock
        self._fleet.broker.observers.append(self._count)
        self._published = 0
        self._asked: dict[str, float] = {}
        self._outcomes: Counter[str] = Counter()
        self._latencies_s: list[float] = []
        self._answered_at_s: list[float] = []
        self._by_camera: Counter[str] = Counter()
        self._lost: list[str] = []

    def run(self) -> dict[str, Any]:
        """Run the plan.

        Returns:
            Figures by name; times in seconds or milliseconds as their names say.
        """
        plan = self._plan
        self._fleet.start()
        for edge in self._fleet.edges:
            for camera in edge.cameras:
                start_s = 1.0 + self._fleet.draw.random() * plan.interval_s
                self._clock.at(start_s, partial(self._capture, edge, camera))
        if plan.lost_share:
            self._clock.at(plan.duration_s / 2, self._lose_workers)
        self._fleet.run_until(plan.duration_s + plan.deadline_s + 1.0, self._progress)
        return self._figures()

    # ---- events -----------------------------------------------------------------------------------------------------

    def _capture(self, edge: EdgeActor, camera: str) -> None:
        if self._clock.now_s >= self._plan.duration_s:
            return
        edge.capture(camera, self._fleet.standing(edge.site, self._plan.deadline_s))
        self._clock.after(self._plan.interval_s, partial(self._capture, edge, camera))

    def _lose_workers(self) -> None:
        for worker in self._fleet.workers[: round(self._plan.workers * self._plan.lost_share)]:
            worker.crash()
            self._lost.append(worker.name)

    def _query(self, _site: str, query_id: str, _deadline_s: float, _ad_hoc: bool) -> None:
        self._asked[query_id] = self._clock.now_s

    def _terminal(self, _site: str, decision: Decision) -> None:
        asked_s = self._asked.pop(decision.query_id)
        self._outcomes[str(decision.outcome)] += 1
        if decision.outcome is Outcome.ANSWERED:
            self._by_camera[decision.camera] += 1
            self._answered_at_s.append(self._clock.now_s)
            if asked_s >= self._plan.duration_s * _WARM_UP_SHARE:
                self._latencies_s.append(self._clock.now_s - asked_s)

    def _count(self, _topic: str, _message: Message) -> None:
        self._published += 1

    # ---- figures ----------------------------------------------------------------------------------------------------

    def _figures(self) -> dict[str, Any]:
        plan = self._plan
        answered = self._outcomes["answered"]
        shares = np.array([self._by_camera[camera] for edge in self._fleet.edges for camera in edge.cameras], float)
        latencies = np.array(self._latencies_s or [float("nan")])
        wire_bytes = sum(edge.wire_bytes for edge in self._fleet.edges)
        queries = sum(self._outcomes.values())
        busy_s = sum(worker.busy_s for worker in self._fleet.workers)
        return {
            "cameras": plan.cameras,
            "workers": plan.workers,
            "sites": len(self._fleet.edges),
            "queries": queries,
            "outcomes": dict(sorted(self._outcomes.items())),
            "unfinished": len(self._asked),
            "answered_per_s": round(answered / plan.duration_s, 2),
            "answer_ms_p50": round(1000 * float(np.percentile(latencies, 50)), 1),
            "answer_ms_p95": round(1000 * float(np.percentile(latencies, 95)), 1),
            "answer_ms_p99": round(1000 * float(np.percentile(latencies, 99)), 1),
            "uplink_wire_bytes_per_question": round(wire_bytes / max(1, queries), 1),
            "uplink_use": round(wire_bytes * 8 / (len(self._fleet.edges) * plan.site_kbps * 1000 * plan.duration_s), 4),
            "pool_use": round(busy_s / (plan.workers * plan.duration_s), 4),
            "fairness_jain": round(float(shares.sum() ** 2 / (len(shares) * (shares**2).sum())), 4)
            if answered
            else 0.0,
            "workers_lost": len(self._lost),
            "recovery_s": self._recovery_s(),
            "broker_publishes_per_s": round(self._published / plan.duration_s, 1),
            "events": self._clock.handled,
        }

    def _recovery_s(self) -> float | None:
        """Time from the loss of workers until the rate of answers is back at 95 % of what it was, over two seconds."""
        if not self._lost:
            return None
        loss_s = self._plan.duration_s / 2
        times = np.array(self._answered_at_s)
        start_s = self._plan.duration_s * _WARM_UP_SHARE
        before_hz = ((times >= start_s) & (times < loss_s)).sum() / (loss_s - start_s)
        for after_s in np.arange(0.0, self._plan.duration_s / 2 - 2.0, 0.1):
            window = (times >= loss_s + after_s) & (times < loss_s + after_s + 2.0)
            if window.sum() / 2.0 >= 0.95 * before_hz:
                return round(float(after_s), 1)
        return None
