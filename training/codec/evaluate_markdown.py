"""An evaluation as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

_RATIOS: Final = {
    "ratio_vs_best_image_at_95": "best image file",
    "ratio_vs_best_image_without_container_at_95": "best image file, container not counted",
    "ratio_vs_klt_at_95": "KLT",
}


def as_markdown(report: dict[str, Any]) -> str:
    """Tables of a report of `evaluate_codec`, each domain after the other."""
    domains = [report, *report.get("domains", {}).values()]
    return "\n\n".join(part for domain in domains for part in _domain(domain)) + "\n"


def _domain(report: dict[str, Any]) -> Iterable[str]:
    yield f"**{report['domain']}**: {report['frames']} frames, {report['questions']} questions."
    rows = [("uncompressed tokens, 16 bits", report["full"])]
    rows += [(f"Meta AutoEncoder, {_latents(row)}", row) for row in report["prefixes"]]
    rows += [(f"KLT, {_latents(row)}", row) for row in report["klt"]]
    rows += [(str(row["setting"]), row) for row in report["rivals"]]
    names = {
        "question": "oracle stop, each question by itself",
        "frame": "oracle stop, all questions of a frame",
    }
    rows += [(name, report["oracle"][key]) for key, name in names.items()]
    rows += [("no image: the mean token", report["nothing"])]
    yield _table(
        ["", "payload bytes", "wire bytes", "accuracy %", "agreement %", "cosine"],
        [
            [
                name,
                _number(row["payload_bytes"]),
                _number(row.get("wire_bytes")),
                _percent(row["accuracy"], row["accuracy_ci95"]),
                _percent(row["agreement"], row["agreement_ci95"]),
                f"{row['feature_cosine']:.3f}" if "feature_cosine" in row else "",
            ]
            for name, row in rows
        ],
    )
    yield _table(
        [f"bytes at {report['ratios_measured_at']}", "ours", "rival", "times fewer", "95 % interval"],
        [
            [
                name,
                _number(report[key]["payload_bytes"]),
                _number(report[key]["rival_payload_bytes"]),
                f"{report[key]['ratio']:.2f}" if report[key]["ratio"] is not None else "not reached",
                " to ".join(f"{end:.2f}" for end in report[key]["ci95"]) if report[key]["ci95"] else "",
            ]
            for key, name in _RATIOS.items()
        ],
    )
    whole = report["prefixes"][-1]["accuracy_by_kind"]
    if whole:
        yield _table(
            ["accuracy % by kind", *whole],
            [
                [name, *(f"{100 * row['accuracy_by_kind'][kind]:.1f}" for kind in whole)]
                for name, row in (("uncompressed tokens", report["full"]), ("whole latent", report["prefixes"][-1]))
            ],
        )


def _latents(row: dict[str, Any]) -> str:
    return f"{row['latents']} latents"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
