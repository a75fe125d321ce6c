"""What ``latentbus edge --check`` and ``latentbus doctor`` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.markup import escape
from rich.table import Table

from edge_nodes.check.findings import Finding, Verdict
from latentbus.reports.safe_console import SafeConsole

_STYLES: Final = {
    Verdict.GOOD: "green",
    Verdict.TIGHT: "yellow",
    Verdict.WARN: "yellow",
    Verdict.UNKNOWN: "dim",
    Verdict.BAD: "red",
}


def print_findings(findings: Sequence[Finding], console: SafeConsole | None = None) -> None:
    """Print a line for each part of a check, with what to do about it below.

    Args:
        findings: of the check.
        console: where to; the standard output unless given.
    """
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(finding.what, f"[{_STYLES[finding.verdict]}]{finding.verdict}[/]", escape(finding.found))
        if finding.fix is not None:
            table.add_row("", "", escape(f"-> {finding.fix}"))
    (console or SafeConsole(highlight=False)).print(table)
