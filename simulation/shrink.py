"""The smallest episode that still breaks the same rule, so that a person can read what happened.

Delta debugging (Zeller and Hildebrandt, 2002) over the lists of a plan: leave out parts, keep what still fails. The
same plan shrinks to the same one, and the effort is bounded by events, not by time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from simulation.episode import Episode, EpisodeReport
from simulation.plan import EpisodePlan, without

MAX_EVENTS = 1_000_000
"""About half a minute."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A smaller episode.

    Attributes:
        plan: what is left.
        report: of its run, with a trace.
        runs: episodes that were tried.
    """

    plan: EpisodePlan
    report: EpisodeReport
    runs: int

    def summary(self) -> str:
        """What is left, in a line."""
        plan = self.plan
        queries = sum(len(frame.questions) for frame in plan.frames) + len(plan.asks)
        parts = {"sites": plan.sites, "workers": plan.workers, "faults": plan.faults}
        counted = [f"{len(items)} {name[:-1] if len(items) == 1 else name}" for name, items in parts.items()]
        return ", ".join([*counted, f"{queries} {'query' if queries == 1 else 'queries'}"])


def shrink(plan: EpisodePlan, *, max_events: int = MAX_EVENTS) -> Shrunk:
    """Leave out what is not needed to break the rule that a plan breaks first.

    Args:
        plan: an episode that breaks a rule.
        max_events: no further attempt after so many events.

    Raises:
        ValueError: the plan breaks none.
    """
    search = _Search(plan, max_events)
    search.run()
    report = Episode(search.best, trace=True, stop_at_first=True).run()
    return Shrunk(search.best, report, search.runs)


class _Search:
    def __init__(self, plan: EpisodePlan, max_events: int) -> None:
        report = Episode(plan, stop_at_first=True).run()
        if not report.violations:
            raise ValueError(f"episode {plan.seed} breaks no rule")
        self.best = plan
        self.runs = 1
        self._rule = report.violations[0].rule
        self._events_left = max_events - report.events
        self._drop_later(report.violations[0].time_s)

    def run(self) -> None:
        """Go over all lists until nothing more can be left out."""
        size = -1
        while size != self._size() and self._events_left > 0:
            size = self._size()
            self._reduce(lambda plan: plan.sites, lambda plan, sites: without(plan, sites=sites))
            self._reduce(lambda plan: plan.faults, lambda plan, faults: replace(plan, faults=faults))
            self._reduce(lambda plan: plan.workers, lambda plan, workers: without(plan, workers=workers))
            self._reduce(lambda plan: plan.frames, lambda plan, frames: replace(plan, frames=frames))
            self._reduce(lambda plan: plan.asks, lambda plan, asks: replace(plan, asks=asks))
            self._reduce(lambda plan: plan.changes, lambda plan, changes: replace(plan, changes=changes))
            self._ask_less()

    def _size(self) -> int:
        plan = self.best
        questions = sum(len(frame.questions) for frame in plan.frames)
        return len(plan.sites) + len(plan.workers) + len(plan.asks) + len(plan.changes) + len(plan.faults) + questions

    def _fails(self, plan: EpisodePlan) -> bool:
        """Try a plan; keep it when it breaks the same rule."""
        # Without anybody who could answer, queries end badly for another reason than in the whole episode.
        if self._events_left <= 0 or all(worker.foreign for worker in plan.workers):
            return False
        report = Episode(plan, stop_at_first=True).run()
        self.runs += 1
        self._events_left -= max(1, report.events)
        if not report.violations or report.violations[0].rule != self._rule:
            return False
        self.best = plan
        return True

    def _drop_later(self, time_s: float) -> None:
        """What begins after the rule was broken has no part in it."""
        plan = self.best
        self._fails(
            replace(
                plan,
                frames=tuple(frame for frame in plan.frames if frame.time_s <= time_s),
                asks=tuple(ask for ask in plan.asks if ask.time_s <= time_s),
                changes=tuple(change for change in plan.changes if change.time_s <= time_s),
                faults=tuple(fault for fault in plan.faults if fault.start_s <= time_s),
            )
        )

    def _reduce(
        self,
        items_of: Callable[[EpisodePlan], Sequence[_Item]],
        with_items: Callable[[EpisodePlan, tuple[_Item, ...]], EpisodePlan],
    ) -> None:
        """Leave out runs of a list: half of it first, single items last."""
        length = len(items_of(self.best))
        while length > 0:
            start = 0
            while start < len(items := items_of(self.best)):
                rest = (*items[:start], *items[start + length :])
                if not self._fails(with_items(self.best, rest)):
                    start += length
            length //= 2

    def _ask_less(self) -> None:
        """One question a frame, if that will do."""
        for index, frame in enumerate(self.best.frames):
            for question in frame.questions if len(frame.questions) > 1 else ():
                frames = list(self.best.frames)
                frames[index] = replace(frame, questions=(question,))
                if self._fails(replace(self.best, frames=tuple(frames))):
                    break
