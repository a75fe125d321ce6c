"""The ``simulate`` command: invariants under seeded faults, mutations, a large fleet, or orders on a thin uplink."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbus.options.option_set import with_option_sets
from latentbus.reports import simulate_pages
from latentbus.reports.output_files import json_target, write_json
from latentbus.reports.plain import plain
from latentbus.reports.results_page import MarkdownOption, write_page
from schemas.counting import counted
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress

EPILOG = (
    "Examples: latentbus simulate --events 1000000 --seed 7 --json sim.json | latentbus simulate --mutations | "
    "latentbus simulate --cameras 10000 --workers 200 --site-kbps 1000 --cameras-per-site 20 | "
    "latentbus simulate --cameras 100 --workers 2 --overload 3 | "
    "latentbus simulate --compare-schedulers --json schedulers.json"
)

_TRACE_LINES = 30
_COMPARED_SHARES = (0.4, 0.6, 0.8, 1.0, 1.2, 2.0)
"""Rates of the uplink, as shares of what the sites would send without a limit."""


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """What is simulated, and how much of it."""

    events: Annotated[int, typer.Option(help="Events that real sessions handle, at least.", min=1)] = 200_000
    seed: Annotated[int | None, typer.Option(help="Seed of everything; drawn and printed unless given.", min=0)] = None
    episode: Annotated[int | None, typer.Option(help="Replay one episode and print what happened.", min=0)] = None
    mutations: Annotated[
        bool,
        typer.Option(
            "--mutations",
            help="Break the protocol code on purpose, once each, with a quick seed for each or with --seed.",
        ),
    ] = False
    cameras: Annotated[int | None, typer.Option(help="Simulate a fleet of this many cameras instead.", min=1)] = None
    workers: Annotated[int, typer.Option(help="Workers of the fleet.", min=1)] = 4
    site_kbps: Annotated[float, typer.Option(help="Uplink of each site of the fleet.", min=1)] = 1000
    cameras_per_site: Annotated[int, typer.Option(help="Cameras that share an uplink.", min=1)] = 20
    interval: Annotated[float, typer.Option(help="Seconds between frames of a camera of the fleet.", min=0.1)] = 5.0
    questions: Annotated[int, typer.Option(help="Standing questions of each camera of the fleet.", min=1, max=64)] = 3
    frame_ms: Annotated[float, typer.Option(help="Model time of a frame in a batch.", min=0.01)] = 15.0
    duration: Annotated[float, typer.Option(help="Virtual seconds of the fleet.", min=1)] = 60.0
    overload: Annotated[
        float | None,
        typer.Option(help="Load of the fleet's peak, as a multiple of what its workers can do.", min=1, max=20),
    ] = None
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also run the overload without the rule that answers it (slow).")
    ] = False
    scheduler_comparison: Annotated[
        bool, typer.Option("--compare-schedulers", help="Compare orders of departure on uplinks that are too thin.")
    ] = False
    workloads: Annotated[int, typer.Option(help="Workloads of the comparison, each with a seed.", min=2, max=100)] = 8
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.", callback=json_target)
    ] = None
    markdown: MarkdownOption = None

    @property
    def first_seed(self) -> int:
        """Of a fleet or a comparison, where runs are to be compared."""
        return 1 if self.seed is None else self.seed

    def fleet(self) -> dict[str, Any]:
        """Arguments of the plan of a fleet."""
        return {
            "cameras": self.cameras,
            "workers": self.workers,
            "site_kbps": self.site_kbps,
            "cameras_per_site": self.cameras_per_site,
            "interval_s": self.interval,
            "questions": self.questions,
            "frame_ms": self.frame_ms,
            "duration_s": self.duration,
            "seed": self.first_seed,
        }


@with_option_sets
def simulate(options: SimulateOptions) -> None:
    """Run the real protocol machines on a virtual clock, with a model of the broker and seeded faults.

    Exit status 1 when an invariant was broken or a mutation was not found.
    """
    json_file, markdown = options.json_file, options.markdown
    if options.episode is not None:
        _replay(options.episode)
    elif options.mutations:
        _mutations(options.seed, json_file, markdown)
    elif options.scheduler_comparison:
        _compare_schedulers(options.first_seed, options.workloads, options.duration, json_file, markdown)
    elif options.cameras is not None and options.overload is None:
        _fleet(options.fleet(), json_file, markdown)
    elif options.cameras is not None and options.overload is not None:
        _overload(options.fleet(), options.overload, json_file, markdown, baseline=options.baseline)
    elif options.overload is not None:
        raise ConfigError("--overload", "of what fleet? Give --cameras as well, and --workers")
    else:
        drawn = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
        _invariants(options.events, drawn, json_file, markdown)


def _invariants(events: int, seed: int, json_file: Path | None, markdown: Path | None) -> None:
    from simulation import run

    start_s = time.perf_counter()
    with _progress() as progress:
        task = progress.add_task(f"seed {seed}", total=events)

        def show(report: run.SimulationReport) -> None:
            progress.update(task, completed=min(report.events, events))

        report = run.simulate(seed=seed, events=events, progress=show)
    figures = report.to_json()
    figures["events_per_s"] = round(report.events / (time.perf_counter() - start_s))
    write_json(json_file, figures)
    write_page(markdown, "Invariants under faults", simulate_pages.invariants(figures))
    _table(figures, "violated", "counters")
    for seed_of_episode, violation in report.violations[:10]:
        typer.echo(
            f"violated: {violation.rule}: {violation.subject} {violation.problem} "
            f"(see it with: latentbus simulate --episode {seed_of_episode})"
        )
    if report.violations:
        raise typer.Exit(1)


def _replay(episode: int) -> None:
    from simulation.draw_plan import draw_plan
    from simulation.episode import Episode
    from simulation.shrink import shrink

    plan = draw_plan(episode)
    report = Episode(plan, trace=True).run()
    asked, outcomes = counted(report.asked, "query", "queries"), plain(dict(sorted(report.outcomes.items())))
    typer.echo(f"{counted(report.events, 'event')}, {asked}; {outcomes}")
    for violation in report.violations[:10]:
        typer.echo(f"violated: {violation.rule} at {violation.time_s:.3f} s: {violation.subject} {violation.problem}")
    if report.violations:
        shrunk = shrink(plan)
        typer.echo(
            f"the smallest episode that still breaks it, found in {counted(shrunk.runs, 'run')}: {shrunk.summary()}"
        )
        report = shrunk.report
    subject = report.violations[0].subject if report.violations else ""
    if report.trace is not None:
        for line in report.trace.about(subject, _TRACE_LINES):
            typer.echo(line[:200])
    if report.violations:
        raise typer.Exit(1)


def _mutations(seed: int | None, json_file: Path | None, markdown: Path | None) -> None:
    from simulation.mutations import MUTATIONS, detect

    found: list[dict[str, Any]] = []
    for mutation in MUTATIONS:
        start_s = time.perf_counter()
        run_seed = mutation.seed if seed is None else seed
        result = detect(mutation, seed=run_seed)
        took_s = time.perf_counter() - start_s
        by = f"found by: {result.caught_by}" if result.caught_by else "NOT FOUND"
        typer.echo(f"{mutation.name:52} {by:45} {result.events:8} events {took_s:6.1f} s, seed {run_seed}")
        found.append({"mutation": mutation.name, "seed": run_seed, "caught_by": result.caught_by,
                      "events": result.events, "episode": result.episode})  # fmt: skip
    write_json(json_file, {"mutations": found})
    write_page(markdown, "Mutations of the protocol code", simulate_pages.mutations(found))
    if not all(result["caught_by"] for result in found):
        raise typer.Exit(1)


def _fleet(plan: dict[str, Any], json_file: Path | None, markdown: Path | None) -> None:
    from analysis.markdown import figures as as_tables
    from simulation.fleet import FleetPlan, FleetSimulation

    fleet = FleetPlan(**plan)
    with _progress() as progress:
        task = progress.add_task("virtual seconds", total=fleet.duration_s)
        figures = FleetSimulation(fleet, lambda now_s: progress.update(task, completed=now_s)).run()
    write_json(json_file, figures)
    write_page(markdown, "A large fleet", as_tables(figures))
    _table(figures)


def _compare_schedulers(
    seed: int, workloads: int, duration_s: float, json_file: Path | None, markdown: Path | None
) -> None:
    from latentbus.reports.scheduler_table import print_tables
    from simulation.scheduler_comparison import ORDERS, compare
    from simulation.uplink_workload import ComparisonPlan

    plans = [ComparisonPlan(duration_s=duration_s, seed=seed + index) for index in range(workloads)]
    with _progress() as progress:
        runs = workloads * (1 + len(_COMPARED_SHARES) * len(ORDERS))
        task = progress.add_task("runs", total=runs)
        rows = compare(plans, _COMPARED_SHARES, lambda: progress.advance(task))
    write_json(json_file, {"seeds": [plan.seed for plan in plans], "duration_s": duration_s, "uplinks": rows})
    write_page(markdown, "Orders of departure on a thin uplink", simulate_pages.uplink_orders(rows))
    print_tables(rows)


def _overload(
    plan: dict[str, Any], peak_load: float, json_file: Path | None, markdown: Path | None, *, baseline: bool
) -> None:
    from latentbus.reports import simulate_overload
    from simulation.fleet import FleetPlan

    phase_s = plan.pop("duration_s")
    with _progress() as progress:
        fleet = FleetPlan(**plan, lost_share=0.0)
        figures = simulate_overload.run(fleet, peak_load, phase_s, baseline=baseline, progress=progress)
    write_json(json_file, figures)
    write_page(markdown, "Overload of a simulated fleet", simulate_pages.overload(figures))
    simulate_overload.show(figures)
    simulate_overload.check_promises(figures)


def _progress() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from latentbus.reports.safe_console import SafeConsole

    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(), console=SafeConsole(stderr=True),
    )  # fmt: skip


def _table(figures: dict[str, Any], *leave_out: str) -> None:
    from rich.table import Table

    from latentbus.reports.safe_console import SafeConsole

    table = Table(show_header=False, box=None)
    for name, value in figures.items():
        if name not in leave_out:
            table.add_row(name, plain(value))
    SafeConsole().print(table)
