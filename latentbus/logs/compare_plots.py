"""Plots of a comparison as SVG text whose colours are CSS variables, so that they follow a dark page and print well."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis.compare.comparison import Share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Matplotlib wants numbers: each stands for a variable of the page and is replaced after drawing.
_INK, _MUTED, _GRID, _BAR, _FIRST, _SECOND = ("#0000f1", "#0000f2", "#0000f3", "#0000f4", "#0000f5", "#0000f6")
_VARIABLES: Final = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _BAR: "var(--changed)",
    _FIRST: "var(--log-a)",
    _SECOND: "var(--log-b)",
}
_CLEAN_UP: Final = tuple(
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in (
        (r"<metadata>.*?</metadata>\s*", ""),
        # Its rule would hold for the whole page.
        (r"<defs>\s*<style.*?</style>\s*</defs>\s*", ""),
        (r'<g id="[^"]*"', "<g"),
        (r"font-family: [^;]*; ", ""),
    )
)
_WIDTH_IN: Final = 4.6
_BAR_IN: Final = 0.27
_MAX_BARS: Final = 24
"""Further groups are in the table; a fleet has more cameras than a plot has lines."""


def share_bars(groups: Mapping[str, Share], *, name: str) -> str:
    """Share of changed queries of each group, as horizontal bars with their counts.

    Args:
        groups: the groups, drawn from top to bottom; of many the most changed ones are drawn.
        name: of the plot, part of the ids in the SVG, so that several stand in one page.
    """
    shown = list(groups.items())
    if len(shown) > _MAX_BARS:
        shown = sorted(shown, key=lambda item: (-item[1].share, item[0]))[:_MAX_BARS]
    with _figure(name, _WIDTH_IN, 0.55 + _BAR_IN * len(shown)) as (axes, svg):
        percents = [100 * share.share for _, share in shown]
        axes.barh([group for group, _ in shown], percents, height=0.5, color=_BAR)
        axes.invert_yaxis()
        limit = max(1.0, *percents) * 1.3
        axes.set_xlim(0, limit)
        for row, (_, share) in enumerate(shown):
            label = f"{share.changed} of {share.compared}"
            axes.text(percents[row] + limit / 80, row, label, va="center", fontsize=8, color=_MUTED)
        axes.set_xlabel("changed, %")
        axes.grid(visible=False)
        axes.tick_params(axis="y", length=0)
    return svg[0]


def time_curves(first_ms: Sequence[float], second_ms: Sequence[float], *, names: tuple[str, str], name: str) -> str:
    """Share of answers that were there after a time, for both logs.

    Args:
        first_ms: times of the first log, not empty.
        second_ms: times of the second log, not empty.
        names: of the two logs.
        name: of the plot, part of the ids in the SVG.
    """
    with _figure(name, _WIDTH_IN, 2.6) as (axes, svg):
        for values, colour, style, label in (
            (first_ms, _FIRST, "-", names[0]),
            (second_ms, _SECOND, "--", names[1]),
        ):
            axes.ecdf([max(value, 0.1) for value in values], color=colour, linestyle=style, linewidth=1.6, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("time to the terminal answer, ms")
        axes.set_ylabel("share of answers")
        axes.set_ylim(0, 1.02)
        legend = axes.legend(loc="upper left", fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_color(_INK)
    return svg[0]


@contextmanager
def _figure(name: str, width_in: float, height_in: float) -> Iterator[tuple[Axes, list[str]]]:
    """Axes in the page's style; their SVG is in the list when the context ends."""
    svg: list[str] = []
    with mpl.rc_context({
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "text.color": _INK,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "grid.linewidth": 0.6,
        "xtick.color": _MUTED,
        "ytick.color": _INK,
        "figure.constrained_layout.use": True,
    }):  # fmt: skip
        figure = Figure(figsize=(width_in, height_in))
        yield figure.add_subplot(), svg
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg.append(_for_page(stream.getvalue()))


def _for_page(drawn: str) -> str:
    """The SVG as it can stand within a page: in the page's colours and fonts, as wide as its column."""
    body = drawn[drawn.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    for pattern, replacement in _CLEAN_UP:
        body = pattern.sub(replacement, body)
    return body
