"""The figures of a comparison in words, the same ones for the terminal and for the page."""

from __future__ import annotations

from typing import NamedTuple

from analysis.compare.compared_log import SideFigures
from analysis.compare.comparison import Comparison


class CostRow(NamedTuple):
    """One line of the table of costs."""

    label: str
    a: str
    b: str
    change: str
    """How the second value differs from the first, empty where that says nothing."""


def tiles(result: Comparison) -> list[tuple[int, str]]:
    """The counts of a comparison with their names."""
    counts = [
        (result.compared, "queries compared"),
        (result.answers_differ, "other answers"),
        (result.outcomes_differ, "other outcomes"),
        (result.latents_differ, "same answer, other latents"),
        (result.only_a, "only in A"),
        (result.only_b, "only in B"),
    ]
    return [*counts, (result.undecided_a, "without outcome in A")] if result.undecided_a else counts


def cost_rows(result: Comparison) -> list[CostRow]:
    """Bytes, latents and times of both logs."""
    a, b = result.a, result.b
    same_clock = a.rate == b.rate == 1.0
    rows = [
        CostRow("queries of the whole log", f"{a.queries:,}", f"{b.queries:,}", ""),
        CostRow("codec fingerprint", ", ".join(a.fingerprints) or "none", ", ".join(b.fingerprints) or "none", ""),
        _row("uplink bytes a query", _per_query(a, a.uplink_bytes, result), _per_query(b, b.uplink_bytes, result), 0),
        _row("latent bytes a query", _per_query(a, a.latent_bytes, result), _per_query(b, b.latent_bytes, result), 1),
        _row("latents behind an answer, mean", a.latents, b.latents, 1),
        CostRow("refined answers", f"{a.refined:,}", f"{b.refined:,}", ""),
    ]
    if (a.rate, b.rate) != (1.0, 1.0):
        rows.append(CostRow("speed of the replay", _speed(a), _speed(b), ""))
    for label, first, second in (
        ("first answer, median", a.first_ms.p50, b.first_ms.p50),
        ("terminal answer, median", a.final_ms.p50, b.final_ms.p50),
        ("terminal answer, 95 %", a.final_ms.p95, b.final_ms.p95),
        ("terminal answer, 99 %", a.final_ms.p99, b.final_ms.p99),
    ):
        row = _row(f"{label}, ms", first, second, 0)
        rows.append(row if same_clock else row._replace(change="not comparable"))
    return rows


def percent(share: float) -> str:
    """A share as a percentage, with as many digits as it needs."""
    value = 100 * share
    return f"{value:.2f} %" if 0 < value < 1 else f"{value:.1f} %"


def _row(label: str, a: float | None, b: float | None, digits: int) -> CostRow:
    change = f"{100 * (b / a - 1):+.1f} %" if a and b is not None else ""
    return CostRow(label, _decimal(a, digits), _decimal(b, digits), change)


def _decimal(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _per_query(side: SideFigures, total: int, result: Comparison) -> float | None:
    return total / result.compared if result.compared and side.frames else None


def _speed(side: SideFigures) -> str:
    return "as fast as possible" if side.rate is None else "live" if side.rate == 1.0 else f"{side.rate:g} times"
