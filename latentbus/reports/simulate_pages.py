"""Pages of figures that ``latentbus simulate`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis import markdown


def invariants(figures: Mapping[str, Any]) -> str:
    """Figures of a run under faults; counters of the sessions are left out."""
    return markdown.figures({name: value for name, value in figures.items() if name != "counters"})


def mutations(found: Sequence[Mapping[str, Any]]) -> str:
    """What each mutation was found by."""
    return markdown.table(
        ("what was taken away", "found by", "events until then", "seed"),
        (
            (row["mutation"], row["caught_by"] or "**not found**", f"{row['events']:,}", f"{row['seed']:,}")
            for row in found
        ),
    )


def overload(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Figures of each run, with the rule and without it."""
    names = (
        "wanted", "shed", "asked", "answered_in_time", "answered_of_asked", "degraded", "expired", "superseded",
        "failed", "answered_per_s", "answer_ms_p50", "answer_ms_p95", "answer_ms_p99",
    )  # fmt: skip
    parts = []
    for run, held in figures.items():
        phases = list(held["load"])
        parts.append(f"## {markdown.words(run).capitalize()}")
        for kind in ("standing", "ad_hoc"):
            rows = [
                (markdown.words(name), *(markdown.value_text(held[kind][phase][name]) for phase in phases))
                for name in names
                if name in held[kind][phases[0]]
            ]
            load = [f"{phase}, load {held['load'][phase]:g}" for phase in phases]
            parts.append(markdown.table((f"{kind.replace('_', '-')} questions", *load), rows))
        groups = ("standing_share", "model_busy", "most_frames_at_a_worker", "most_frames_and_messages_at_an_edge")
        parts.append(
            markdown.table(
                ("", *phases),
                (
                    (markdown.words(name), *(markdown.value_text(held[name][phase]) for phase in phases))
                    for name in groups
                ),
            )
        )
        single = {
            name: held[name]
            for name in ("cameras", "workers", "deadline_s", "capacity_passes_per_s", "passes_per_frame", "recovery_s")
        }
        parts.append(markdown.figures(single))
    return "\n\n".join(parts)


def uplink_orders(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each order of departure answers on each uplink, and how ours compares."""
    answered = [
        (
            _percent(row["uplink_share"], 0),
            order,
            *(f"{found[name]:,.0f}" for name in ("answered", "degraded", "expired", "superseded")),
            *(_percent(found[name], 1) for name in ("weighted", "ad_hoc")),
        )
        for row in rows
        for order, found in row["orders"].items()
    ]
    cost = [
        (
            _percent(row["uplink_share"], 0),
            order,
            f"{found['wire_bytes'] / 1000:,.0f}",
            f"{found['answered_per_kb']:.2f}",
            f"{found['longest_wait_s']:.1f}",
            f"{found['fairness_jain']:.2f}",
        )
        for row in rows
        for order, found in row["orders"].items()
    ]
    ratios = [
        (_percent(row["uplink_share"], 0), baseline, *(_ratio(found[name]) for name in found))
        for row in rows
        for baseline, found in row["ratios"].items()
    ]
    names = next(iter(rows[0]["ratios"].values()))
    return "\n\n".join(
        (
            "The uplink is given as a share of what the sites would send without a limit. Queries are means over the "
            "workloads.",
            markdown.table(
                ("uplink", "order", "answered", "degraded", "expired", "superseded", "of the weight", "of ad-hoc"),
                answered,
            ),
            markdown.table(
                ("uplink", "order", "wire kB", "answered per kB", "longest wait, s", "fairness (Jain)"), cost
            ),
            "Ratio of the present order to the others on the same workload, with its 95 % interval over the workloads:",
            markdown.table(("uplink", "compared with", *(markdown.words(name) for name in names)), ratios),
        )
    )


def _ratio(found: Mapping[str, float] | None) -> str:
    return "" if found is None else f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"
