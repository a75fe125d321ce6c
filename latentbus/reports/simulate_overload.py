"""``latentbus simulate --overload``: what a fleet does with more work than its pool can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from simulation.fleet import FleetPlan

LEAST_AD_HOC_IN_TIME = 0.99


def run(fleet: FleetPlan, peak_load: float, phase_s: float, *, baseline: bool, progress: Progress) -> dict[str, Any]:
    """Simulate an overload.

    Args:
        fleet: the fleet.
        peak_load: load of the peak, as a multiple of the pool's capacity.
        phase_s: length of each of the three phases.
        baseline: also run the same load without the rule.
        progress: where the virtual time is shown.

    Returns:
        Figures of the runs by name: ``with_rule``, and ``without_rule`` if asked for.
    """
    from simulation.overload import WARM_UP_S, OverloadPlan, OverloadSimulation

    figures = {}
    for name, rule in (("with_rule", True), *((("without_rule", False),) if baseline else ())):
        plan = OverloadPlan(fleet, peak_load=peak_load, calm_s=phase_s, peak_s=phase_s, after_s=phase_s, rule=rule)
        task = progress.add_task(f"virtual seconds, {name.replace('_', ' ')}", total=WARM_UP_S + 3 * phase_s)
        figures[name] = OverloadSimulation(plan, lambda now_s, task=task: progress.update(task, completed=now_s)).run()  # type: ignore[misc]
    return figures


def show(figures: dict[str, Any]) -> None:
    """Print the figures of each run as tables."""
    from rich.table import Table

    from latentbus.reports.safe_console import SafeConsole

    console = SafeConsole()
    for name, run_figures in figures.items():
        table = Table(title=f"{name.replace('_', ' ')}, load {run_figures['load']}", box=None)
        rows = ("wanted", "shed", "asked", "answered_in_time", "degraded", "expired", "superseded", "failed",
                "answer_ms_p50", "answer_ms_p95", "answer_ms_p99")  # fmt: skip
        kinds = [(kind, phase) for kind in ("standing", "ad_hoc") for phase in run_figures["load"]]
        table.add_column("")
        for kind, phase in kinds:
            table.add_column(f"{kind.replace('_', '-')}\n{phase}", justify="right")
        for row in rows:
            table.add_row(row, *(str(run_figures[kind][phase][row]) for kind, phase in kinds))
        console.print(table)
        for key in ("standing_share", "most_frames_at_a_worker", "most_frames_and_messages_at_an_edge",
                    "model_busy", "recovery_s", "worker_events"):  # fmt: skip
            console.print(f"{key}: {run_figures[key]}", highlight=False)


def check_promises(figures: dict[str, Any]) -> None:
    """End with exit status 1 when the rule has not held."""
    held = figures["with_rule"]
    late = {
        phase: tally["answered_of_asked"]
        for phase, tally in held["ad_hoc"].items()
        if tally["asked"] and tally["answered_of_asked"] < LEAST_AD_HOC_IN_TIME
    }
    if late:
        shares = ", ".join(f"{share:.1%} in the {phase} phase" for phase, share in late.items())
        typer.echo(
            f"ad-hoc questions were late: answered in time {shares}; at least {LEAST_AD_HOC_IN_TIME:.0%} is promised"
        )
    if held["recovery_s"] is None:
        typer.echo("standing questions were not back at their full rate by the end; a longer --duration shows when")
    if late or held["recovery_s"] is None:
        raise typer.Exit(1)
