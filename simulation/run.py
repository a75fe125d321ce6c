"""Many episodes from one seed, until enough events were handled; what they came to, and which moves they visited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.protocol.edge_frame import EDGE_TRANSITIONS, EdgeEvent, EdgeFrame
from pipeline.protocol.worker_frame import WORKER_TRANSITIONS, WorkerEvent, WorkerFrame
from simulation.draw_plan import draw_plan
from simulation.episode import Episode, EpisodeReport
from simulation.invariant_checker import Violation

_EPISODES_A_SEED = 1_000_000


@dataclass(slots=True)
class SimulationReport:
    """What a run came to; everything in it follows from the seed.

    Attributes:
        seed: of the run.
        events: deliveries, losses, timers and faults that real sessions handled.
        episodes: fleets simulated.
        virtual_s: virtual time in all.
        asked: queries.
        outcomes: terminals by kind, after the reducer.
        healthy_asked: queries of the episodes in which nothing broke.
        healthy_answered: those among them that were answered.
        faults: faults by kind.
        counters: of sessions and brokers.
        violations: broken invariants, with the seed of their episode.
        transitions_unvisited: rows of the two tables that no episode went through.
    """

    seed: int
    events: int = 0
    episodes: int = 0
    virtual_s: float = 0.0
    asked: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    healthy_asked: int = 0
    healthy_answered: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, Violation]] = field(default_factory=list)
    transitions_unvisited: list[str] = field(default_factory=list)

    def add(self, episode: EpisodeReport) -> None:
        """Take an episode in."""
        self.events += episode.events
        self.episodes += 1
        self.virtual_s += episode.virtual_s
        self.asked += episode.asked
        self.outcomes.update(episode.outcomes)
        if episode.healthy:
            self.healthy_asked += episode.asked
            self.healthy_answered += episode.outcomes["answered"]
        self.faults.update(episode.faults)
        self.counters.update(episode.counters)
        self.violations += [(episode.seed, violation) for violation in episode.violations]

    def to_json(self) -> dict[str, Any]:
        """The report for a file: the same bytes for the same seed."""
        return {
            "seed": self.seed,
            "events": self.events,
            "episodes": self.episodes,
            "virtual_s": round(self.virtual_s, 3),
            "asked": self.asked,
            "outcomes": dict(sorted(self.outcomes.items())),
            "healthy": {"asked": self.healthy_asked, "answered": self.healthy_answered},
            "violations": len(self.violations),
            "violated": [
                {
                    "episode": seed,
                    "rule": v.rule,
                    "time_s": round(v.time_s, 3),
                    "subject": v.subject,
                    "problem": v.problem,
                }
                for seed, v in self.violations
            ],
            "transitions_unvisited": self.transitions_unvisited,
            "faults": dict(sorted(self.faults.items())),
            "counters": dict(sorted(self.counters.items())),
        }


def simulate(
    *, seed: int, events: int, progress: Callable[[SimulationReport], None] | None = None, stop_at_first: bool = False
) -> SimulationReport:
    """Run episodes until so many events were handled.

    Args:
        seed: decides everything.
        events: at least so many.
        progress: called after each episode.
        stop_at_first: end with the first episode that breaks an invariant.
    """
    report = SimulationReport(seed)
    with record_moves() as visited:
        for index in range(_EPISODES_A_SEED):
            report.add(Episode(draw_plan(episode_seed(seed, index)), stop_at_first=stop_at_first).run())
            if progress is not None:
                progress(report)
            if report.events >= events or (stop_at_first and report.violations):
                break
    report.transitions_unvisited = [
        f"{stage} on {event}"
        for stage, event in (*EDGE_TRANSITIONS, *WORKER_TRANSITIONS)
        if (stage, event) not in visited
    ]
    return report


def episode_seed(seed: int, index: int) -> int:
    """Seed of one episode of a run, so that it can be replayed alone."""
    return seed * _EPISODES_A_SEED + index


@contextmanager
def record_moves() -> Iterator[set[tuple[object, EdgeEvent | WorkerEvent]]]:
    """Collect the rows of the transition tables that frames go through inside the context."""
    visited: set[tuple[object, EdgeEvent | WorkerEvent]] = set()
    edge_move, worker_move = EdgeFrame.move, WorkerFrame.move

    def spy_edge(self: EdgeFrame, event: EdgeEvent) -> None:
        visited.add((self.stage, event))
        edge_move(self, event)

    def spy_worker(self: WorkerFrame, event: WorkerEvent) -> None:
        visited.add((self.stage, event))
        worker_move(self, event)

    EdgeFrame.move, WorkerFrame.move = spy_edge, spy_worker  # type: ignore[method-assign]
    try:
        yield visited
    finally:
        EdgeFrame.move, WorkerFrame.move = edge_move, worker_move  # type: ignore[method-assign]
