"""Plots of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from training.codec.evaluate.links import LINK_RATES_KBPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK: Final = "#1f2933"
_GRID: Final = "#d9dee3"
_OURS, _KLT, _IMAGE, _TOKENS, _ORACLE = "#0b6e99", "#c05a00", "#6b7280", "#8a5aa8", "#1a7f37"
_FEATURES: Final = "#b0417a"
_DPI: Final = 130


def draw_plots(report: dict[str, Any], folder: Path, *, suffix: str = "") -> list[Path]:
    """Draw what a report of `evaluate_codec` holds.

    Args:
        report: From `evaluate_codec`.
        folder: Made if it is not there.
        suffix: Of the files' names.

    Returns:
        PNG files: rate against accuracy and agreement of each domain, agreement against delay, agreement against
        predicted quality.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, domain in {"": report, **report.get("domains", {})}.items():
        part = f"{suffix}-{name}" if name else suffix
        paths += [
            _save(_rate_plot(domain, measure), folder / f"rate-{measure}{part}.png")
            for measure in ("accuracy", "agreement")
            if domain["full"][measure] is not None
        ]
    paths.append(_save(_delay_plot(report), folder / f"delay{suffix}.png"))
    paths.append(_save(_quality_plot(report), folder / f"predicted-quality{suffix}.png"))
    return paths


def _rate_plot(report: dict[str, Any], measure: str) -> Figure:
    figure = Figure(figsize=(7.2, 4.3), layout="constrained")
    axes = figure.add_subplot()
    images = sorted(
        (r for r in report["baselines"] if r["family"] == "images"), key=lambda row: float(row["payload_bytes"])
    )
    _line(axes, images, measure, "image file", _IMAGE, "s")
    tokens = sorted(
        (r for r in report["baselines"] if r["family"] == "tokens"), key=lambda row: float(row["payload_bytes"])
    )
    _line(axes, tokens, measure, "fewer or rounder tokens", _TOKENS, "v")
    features = sorted(
        (r for r in report["baselines"] if r["family"] == "features"), key=lambda row: float(row["payload_bytes"])
    )
    _line(axes, features, measure, "features as pictures", _FEATURES, "D")
    if report["klt"]:
        _line(axes, report["klt"], measure, "KLT, prefixes", _KLT, "^")
    _line(axes, report["prefixes"], measure, "Meta AutoEncoder, prefixes", _OURS, "o")
    oracle = report["oracle"]["question"]
    axes.plot(oracle["payload_bytes"], 100 * oracle[measure], "*", ms=13, color=_ORACLE, label="oracle stop", zorder=5)
    full = 100 * report["full"][measure]
    axes.axhline(full, color=_INK, lw=1, ls=":")
    axes.annotate("uncompressed", (1, full), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    if measure == "accuracy":
        axes.axhline(0.95 * full, color=_GRID, lw=1.2, zorder=0)
        axes.annotate(
            "95 % of it", (1, 0.95 * full), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9
        )
    _log_x(axes, subs=(1.0, 2.0, 5.0))
    _finish(axes, "payload bytes a frame", f"{measure}, %")
    axes.set_title(f"{report['domain']}, {report['frames']} frames, 95 % intervals by frame", fontsize=10, loc="left")
    axes.legend(fontsize=9, frameon=False, loc="lower right" if measure == "agreement" else "best")
    return figure


def _line(axes: Axes, rows: Sequence[dict[str, Any]], measure: str, label: str, color: str, marker: str) -> None:
    sizes = [row["payload_bytes"] for row in rows]
    values = [100 * row[measure] for row in rows]
    ends = [row[f"{measure}_ci95"] or [row[measure], row[measure]] for row in rows]
    below = [max(0.0, value - 100 * end[0]) for value, end in zip(values, ends, strict=True)]
    above = [max(0.0, 100 * end[1] - value) for value, end in zip(values, ends, strict=True)]
    axes.errorbar(
        sizes, values, [below, above], label=label, color=color, marker=marker, ms=5, lw=1.5, elinewidth=0.8, capsize=2
    )


def _delay_plot(report: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(8.4, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True).ravel()
    styles = {
        "image": ("image file", _IMAGE, "s"),
        "ladder": ("up the ladder, a pass over each rung", _TOKENS, "^"),
        "at_once": ("prefix in one message", _OURS, "o"),
    }
    for axes, rate in zip(panels, LINK_RATES_KBPS, strict=True):
        for path, (label, color, marker) in styles.items():
            rows = sorted((r for r in report["delay"] if r["path"] == path), key=lambda row: float(row["wire_bytes"]))
            axes.plot(
                [1_000 * row["delay_s"][str(rate)] for row in rows],
                [100 * row["agreement"] for row in rows],
                color=color,
                marker=marker,
                ms=4.5,
                lw=1.4,
                label=label,
            )
        axes.set_title(f"{rate:,} kbps", fontsize=10, loc="left")
        _log_x(axes, subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
        _finish(axes, "delay, ms (bytes on the wire, 100 ms a round trip)", "agreement, %")
    panels[0].legend(fontsize=9, frameon=False, loc="lower right")
    return figure


def _quality_plot(report: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    rows = report["predicted_quality"]
    quality = [100 * (1 - row["predicted_error"]) for row in rows]
    values = [100 * row["agreement"] for row in rows]
    below = [max(0.0, value - 100 * row["agreement_ci95"][0]) for value, row in zip(values, rows, strict=True)]
    above = [max(0.0, 100 * row["agreement_ci95"][1] - value) for value, row in zip(values, rows, strict=True)]
    axes.errorbar(quality, values, [below, above], color=_OURS, marker="o", ms=5, lw=1.5, elinewidth=0.8, capsize=2)
    _finish(axes, "predicted quality: share of the tokens' variance that is right, %", "agreement, %")
    axes.set_title("tenths of all answers from all prefixes, 95 % intervals by frame", fontsize=10, loc="left")
    return figure


def _log_x(axes: Axes, subs: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9.5)
    axes.set_ylabel(y, fontsize=9.5)
    axes.grid(color=_GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Figure, path: Path) -> Path:
    # No date, version or path in the file: the same results give the same bytes.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    return path
