"""The model card of a calibrated codec, and its part that is said at the end: what to expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from schemas.counting import counted

Report = Mapping[str, Any]

_SHOWN_SKIPPED: Final = 10
_FEW_EARLY: Final = 0.01


def expect_lines(report: Report) -> list[str]:
    """What to expect, as Markdown: rates, stop rule, risks."""
    found = report["expect"]
    by = "accuracy" if found["measure"] == "accuracy" else None
    shown = f"{counted(found['pictures'], 'picture')} that nothing else was made from, {found['questions']:,} questions"
    columns = ["sent", "payload bytes", "wire bytes", "agreement", "95 %", *([by] if by else [])]
    rows = [
        _rate(f"{row['latents']} latents" + ("" if row["on_ladder"] else " (not a rung)"), row, by)
        for row in found["rates"]
    ]
    rows += [
        _rate(name, found[key], by)
        for key, name in (
            ("empty_prefix", "nothing: empty prefix"),
            ("constant_answer", "nothing: always the most frequent answer"),
            ("uncompressed", "uncompressed visual tokens"),
        )
    ]
    return [
        f"Measured on {shown}. *Agreement* is with the answers from uncompressed visual tokens; wire bytes include "
        "headers, questions and the acknowledgement.",
        "",
        *_table(columns, rows),
        "",
        *_stop_lines(report),
        "",
        *_risk_lines(report),
    ]


def _rate(name: str, row: Report, by: str | None) -> list[str]:
    interval = row["agreement_ci95"]
    cells = [name, f"{row['payload_bytes']:,.0f}", f"{row['wire_bytes']:,.0f}", _percent(row["agreement"])]
    cells.append("" if interval is None else f"{_percent(interval[0])} to {_percent(interval[1])}")
    if by:
        cells.append(_percent(row[by]))
    return cells


def _stop_lines(report: Report) -> Iterator[str]:
    stop, promise = report["expect"]["stop_rule"], report["promise"]
    if not report["stop"]["provable"]:
        yield (
            f"No early answer is proven at a risk of {promise['risk']:g}: every question waits for the whole latent, "
            f"{stop['whole_wire_bytes']:,.0f} wire bytes a frame."
        )
        return
    yield (
        f"With the stop rule at a risk of {promise['risk']:g}, frames take {stop['wire_bytes']:,.0f} wire bytes on "
        f"average instead of {stop['whole_wire_bytes']:,.0f}; {_percent(stop['early_share'])} of the questions are "
        f"answered early, and {_percent(stop['differs_from_whole'])} of all answers differ from the whole latent's."
    )
    if stop["early_share"] < _FEW_EARLY:
        yield (
            "Hardly any answer of this model is sure enough to stop early; where the whole latent agrees with the "
            "uncompressed tokens, send it at once (`first_prefix: whole`)."
        )


def _risk_lines(report: Report) -> Iterator[str]:
    have, calibration = report["pictures"]["usable"], report["pictures"]["sets"]["calibration"]
    rows = []
    for row in report["expect"]["risks"]:
        estimate = row["calibration_pictures_estimated"]
        more = max(row["pictures_at_least"] - have, 0)
        if row["early_answers_proven"]:
            needs = f"proven on these pictures; {_percent(row['early_share'])} of the questions answered early"
        elif estimate is None:
            needs = "not with answers that change so often: larger latents (`--bytes`) or easier questions"
        else:
            needs = f"about {max(estimate - calibration, more):,} more pictures"
        rows.append([f"{row['risk']:g}", f"{row['pictures_at_least']:,}", needs])
    yield from _table(["risk", "fewest pictures in all", "what it needs"], rows)
    yield ""
    yield (
        "The fewest are for a calibration without one early answer that differs; the estimate takes further pictures "
        "to be like these."
    )


_KINDS: Final = {"klt": ("KLT codec", "calibrate"), "meta_autoencoder": ("Meta AutoEncoder", "train")}
"""By name of the codec: what it is, and the command that makes it from pictures."""


def model_card(report: Report, further: Sequence[str] = ()) -> str:
    """``README.md`` of the codec folder.

    Args:
        report: What the figures hold.
        further: Lines of a section behind what to expect.
    """
    kind, command = _KINDS[report["codec"]["name"]]
    codec, pictures = report["codec"], report["pictures"]
    sets = ", ".join(f"{count} {name}" for name, count in pictures["sets"].items())
    files = [
        ["fingerprint", f"`{codec['fingerprint4']}` (first 4 bytes of {codec['fingerprint']})"],
        ["model", f"`{codec['vlm_id']}`, weights {codec['vlm_sha256'][:12]}"],
        [
            "latent",
            f"{codec['latent_count']} latents of {codec['latent_dim']} symbols for {codec['token_count']} tokens of "
            f"{codec['token_dim']} values",
        ],
        ["frame", f"{codec['image_size_px']} px, {codec['fit']['mode']}, filter {codec['fit']['filter']}"],
        ["ladder", ", ".join(map(str, codec["ladder"]))],
        ["pictures", f"{pictures['usable']:,} of {pictures['source']}: {sets}"],
        ["encoder", _parity(report["parity"])],
    ]
    lines = [
        f"# {kind} for {codec['vlm_id']}",
        "",
        f"Made by `latentbus codec {command}`. The sets of pictures are disjoint"
        + (", each one stretch of time." if pictures["video"] else "."),
        "",
        *_table(["", ""], files),
        "",
        "## What to expect",
        "",
        *expect_lines(report),
        "",
        *further,
        *([""] if further else []),
        "## Key frames",
        "",
        _key_text(pictures),
        "",
        *_table(
            ["change", "bytes by itself", "given a key frame", "saved"],
            [
                [
                    row["change"],
                    f"{row['payload_bytes']:,.0f}",
                    f"{row['payload_bytes_given_key']:,.0f}",
                    f"{row['saved_percent']:g} %",
                ]
                for row in report["key_frames"]
            ],
        ),
        "",
        "## What was asked",
        "",
        *(f"- {text}" for text in report["questions"]["texts"]),
        "",
        *_limits(report),
    ]
    return "\n".join(lines) + "\n"


def _key_text(pictures: Report) -> str:
    if pictures["video"]:
        return "Fitted on frames of the video, and measured on those of the report, one key frame in ten."
    return (
        "There was no video: tables were fitted on pictures that are shown again with new noise, with a piece of "
        "another picture put in, in other light and shifted, and measured on pictures of the report changed likewise. "
        "`latentbus codec calibrate --images VIDEO` of your camera fits them to what it sees."
    )


def _limits(report: Report) -> Iterator[str]:
    pictures = report["pictures"]
    yield "## Limits"
    yield ""
    yield (
        "The stop rule's promise holds on average over pictures and questions like those of the calibration, at "
        f"{1 - report['promise']['delta']:.0%} confidence; not for each camera or question."
    )
    if pictures["video"]:
        yield (
            "Frames of one video resemble each other, so that they count for less than as many independent pictures: "
            "calibrate on several days, or on pictures of several cameras, before you rely on it."
        )
    if report["codec"]["fit"]["mode"] == "stretch":
        yield "Pictures are stretched to a square, at the edge as here."
    left_out = [
        *([f"{pictures['repeated']:,} showed exactly what another one shows"] if pictures["repeated"] else []),
        *([f"{pictures['left_out']:,} were over `--max-pictures`"] if pictures["left_out"] else []),
    ]
    if left_out:
        yield ""
        yield f"Not used: {'; '.join(left_out)}."
    if skipped := pictures["skipped"]:
        yield ""
        yield f"{counted(len(skipped), 'picture')} could not be read:"
        yield ""
        for row in skipped[:_SHOWN_SKIPPED]:
            yield f"- {row['name']}: {row['problem']}"
        if len(skipped) > _SHOWN_SKIPPED:
            yield f"- and {len(skipped) - _SHOWN_SKIPPED} more, in calibration.json"


def _parity(parity: Report | None) -> str:
    if parity is None:
        return "none"
    return (
        f"ONNX, opset {parity['graph']['opset']}, {parity['size_bytes'] / 1e6:.1f} MB; "
        f"{parity['differing']} of {parity['symbols']:,} symbols differ from torch, each at a rounding boundary"
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'|'.join('---' for _ in columns)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
