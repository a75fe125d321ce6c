"""What a soak came to: memory of its processes, faults, and what became of every question."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.markdown import figures as tables
from analysis.markdown import table
from benchmarks.soak_outcomes import AtRest, Ends
from schemas.types import Outcome

MAX_DRIFT_PERCENT: Final = 5.0
KB_IN_MB: Final = 1024.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory of a process at a moment, in MiB.

    Attributes:
        at_s: since the start of the run.
        rss: resident.
        pss: resident, with what is shared divided by those who share it.
        uss: resident and its own.
    """

    at_s: float
    rss: float
    pss: float
    uss: float


@dataclass(slots=True)
class Watched:
    """A process and what was seen of it.

    Attributes:
        name: for people.
        pid: process id.
        samples: in the order of time.
    """

    name: str
    pid: int
    samples: list[Sample] = field(default_factory=list)

    def sample(self, at_s: float) -> None:
        """Look at it now."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]
        kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        own = kb["Private_Clean"] + kb["Private_Dirty"]
        self.samples.append(Sample(at_s, kb["Rss"] / KB_IN_MB, kb["Pss"] / KB_IN_MB, own / KB_IN_MB))


@dataclass(frozen=True, slots=True)
class Trend:
    """What became of the memory of a process after the warm-up, in MiB.

    Attributes:
        start_mb: resident, by the fitted line.
        end_mb: the same at the end.
        max_mb: largest resident of all samples.
        own_start_mb: unshared, by its fitted line.
        own_end_mb: the same at the end.
        drift_percent: change of the resident memory by the fitted line.
    """

    start_mb: float
    end_mb: float
    max_mb: float
    own_start_mb: float
    own_end_mb: float
    drift_percent: float


def trend(samples: list[Sample], warm_up_s: float) -> Trend:
    """Fit straight lines to what came after the warm-up.

    Args:
        samples: at least two of them after it.
        warm_up_s: length of the warm-up.
    """
    late = [sample for sample in samples if sample.at_s >= warm_up_s]
    at_s = np.array([sample.at_s for sample in late])
    ends = []
    for values in ([sample.rss for sample in late], [sample.uss for sample in late]):
        slope, base = np.polyfit(at_s - at_s[0], np.array(values), 1)
        ends += [float(base), float(base + slope * (at_s[-1] - at_s[0]))]
    start, end, own_start, own_end = ends
    return Trend(start, end, max(sample.rss for sample in late), own_start, own_end, 100 * (end - start) / start)


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a run.

    Attributes:
        duration_s: of the run, warm-up included.
        warm_up_s: what was left out.
        cores: processor time of all processes by time.
        outcomes: decided queries by outcome.
        asked_ad_hoc: ad-hoc questions.
        overdue: those without outcome.
        ended: processes that ended on their own.
        processes: what became of the memory of each.
        faults: what was broken on purpose, by kind.
        ends: what became of everything that edges asked.
        history: outcomes of stored frames.
        at_rest: what each edge said at the end.
        not_drained: edges that could not tell everything at their end.
    """

    duration_s: float
    warm_up_s: float
    cores: float
    outcomes: dict[str, int]
    asked_ad_hoc: int
    overdue: int
    ended: list[str]
    processes: dict[str, Trend]
    faults: dict[str, int]
    ends: Ends
    history: dict[str, int]
    at_rest: dict[str, AtRest]
    not_drained: list[str]

    @property
    def problems(self) -> list[str]:
        """What must not be."""
        return [
            *(f"{name} drifts" for name in self.drifting),
            *(f"{name} ended" for name in self.ended),
            *(f"{name} is stuck: {found}" for name, found in self.at_rest.items() if found.stuck),
            *(f"{name} did not drain" for name in self.not_drained),
            *([f"{self.overdue} ad-hoc questions without outcome"] if self.overdue else []),
            *([f"{self.ends.unfinished} queries never ended"] if self.ends.unfinished else []),
            *([f"{self.ends.ended_twice} queries ended twice"] if self.ends.ended_twice else []),
            *([f"the outcome of {len(self.ends.unread)} queries was not told"] if self.ends.unread else []),
            *([] if self.outcomes.get(Outcome.ANSWERED) else ["nothing was answered"]),
        ]

    @property
    def drifting(self) -> list[str]:
        """Processes whose resident memory is not flat."""
        return [name for name, found in self.processes.items() if abs(found.drift_percent) > MAX_DRIFT_PERCENT]

    @property
    def exit_status(self) -> int:
        """0 when memory was flat, everything was answered for and nothing is stuck."""
        return int(bool(self.problems))

    def as_markdown(self) -> str:
        """The processes as a table, and what they did."""
        rows = []
        for name, found in self.processes.items():
            numbers = (found.start_mb, found.end_mb, found.max_mb, found.own_start_mb, found.own_end_mb)
            rows.append((name, *(f"{number:.1f}" for number in numbers), f"{found.drift_percent:+.1f} %"))
        head = ("process", "resident at first, MiB", "at the end", "largest", "own at first", "at the end", "drift")
        single = {
            "seconds": round(self.duration_s),
            "seconds of warm-up": round(self.warm_up_s),
            "cores in use": round(self.cores, 2),
            **{f"questions {outcome}": count for outcome, count in self.outcomes.items()},
            "ad-hoc questions": self.asked_ad_hoc,
            "ad-hoc questions without outcome": self.overdue,
            **{f"times: {fault}": count for fault, count in self.faults.items()},
            "queries that edges asked of live frames": self.ends.asked,
            "those without an end": self.ends.unfinished,
            "queries of stored frames": self.ends.history,
            **{f"stored frames {outcome}": count for outcome, count in self.history.items()},
            "queries whose end was not told": len(self.ends.unread),
            "cameras that run at the end": sum(found.sources_running for found in self.at_rest.values()),
            "cameras": sum(found.cameras for found in self.at_rest.values()),
            "stored frames left": sum(found.stored_frames for found in self.at_rest.values()),
        }
        return "\n\n".join((table(head, rows), tables(single)))

    def print(self, console: Console) -> None:
        """Print a table of the processes, and what they did."""
        table = Table("process", "start MiB", "end MiB", "max MiB", "own start", "own end", "drift %", box=None)
        for name, found in self.processes.items():
            numbers = (found.start_mb, found.end_mb, found.max_mb, found.own_start_mb, found.own_end_mb)
            table.add_row(name, *(f"{number:.1f}" for number in numbers), f"{found.drift_percent:+.2f}")
        console.print(table)
        console.print(f"{self.duration_s:.0f} s, {self.warm_up_s:.0f} s of it warm-up; {self.cores:.2f} cores in use")
        console.print(f"outcomes {self.outcomes}; {self.asked_ad_hoc} ad-hoc questions, {self.overdue} without outcome")
        console.print(f"faults {self.faults}; stored frames {self.history}, {self.ends.asked} live queries of edges")
        for problem in self.problems:
            console.print(problem)
