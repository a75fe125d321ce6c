"""A comparison as one HTML file: no script, nothing from the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis.compare.comparison import Comparison
from latentbus import __version__
from latentbus.logs.compare_figures import cost_rows, percent, tiles
from latentbus.logs.compare_plots import share_bars, time_curves

MAX_CHANGES: Final = 500
"""Rows of the last table; a page with more is hard to open and to read."""


@dataclass(frozen=True, slots=True)
class _Cell:
    count: int
    same: bool
    weight: float


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    cells: tuple[_Cell, ...]


@dataclass(frozen=True, slots=True)
class _Matrix:
    columns: tuple[str, ...]
    rows: tuple[_Row, ...]


@dataclass(frozen=True, slots=True)
class _Plot:
    title: str
    svg: str


def render_report(result: Comparison, *, limit: float) -> str:
    """The page.

    Args:
        result: what was compared.
        limit: share of changed queries that is accepted.
    """
    # PackageLoader finds the template in a wheel as well; every value is escaped.
    environment = Environment(
        loader=PackageLoader("latentbus.logs"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(count=_count, percent=percent, score=_score, number=_number)
    page = environment.get_template("compare.html.j2").render(
        result=result,
        limit=limit,
        over=result.over(limit),
        tiles=tiles(result),
        costs=cost_rows(result),
        plots=_plots(result),
        matrix=_matrix(result),
        changes=result.changes[:MAX_CHANGES],
        more_changes=max(0, len(result.changes) - MAX_CHANGES),
        version=__version__,
    )
    return f"{page}\n"


def _plots(result: Comparison) -> list[_Plot]:
    plots = [
        _Plot(title, share_bars(groups, name=name))
        for title, groups, name in (
            ("By answer type", result.by_type, "type"),
            ("By score in A", result.by_confidence, "confidence"),
            ("By camera", result.by_camera, "camera"),
        )
        if groups
    ]
    if result.latency_ms:
        first, second = zip(*result.latency_ms, strict=True)
        plots.append(_Plot("Time to the answer", time_curves(first, second, names=("A", "B"), name="time")))
    return plots


def _matrix(result: Comparison) -> _Matrix:
    names = sorted({name for row in result.matrix.values() for name in row} | set(result.matrix))
    largest = max((count for row in result.matrix.values() for count in row.values()), default=1)
    return _Matrix(
        tuple(names),
        tuple(
            _Row(
                name,
                tuple(
                    _Cell(count := result.matrix.get(name, {}).get(other, 0), name == other, 0.15 + count / largest / 4)
                    for other in names
                ),
            )
            for name in names
        ),
    )


def _count(value: int) -> str:
    return f"{value:,}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
