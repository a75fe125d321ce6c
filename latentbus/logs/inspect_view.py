"""What a person sees of ``latentbus inspect``."""

from __future__ import annotations

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from analysis.inspection import Inspection
from latentbus.reports.safe_console import SafeConsole
from schemas.counting import counted

_SHOWN = 20


def print_inspection(inspection: Inspection, console: Console | None = None) -> None:
    """Print tables of a log.

    Args:
        inspection: its figures.
        console: where to; standard output unless given.
    """
    out = console or SafeConsole(highlight=False)
    _head(inspection, out)
    if inspection.cameras:
        _cameras(inspection, out)
    if inspection.questions:
        _questions(inspection, out)
    if inspection.families or inspection.undecodable:
        _messages(inspection, out)
    _missing(inspection, out)


def _head(inspection: Inspection, out: Console) -> None:
    table = Table(show_header=False, box=None, padding=(0, 1))
    for file in inspection.files:
        state = "" if file.complete else "[bold yellow]incomplete[/]  "
        redaction = f", redacted: {file.redaction}" if file.redaction else ""
        table.add_row(
            "file", f"{state}{escape(file.path)}  {decimal(file.size_bytes)}, {counted(file.chunks, 'chunk')}, "
            f"version {file.written_by}{redaction}",
        )  # fmt: skip
        for name, size in file.attachments.items():
            table.add_row("", f"[dim]attached {escape(name)}, {decimal(size)}[/]")
    table.add_row("time", f"{inspection.start or '-'} to {inspection.stop or '-'}, {inspection.duration_s:,.1f} s")
    table.add_row(
        "messages",
        f"{inspection.messages:,}, {decimal(inspection.payload_bytes)} of payload, "
        f"{inspection.messages_per_s:,.1f}/s, at most {inspection.busiest_messages_per_s:,} in a second",
    )
    table.add_row("outcomes", _counts(inspection.outcomes))
    table.add_row("fingerprints", ", ".join(inspection.fingerprints) or "-")
    table.add_row("processes", _named(list(inspection.processes)))
    out.print(table)


def _cameras(inspection: Inspection, out: Console) -> None:
    table = Table("camera", title="Cameras", title_justify="left")
    for name in ("frames", "keys", "queries", "uplink kB", "kbps", "latents kB"):
        table.add_column(name, justify="right")
    table.add_column("outcomes")
    for name, camera in list(inspection.cameras.items())[:_SHOWN]:
        table.add_row(
            name, f"{camera.frames:,}", f"{camera.key_frames:,}", f"{camera.queries:,}",
            f"{camera.uplink_bytes / 1e3:,.1f}", f"{camera.uplink_kbps:,.2f}", f"{camera.latent_bytes / 1e3:,.1f}",
            _counts(camera.outcomes),
        )  # fmt: skip
    out.print(table)
    _more(len(inspection.cameras), "cameras", out)


def _questions(inspection: Inspection, out: Console) -> None:
    table = Table("question", "text", title="Questions", title_justify="left")
    table.add_column("queries", justify="right")
    table.add_column("median ms", justify="right")
    table.add_column("outcomes")
    for name, question in list(inspection.questions.items())[:_SHOWN]:
        latency = "-" if question.median_latency_ms is None else f"{question.median_latency_ms:,.0f}"
        table.add_row(
            escape(name), escape(question.text or "-"), f"{question.queries:,}", latency, _counts(question.outcomes)
        )
    out.print(table)
    _more(len(inspection.questions), "questions", out)


def _messages(inspection: Inspection, out: Console) -> None:
    table = Table("messages", title="Messages", title_justify="left")
    table.add_column("count", justify="right")
    for name, count in inspection.families.items():
        table.add_row(name, f"{count:,}")
    for name, count in inspection.undecodable.items():
        table.add_row(f"[dim]not decoded: {escape(name)}[/]", f"{count:,}")
    out.print(table)


def _missing(inspection: Inspection, out: Console) -> None:
    for gap in inspection.gaps[:_SHOWN]:
        count = counted(gap.count, "message") if gap.count else "an unknown number of messages"
        out.print(f"[yellow]missing[/] {count} before {gap.time_ns / 1e9:.3f}: {escape(gap.reason)}")
    _more(len(inspection.gaps), "gaps", out)
    for file in inspection.files:
        for damage in file.damages[:_SHOWN]:
            out.print(f"[yellow]not readable[/] {escape(file.path)}: {escape(damage)}")
        if not file.complete or file.damages:
            state = "is damaged" if file.complete else "was not closed"
            out.print(
                f"[bold yellow]{escape(file.path)} {state}[/]: save what is whole with: "
                f"latentbus recover {escape(file.path)} -o FILE", soft_wrap=True,
            )  # fmt: skip


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "-"


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return escape(", ".join(names[:_SHOWN]) or "-") + more


def _more(count: int, what: str, out: Console) -> None:
    if count > _SHOWN:
        out.print(f"[dim]and {count - _SHOWN} more {what}, see --json[/]")
