"""Tables of ``latentbus simulate --compare-schedulers``."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from latentbus.reports.safe_console import SafeConsole

_ROWS = {
    "answered": "{:.0f}",
    "degraded": "{:.0f}",
    "expired": "{:.0f}",
    "superseded": "{:.0f}",
    "weighted": "{:.1%}",
    "ad_hoc": "{:.1%}",
    "wire_bytes": "{:,.0f}",
    "answered_per_kb": "{:.2f}",
    "longest_wait_s": "{:.1f}",
    "fairness_jain": "{:.3f}",
}
"""Figures of an order and how they are written; the rest is in the JSON file."""


def print_tables(rows: list[dict[str, Any]]) -> None:
    """One table for each uplink: the orders, and how ours compares with each of the others.

    Args:
        rows: what :func:`simulation.scheduler_comparison.compare` returns.
    """
    console = SafeConsole()
    for row in rows:
        asked = next(iter(row["orders"].values()))["asked"]
        table = Table(title=f"uplink for {row['uplink_share']:.0%} of the need, {asked:.0f} queries", box=None)
        table.add_column("")
        for order in row["orders"]:
            table.add_column(order, justify="right")
        for name, form in _ROWS.items():
            table.add_row(name.replace("_", " "), *(form.format(figures[name]) for figures in row["orders"].values()))
        console.print(table)
        for baseline, ratios in row["ratios"].items():
            said = "\n    ".join(
                f"{name.replace('_', ' ')} {ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
                for name, ratio in ratios.items()
                if ratio is not None
            )
            console.print(f"  ratio to {baseline}, with its 95 % interval:\n    {said}", highlight=False, markup=False)
        console.print()
