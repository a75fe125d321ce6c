"""More work than the pool can do: a calm phase, a peak, and a calm phase again, with the rule and without it.

The rule is that of :mod:`pipeline.protocol.worker_schedule` at the workers and :mod:`pipeline.protocol.load_shedding`
at the edges. Without it workers take what fits and serve the earliest deadline first, and edges ask on as if all was
well.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np

from pipeline.protocol.effects import Decision
from pipeline.protocol.load_shedding import LoadSheddingSettings
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery
from pipeline.protocol.worker_schedule import Picked, PlannedPass, Schedule
from schemas import topics
from schemas.errors import ConfigError
from schemas.messages import Ask
from schemas.types import Outcome
from simulation.content import LADDER, SimulatedModel
from simulation.edge_actor import EdgeActor
from simulation.fleet import MAX_BATCH_FRAMES, FleetPlan, SimulatedFleet
from simulation.specs import EdgeCallbacks

PHASES: Final = ("before", "peak", "after")
WARM_UP_S: Final = 15.0
_CLIENT = "client"
_SAMPLE_S = 0.1
_RECOVERED_SHARE = 0.95
_RECOVERY_WINDOW_S = 5.0
_MEASURED_QUERIES = 6_000


@dataclass(frozen=True, slots=True)
class OverloadPlan:
    """An overload.

    Attributes:
        fleet: the fleet; its interval follows from the load, its duration from the phases, and it loses no worker.
        calm_load: load before and after the peak, as a multiple of the pool's capacity.
        peak_load: load at the peak.
        ad_hoc_share: share of the load that ad-hoc questions make up, in every phase.
        calm_s: length of the phase before the peak, without the warm-up.
        peak_s: length of the peak.
        after_s: length of the phase after it.
        rule: False switches the rule off, for comparison.
    """

    fleet: FleetPlan = field(default_factory=FleetPlan)
    calm_load: float = 0.8
    peak_load: float = 3.0
    ad_hoc_share: float = 0.05
    calm_s: float = 60.0
    peak_s: float = 120.0
    after_s: float = 120.0
    rule: bool = True

    def check(self) -> None:
        """Refuse what is no overload.

        Raises:
            ConfigError: a number is out of range.
        """
        if not 0 < self.calm_load < 1 <= self.peak_load <= 100:
            raise ConfigError("overload", f"calm at {self.calm_load} and peak at {self.peak_load} times the capacity")
        if not 0 <= self.ad_hoc_share * self.peak_load < 1:
            raise ConfigError("overload", "ad-hoc questions alone would fill the pool: nothing could give way to them")
        for name in ("calm_s", "peak_s", "after_s"):
            if getattr(self, name) < 2 * _RECOVERY_WINDOW_S:
                raise ConfigError(name, f"{getattr(self, name)} s are under {2 * _RECOVERY_WINDOW_S:g}")


class EarliestDeadlineFirst(Schedule):
    """What a worker without the rule does: everything is taken, and the earliest deadline goes first."""

    def pick(
        self,
        parked: Sequence[WorkerFrame],
        max_frames: int,
        now_s: float,  # noqa: ARG002
        *,
        max_work: float = math.inf,  # noqa: ARG002
        frame_work: int = 1,
    ) -> Picked:
        """See :class:`~pipeline.protocol.worker_schedule.Schedule`."""
        first = sorted(parked, key=WorkerFrame.first_deadline_s)[:max_frames]
        return Picked([PlannedPass.whole(frame, frame_work) for frame in first], [])

    def admits(self, queries: Iterable[WorkerQuery], ahead: int, now_s: float) -> bool:  # noqa: ARG002
        """See :class:`~pipeline.protocol.worker_schedule.Schedule`."""
        return True

    def displaced(self, frames: Iterable[WorkerFrame]) -> WorkerFrame | None:  # noqa: ARG002
        """See :class:`~pipeline.protocol.worker_schedule.Schedule`."""
        return None


@dataclass(slots=True)
class _Tally:
    """What became of the queries of one kind that were asked in one phase."""

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)

    def to_json(self, shed: int) -> dict[str, Any]:
        asked = self.outcomes.total()
        latencies = np.array(self.latencies_s or [float("nan")])
        return {
            "wanted": asked + shed,
            "shed": shed,
            "asked": asked,
            "answered_in_time": self.outcomes["answered"],
            **{str(outcome): self.outcomes[outcome] for outcome in Outcome if outcome is not Outcome.ANSWERED},
            "answered_of_asked": round(self.outcomes["answered"] / asked, 4) if asked else None,
            "degraded_of_asked": round(self.outcomes["degraded"] / asked, 4) if asked else None,
            **{
                f"answer_ms_p{p}": round(1000 * float(np.percentile(latencies, p)), 1) if self.latencies_s else None
                for p in (50, 95, 99)
            },
        }


class OverloadSimulation:
    """One run of a plan.

    Args:
        plan: the overload.
        progress: called about once a virtual second with the time that has passed.
    """

    def __init__(self, plan: OverloadPlan, progress: Callable[[float], None] | None = None) -> None:
        plan.check()
        self._plan = plan
        self._progress = progress
        self._fleet = SimulatedFleet(
            plan.fleet,
            EdgeCallbacks(on_query=self._query, on_terminal=self._terminal),
            schedule=Schedule if plan.rule else EarliestDeadlineFirst,
            load_shedding=None if plan.rule else LoadSheddingSettings(floor=1.0),
        )
        self._clock = self._fleet.clock
        passes_hz = (
            plan.fleet.workers * MAX_BATCH_FRAMES / (plan.fleet.batch_ms + plan.fleet.frame_ms * MAX_BATCH_FRAMES)
        )
        self._capacity_passes_hz = 1000 * passes_hz
        self._frame_passes = expected_passes(plan.fleet.seed, plan.fleet.questions)
        self._ask_passes = expected_passes(plan.fleet.seed, 1)
        self._starts_s = (WARM_UP_S, WARM_UP_S + plan.calm_s, WARM_UP_S + plan.calm_s + plan.peak_s)
        self._end_s = self._starts_s[2] + plan.after_s
        self._asked: dict[str, tuple[float, bool]] = {}
        self._tallies: dict[tuple[str, bool], _Tally] = {(p, k): _Tally() for p in PHASES for k in (False, True)}
        self._shed: Counter[str] = Counter()
        self._answered_at_s: list[float] = []
        self._wanted_in_s: Counter[int] = Counter()
        self._answered_in_s: Counter[int] = Counter()
        self._most_held: Counter[str] = Counter()
        self._most_waiting: Counter[str] = Counter()
        self._shares: dict[str, list[float]] = {phase: [] for phase in PHASES}
        self._busy_s: defaultdict[str, float] = defaultdict(float)
        self._skipped_before = 0
        self._busy_before_s = 0.0
        self._asks = 0

    def run(self) -> dict[str, Any]:
        """Run the plan.

        Returns:
            Figures by name; times in seconds or milliseconds as their names say.
        """
        fleet = self._fleet
        fleet.start()
        for edge in fleet.edges:
            for camera in edge.cameras:
                self._clock.at(1.0, partial(self._capture, edge, camera, 0.0))
        self._clock.at(1.0, self._ask)
        self._clock.at(1.0, self._sample)
        fleet.run_until(self._end_s + self._plan.fleet.deadline_s + 1.0, self._progress)
        return self._figures()

    # ---- workload ---------------------------------------------------------------------------------------------------

    def _load(self) -> float:
        peak = self._phase(self._clock.now_s) == "peak"
        return self._plan.peak_load if peak else self._plan.calm_load

    def _interval_s(self) -> float:
        """Time between frames of a camera that makes the load of this phase."""
        standing_passes_hz = self._capacity_passes_hz * self._load() * (1 - self._plan.ad_hoc_share)
        return self._plan.fleet.cameras * self._frame_passes / standing_passes_hz

    def _capture(self, edge: EdgeActor, camera: str, before_s: float) -> None:
        """A slot of a camera whose slots were so far apart until now."""
        if self._clock.now_s >= self._end_s:
            return
        interval_s = self._interval_s()
        if interval_s == before_s:
            edge.capture(camera, self._fleet.standing(edge.site, self._plan.fleet.deadline_s))
            wait_s = interval_s
        else:
            # Cameras spread over the new interval; bunched as before they would make a peak of their own.
            wait_s = self._fleet.draw.random() * interval_s
        self._clock.after(wait_s, partial(self._capture, edge, camera, interval_s))

    def _ask(self) -> None:
        if self._clock.now_s >= self._end_s or not self._plan.ad_hoc_share:
            return
        draw = self._fleet.draw
        camera = f"cam{draw.randrange(self._plan.fleet.cameras)}"
        deadline_ms = round(1000 * self._plan.fleet.deadline_s)
        ask = Ask(query_id=f"ask-{self._asks}", text="?", deadline_ms=deadline_ms)
        self._asks += 1
        self._fleet.broker.publish(_CLIENT, topics.ask_topic(camera, _CLIENT), ask, qos=1)
        rate_hz = self._capacity_passes_hz * self._load() * self._plan.ad_hoc_share / self._ask_passes
        self._clock.after(draw.expovariate(rate_hz), self._ask)

    # ---- what is seen -----------------------------------------------------------------------------------------------

    def _phase(self, time_s: float) -> str:
        """Phase of a time; the warm-up and the end are none of them."""
        if not self._starts_s[0] <= time_s < self._end_s:
            return ""
        return PHASES[sum(time_s >= start_s for start_s in self._starts_s) - 1]

    def _query(self, _site: str, query_id: str, _deadline_s: float, ad_hoc: bool) -> None:
        self._asked[query_id] = (self._clock.now_s, ad_hoc)
        self._wanted_in_s[int(self._clock.now_s)] += not ad_hoc

    def _terminal(self, _site: str, decision: Decision) -> None:
        asked_s, ad_hoc = self._asked.pop(decision.query_id)
        if decision.outcome is Outcome.ANSWERED and not ad_hoc:
            self._answered_at_s.append(self._clock.now_s)
            self._answered_in_s[int(asked_s)] += 1
        tally = self._tallies.get((self._phase(asked_s), ad_hoc))
        if tally is not None:
            tally.outcomes[str(decision.outcome)] += 1
            if decision.outcome is Outcome.ANSWERED:
                tally.latencies_s.append(self._clock.now_s - asked_s)

    def _sample(self) -> None:
        phase = self._phase(self._clock.now_s)
        edges, workers = self._fleet.edges, self._fleet.workers
        held = max(worker.session.unfinished() for worker in workers)
        waiting = max(len(edge.session.frames.undecided()) + edge.backlog() for edge in edges)
        self._most_held[phase] = max(self._most_held[phase], held)
        self._most_waiting[phase] = max(self._most_waiting[phase], waiting)
        skipped = sum(edge.session.load_shedding.skipped.total() for edge in edges)
        busy_s = sum(worker.busy_s for worker in workers)
        shed = (skipped - self._skipped_before) * self._plan.fleet.questions
        self._shed[phase] += shed
        self._wanted_in_s[int(self._clock.now_s - _SAMPLE_S / 2)] += shed
        self._busy_s[phase] += busy_s - self._busy_before_s
        self._skipped_before, self._busy_before_s = skipped, busy_s
        if phase:
            self._shares[phase].append(float(np.mean([edge.session.load_shedding.share for edge in edges])))
        if self._clock.now_s < self._end_s:
            self._clock.after(_SAMPLE_S, self._sample)

    # ---- figures ----------------------------------------------------------------------------------------------------

    def _figures(self) -> dict[str, Any]:
        plan = self._plan
        lengths_s = dict(zip(PHASES, (plan.calm_s, plan.peak_s, plan.after_s), strict=True))
        counters = sum((worker.session.counters for worker in self._fleet.workers), Counter[str]())
        names = ("busy", "standing_not_admitted", "standing_too_late", "standing_finalised_early", "standing_displaced",
                 "handovers_sent", "accepts")  # fmt: skip
        return {
            "rule": "on" if plan.rule else "off",
            "cameras": plan.fleet.cameras,
            "workers": plan.fleet.workers,
            "deadline_s": plan.fleet.deadline_s,
            "capacity_passes_per_s": round(self._capacity_passes_hz, 1),
            "passes_per_frame": round(self._frame_passes, 3),
            "load": {phase: plan.peak_load if phase == "peak" else plan.calm_load for phase in PHASES},
            "standing": {
                phase: self._tallies[phase, False].to_json(self._shed[phase])
                | {"answered_per_s": round(self._answered_hz(phase), 2)}
                for phase in PHASES
            },
            "ad_hoc": {phase: self._tallies[phase, True].to_json(0) for phase in PHASES},
            "standing_share": {phase: round(float(np.mean(self._shares[phase])), 3) for phase in PHASES},
            "model_busy": {
                phase: round(self._busy_s[phase] / (plan.fleet.workers * lengths_s[phase]), 2) for phase in PHASES
            },
            "most_frames_at_a_worker": {phase: self._most_held[phase] for phase in PHASES},
            "most_frames_and_messages_at_an_edge": {phase: self._most_waiting[phase] for phase in PHASES},
            "recovery_s": self._recovery_s(),
            "undecided": len(self._asked),
            "worker_events": {name: counters[name] for name in names},
            "events": self._clock.handled,
        }

    def _answered_hz(self, phase: str) -> float:
        """Standing answers in time a second, by when they came."""
        times = np.array(self._answered_at_s)
        index = PHASES.index(phase)
        start_s, end_s = self._starts_s[index], (*self._starts_s, self._end_s)[index + 1]
        return float(((times >= start_s) & (times < end_s)).sum() / (end_s - start_s))

    def _recovery_s(self) -> float | None:
        """Time from the end of the peak until standing questions are answered as before it, and go on to be.

        The first second from which on, in every window of some seconds, as large a share of the standing questions that
        the cameras' intervals want is answered in time as before the peak; None when there is none.
        """

        def answered_share(start_s: float, end_s: float) -> float:
            seconds = range(round(start_s), round(end_s))
            wanted = sum(self._wanted_in_s[second] for second in seconds)
            return sum(self._answered_in_s[second] for second in seconds) / max(1, wanted)

        enough = _RECOVERED_SHARE * answered_share(self._starts_s[0], self._starts_s[1])
        recovered_s = None
        for start_s in range(round(self._end_s - _RECOVERY_WINDOW_S), round(self._starts_s[2]) - 1, -1):
            if answered_share(start_s, start_s + _RECOVERY_WINDOW_S) < enough:
                break
            recovered_s = round(start_s - self._starts_s[2], 1)
        return recovered_s


def expected_passes(seed: int, questions: int) -> float:
    """Passes over a frame with so many questions until the last one is safe, when nothing hurries."""
    model = SimulatedModel(seed)
    draw = random.Random(seed)
    frames = _MEASURED_QUERIES // questions
    rungs = [max(LADDER.index(model.needed(f"{draw.random()}")) for _ in range(questions)) + 1 for _ in range(frames)]
    return float(np.mean(rungs))
