"""What a chaos run found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from analysis.markdown import figures
from latentbus.chaos.faults import Injector, Strike, recovered, recovery_s
from latentbus.chaos.fleet import Exit
from latentbus.chaos.ledger import ChaosLedger
from latentbus.chaos.options import ChaosOptions
from latentbus.fleet.ledger import percentile
from latentbus.reports.output_files import write_json
from latentbus.reports.plain import plain

_LONG: Final = frozenset({"strikes", "lost_queries", "unheard_queries"})
"""Figures that are lists of everything that happened; they are in the JSON file alone."""


@dataclass(frozen=True, slots=True)
class ChaosReport:
    """Figures of a run.

    Attributes:
        seed: of the plan.
        asked: queries, standing and ad hoc.
        asked_ad_hoc: the latter.
        terminal: those with a terminal outcome at the reader.
        by_outcome: number of queries by terminal outcome.
        lost: queries that ended nowhere, and nothing explains it.
        decided_twice: queries that the reducer called decided more than once.
        repeats: terminals that came again on the wire.
        conflicts: terminals that came again and said something else; the first stands.
        conflicting: these by what was said first and then.
        reopened: opens of a frame after its first.
        died_with_edge: standing queries of a killed edge.
        ended_without_edge: those of a killed edge that a worker ended all the same.
        unheard: ended at their edge; the message about it died with the broker.
        faults: number of faults by kind.
        faults_missed: planned faults that found no target.
        hit: queries that were unfinished in the hands of a target.
        not_returned: targets that did not come back in time.
        exits: processes that ended on their own.
        recovery_p50_s: median time from a fault to the end of a query that it hit, beyond the time in which nobody
            could act, see docs/chaos.md.
        recovery_p99_s: 99th percentile of that.
        recovery_by_kind_s: the longest by kind of fault.
        since_fault_p50_s: median time from a fault to the end of a query that it hit, nothing taken off.
        since_fault_p99_s: 99th percentile of that.
        detection_s: time in which the broker calls a silent client dead.
        duration_s: of the whole run.
        interrupted: stopped before its end.
        lost_queries: ids of lost queries.
        unheard_queries: ids of unheard ones.
        strikes: each fault with its target.
    """

    seed: int
    asked: int
    asked_ad_hoc: int
    terminal: int
    by_outcome: dict[str, int]
    lost: int
    decided_twice: int
    repeats: int
    conflicts: int
    conflicting: dict[str, int]
    reopened: int
    died_with_edge: int
    ended_without_edge: int
    unheard: int
    faults: dict[str, int]
    faults_missed: int
    hit: int
    not_returned: list[str]
    exits: list[dict[str, Any]]
    recovery_p50_s: float | None
    recovery_p99_s: float | None
    recovery_by_kind_s: dict[str, float]
    since_fault_p50_s: float | None
    since_fault_p99_s: float | None
    detection_s: float
    duration_s: float
    interrupted: bool
    lost_queries: list[str]
    unheard_queries: list[str]
    strikes: list[dict[str, Any]]

    @property
    def exit_status(self) -> int:
        """0 when nothing was lost and nothing decided twice, and every process did what it should."""
        return 1 if self.lost or self.decided_twice or self.exits or self.not_returned else 0

    def write_json(self, path: Path) -> None:
        """Write every figure.

        Raises:
            ConfigError: the file cannot be written.
        """
        write_json(path, asdict(self))

    def as_markdown(self) -> str:
        """All but the long lists, as tables."""
        return figures({name: value for name, value in asdict(self).items() if name not in _LONG})

    def print(self, console: Console) -> None:
        """Print all but the long lists."""
        table = Table(show_header=False, box=None)
        for name, value in asdict(self).items():
            if name not in _LONG:
                table.add_row(name, plain(value))
        console.print(table)
        for query_id in self.lost_queries:
            console.print(f"lost: {query_id}")


def make_report(
    options: ChaosOptions,
    ledger: ChaosLedger,
    injector: Injector,
    exits: list[Exit],
    *,
    duration_s: float,
    interrupted: bool,
) -> ChaosReport:
    """Add everything up.

    Args:
        options: of the run.
        ledger: of the run, with the frame logs of the edges.
        injector: what it did.
        exits: processes that ended on their own.
        duration_s: of the whole run.
        interrupted: stopped before its end.
    """
    strikes, entries = injector.strikes, ledger.entries.values()
    recoveries_s = [recovery_s(strike, strikes, ledger.orphans) for strike in strikes]
    all_s = [seconds for seconds_of_strike in recoveries_s for seconds in seconds_of_strike]
    since_fault_s = [end_s - strike.at_s for strike in strikes for _, end_s in recovered(strike, ledger.orphans)]
    by_outcome = ledger.by_outcome()
    balance = ledger.balance()
    return ChaosReport(
        seed=options.seed,
        asked=len(entries),
        asked_ad_hoc=sum(entry.ad_hoc for entry in entries),
        terminal=sum(by_outcome.values()),
        by_outcome=by_outcome,
        lost=len(balance.lost),
        decided_twice=ledger.decided_twice,
        repeats=ledger.reducer.repeats,
        conflicts=ledger.reducer.conflicts,
        conflicting=dict(ledger.conflicts),
        reopened=ledger.reopened,
        died_with_edge=len(balance.died_with_edge),
        ended_without_edge=sum(ledger.entries[query_id].outcome is not None for query_id in ledger.orphans),
        unheard=len(balance.unheard),
        faults=dict(Counter(str(strike.plan.kind) for strike in strikes)),
        faults_missed=len(injector.missed),
        hit=len({entry.query_id for strike in strikes for entry in strike.hit}),
        not_returned=[strike.target for strike in strikes if not strike.returned],
        exits=[asdict(end) for end in exits],
        recovery_p50_s=_rounded(percentile(all_s, 50)),
        recovery_p99_s=_rounded(percentile(all_s, 99)),
        recovery_by_kind_s=_longest_by_kind_s(strikes, recoveries_s),
        since_fault_p50_s=_rounded(percentile(since_fault_s, 50)),
        since_fault_p99_s=_rounded(percentile(since_fault_s, 99)),
        detection_s=options.detection_s,
        duration_s=round(duration_s, 1),
        interrupted=interrupted,
        lost_queries=balance.lost,
        unheard_queries=balance.unheard,
        strikes=[_row(strike, seconds, strikes[0].at_s) for strike, seconds in zip(strikes, recoveries_s, strict=True)],
    )


def _longest_by_kind_s(strikes: Sequence[Strike], recoveries_s: Sequence[Sequence[float]]) -> dict[str, float]:
    longest_s: dict[str, float] = {}
    for strike, seconds in zip(strikes, recoveries_s, strict=True):
        kind = strike.plan.kind
        longest_s[kind] = round(max([*seconds, longest_s.get(kind, 0.0)]), 3)
    return longest_s


def _row(strike: Strike, recoveries_s: Sequence[float], began_s: float) -> dict[str, Any]:
    return {
        "number": strike.plan.number,
        "kind": str(strike.plan.kind),
        "target": strike.target,
        "at_s": round(strike.at_s - began_s, 3),
        "duration_s": strike.plan.duration_s,
        "outage_s": round(strike.outage_s, 3),
        "hit": len(strike.hit),
        "recovery_max_s": _rounded(max(recoveries_s, default=None)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
