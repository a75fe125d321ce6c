"""An evaluation as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from analysis.markdown import table

_RATIOS: Final = {
    "ratio_vs_best_image_at_95": "best image file",
    "ratio_vs_best_image_without_container_at_95": "best image file, container not counted",
    "ratio_vs_best_image_wire_at_95": "best image file, on the wire",
    "ratio_vs_best_features_at_95": "best coded features or tokens",
    "ratio_vs_klt_at_95": "KLT",
}
_TRIVIAL: Final = {
    "empty_prefix": "nothing sent: the empty prefix",
    "constant_answer": "nothing sent: always the most frequent answer to the kind of question",
}
"""Rows of frames that do not follow one another, from `Scoreboard.trivial`."""


def as_markdown(report: dict[str, Any]) -> str:
    """Tables of a report of `evaluate_codec`, each domain after the other."""
    domains = [report, *report.get("domains", {}).values()]
    return "\n\n".join(part for domain in domains for part in _domain(domain)) + "\n"


def video_as_markdown(report: dict[str, Any]) -> str:
    """Tables of a report of `evaluate_video`."""
    return "\n\n".join(_video(report)) + "\n"


def _video(report: dict[str, Any]) -> Iterable[str]:
    yield (
        f"**{report['sequences']}**, one frame every {report['every_s']:g} s: {report['frames']} frames, "
        f"{report['questions']} questions. A key frame in {100 * report['key_frames_share']:.0f} % of frames."
    )
    rows = [("uncompressed tokens, 16 bits", report["full"])]
    rows += [(f"Meta AutoEncoder with key frames, {_latents(row)}", row) for row in report["prefixes"]]
    rows += [("the same without key frames", report["prefixes_by_themselves"][-1])]
    for name, points in report["others"].items():
        rows += [(f"{name} with key frames, {_latents(row)}", row) for row in points]
    rows += [(str(row["setting"]), row) for row in report["baselines"]]
    rows += [
        ("nothing sent: the empty prefix", report["empty_prefix"]),
        ("nothing sent: one answer to each question of each camera, the most frequent", report["constant_answer"]),
        ("only the first frame sent: its answers for ever", report["first_answer"]),
    ]
    yield rate_table(rows)
    if report["packet_loss"]:
        yield table(
            [
                "one packet lost",
                "bytes a frame",
                "of a key frame",
                "seconds to the next key frame",
                "agreement % until then",
                "had it come",
                "a late receiver waits, s",
            ],
            [
                [
                    row["setting"],
                    _number(row["payload_bytes"]),
                    _number(row["key_frame_bytes"]),
                    f"{row['seconds_to_key_frame']:.0f}",
                    f"{100 * row['agreement_after']:.1f}",
                    f"{100 * row['agreement_before']:.1f}",
                    f"{row['late_receiver_waits_s']:.0f}",
                ]
                for row in report["packet_loss"]
            ],
        )
    yield table(
        ["baseline", "at equal", "of", "bytes", "ours", "baseline's", "times fewer", "95 % interval"],
        [
            [
                row["baseline"],
                row["measure"].replace("_", " "),
                row["at"],
                row["bytes"].removesuffix("_bytes"),
                *ratio_cells(row),
            ]
            for row in report["ratios"]
            if row["measure"] != "agreement"  # the balanced one is harder; a report in JSON holds both
        ],
    )


def _domain(report: dict[str, Any]) -> Iterable[str]:
    yield f"**{report['domain']}**: {report['frames']} frames, {report['questions']} questions."
    rows = [("uncompressed tokens, 16 bits", report["full"])]
    rows += [(f"Meta AutoEncoder, {_latents(row)}", row) for row in report["prefixes"]]
    rows += [(f"KLT, {_latents(row)}", row) for row in report["klt"]]
    rows += [(str(row["setting"]), row) for row in report["baselines"]]
    names = {
        "question": "oracle stop, each question by itself",
        "frame": "oracle stop, all questions of a frame",
    }
    rows += [(name, report["oracle"][key]) for key, name in names.items()]
    rows += [("no image: the mean token", report["nothing"]), *((name, report[key]) for key, name in _TRIVIAL.items())]
    yield rate_table(rows)
    yield table(
        [f"bytes at {report['ratios_measured_at']}", "ours", "baseline", "times fewer", "95 % interval"],
        [
            [
                name,
                *ratio_cells(report[key]),
            ]
            for key, name in _RATIOS.items()
        ],
    )
    whole = report["prefixes"][-1]["accuracy_by_kind"]
    if whole:
        yield table(
            ["accuracy % by kind", *whole],
            [
                [name, *(f"{100 * row['accuracy_by_kind'][kind]:.1f}" for kind in whole)]
                for name, row in (("uncompressed tokens", report["full"]), ("whole latent", report["prefixes"][-1]))
            ],
        )


def rate_table(rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Bytes, accuracy and agreement of named rows of a `Scoreboard`."""
    return table(
        ["", "payload bytes", "wire bytes", "bits a value", "accuracy %", "agreement %", "balanced agreement %"],
        [
            [
                name,
                _number(row["payload_bytes"]),
                _number(row.get("wire_bytes")),
                f"{row['bits_per_value']:.3f}" if "bits_per_value" in row else "",
                _percent(row["accuracy"], row["accuracy_ci95"]),
                _percent(row["agreement"], row["agreement_ci95"]),
                _percent(row["balanced_agreement"], row["balanced_agreement_ci95"]),
            ]
            for name, row in rows
        ],
    )


def ratio_cells(found: dict[str, Any]) -> list[str]:
    """Bytes of ours and of the baseline, the ratio, and its interval or why there is none; see `Scoreboard.ratio`."""
    size = "wire_bytes" if "baseline_wire_bytes" in found else "payload_bytes"
    if found["not_claimed"]:
        ratio, interval = "not claimed", found["not_claimed"]
    else:
        ratio = f"{found['ratio']:.2f}" if found["ratio"] is not None else "not reached"
        interval = " to ".join(f"{end:.2f}" for end in found["ci95"]) if found["ci95"] else ""
    return [_number(found[size]), _number(found[f"baseline_{size}"]), ratio, interval]


def _latents(row: dict[str, Any]) -> str:
    return f"{row['latents']} latents"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")
