"""The ``compare`` and ``redact`` commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from latentbus.reports.output_files import html_target, json_target, write_json, write_text
from schemas.counting import counted
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.progress import Progress

    from analysis.compare.compared_log import ComparedLog
    from analysis.compare.comparison import Comparison, Share
    from pipeline.recording.message import LoggedMessage
    from pipeline.recording.reader import LogReader, LogSet

COMPARE_EPILOG: Final = (
    "Examples: latentbus compare run.mcap again.mcap --fail-over 1% | "
    "latentbus compare run.mcap again.mcap --html report.html --json cmp.json"
)
REDACT_EPILOG: Final = "Example: latentbus redact run.mcap shareable.mcap --latents --text"

_SHOWN_CHANGES: Final = 10


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.mcap", help="What was before; a folder is all logs in it.")],
    b: Annotated[Path, typer.Argument(metavar="B.mcap", help="What is now, a replay of A for example.")],
    fail_over: Annotated[
        str, typer.Option(metavar="PERCENT", help="Exit with 1 when more queries than this changed, for example 1%.")
    ] = "0%",
    html: Annotated[
        Path | None, typer.Option(help="Write a report with plots to this file.", callback=html_target)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.", callback=json_target)
    ] = None,
) -> None:
    """Compare two logs: which answers and outcomes changed, and what bytes and time did.

    A query of A counts as changed when B ends it in another outcome, with another answer, or does not have it.

    Exit status: 0 within the limit, 1 over it or nothing to compare, 2 wrong usage.
    """
    limit = _share(fail_over)
    if html is not None:
        import jinja2  # noqa: F401 - said before the work rather than after it
        import matplotlib as mpl  # noqa: F401

    from analysis.compare.comparison import compare_logs

    with _progress() as progress:
        result = compare_logs(_read(a, progress), _read(b, progress))
    write_json(json_file, result.to_json())
    if html is not None:
        from latentbus.logs.compare_report import render_report

        write_text(html, render_report(result, limit=limit), "--html")
    _print(result, limit)
    raise typer.Exit(int(result.over(limit)))


def redact(
    source: Annotated[Path, typer.Argument(metavar="IN.mcap", help="The log.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.mcap", help="The redacted log; must not exist.")],
    latents: Annotated[bool, typer.Option("--latents", help="Take out what the cameras saw.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Take out questions and answers.")] = False,
) -> None:
    """Copy a log without what is private in it; sizes, times, outcomes and names stay.

    Latents become zero bytes and texts placeholders, each as long as before. What does not decode becomes zero bytes
    as a whole. With --text, attachments that may quote a question are left out.
    """
    from analysis.redact.redacted_copy import copy_redacted
    from analysis.redact.redaction import Redaction
    from pipeline.recording.reader import LogReader

    kinds = [kind for kind, chosen in ((Redaction.LATENTS, latents), (Redaction.TEXT, text)) if chosen]
    if not kinds:
        raise ConfigError("redact", "say what to take out: --latents, --text or both")
    with LogReader(source) as log, _progress() as progress:
        if not log.complete:
            typer.echo(f"latentbus: {source} was not closed well: only what is whole in it is copied", err=True)
        messages = copy_redacted(log, target, kinds, watch=lambda seen: _watched(seen, log, source.name, progress))
    typer.echo(f"{target}: {counted(messages, 'message')}, redacted: {', '.join(kinds)}")


def _share(percent: str) -> float:
    """The share that a percentage is."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", percent)
    share = float(match[1]) / 100 if match else -1.0
    if not 0 <= share <= 1:
        raise ConfigError("--fail-over", f"{percent!r} is no percentage of 0% to 100%: write for example 1%")
    return share


def _read(path: Path, progress: Progress) -> ComparedLog:
    from analysis.clocks import align
    from analysis.compare.compared_log import ComparedLog
    from analysis.merged import merged
    from analysis.traffic import read_traffic
    from pipeline.recording.reader import open_logs

    paths = sorted(path.glob("*.mcap")) if path.is_dir() else [path]
    if not paths:
        raise ConfigError(str(path), "no .mcap file in this folder: name a log or a folder of logs")
    with open_logs(paths) as log:
        clocks = tuple(str(clock) for clock in align(log))
        return ComparedLog(
            name=str(path),
            traffic=read_traffic(_watched(merged(log), log, path.name, progress)),
            metadata=log.metadata(),
            complete=log.complete,
            missing_messages=sum(gap.count for gap in log.gaps()),
            clocks=clocks,
        )


def _watched(
    messages: Iterable[LoggedMessage], log: LogReader | LogSet, name: str, progress: Progress
) -> Iterator[LoggedMessage]:
    """The same messages, counted on the progress bar."""
    task = progress.add_task(name, total=log.message_count)
    for number, message in enumerate(messages):
        if number % 1000 == 0:
            progress.update(task, completed=number)
        yield message
    progress.update(task, completed=log.message_count)


@contextmanager
def _progress() -> Iterator[Progress]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from latentbus.reports.safe_console import SafeConsole

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=SafeConsole(stderr=True), transient=True,
    ) as progress:  # fmt: skip
        yield progress


def _print(result: Comparison, limit: float) -> None:
    from rich.markup import escape

    from latentbus.logs.compare_figures import cost_rows, percent, tiles
    from latentbus.reports.safe_console import SafeConsole

    console = SafeConsole(highlight=False)
    total = result.compared + result.only_a
    verdict = "over" if result.over(limit) else "within"
    console.print(
        f"[bold]{result.changed} of {counted(total, 'query', 'queries')} changed ({percent(result.changed_share)})[/], "
        f"{verdict} the limit of {percent(limit)}; brought together by {result.matched_by.value}"
    )
    console.print(", ".join(f"{count} {name}" for count, name in tiles(result)))
    for note in result.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    console.print(_table("", "A", "B", "B against A", rows=[list(row) for row in cost_rows(result)]))
    for title, groups in (
        ("answer type", result.by_type),
        ("camera", result.by_camera),
        ("score in A", result.by_confidence),
    ):
        if any(share.changed for share in groups.values()):
            console.print(_table(title, "compared", "changed", "", rows=_share_rows(groups)))
    if result.outcomes_differ:
        columns = sorted({name for row in result.matrix.values() for name in row})
        rows = [[name, *(str(row.get(other, 0)) for other in columns)] for name, row in result.matrix.items()]
        console.print(_table("outcome in A, B across", *columns, rows=rows))
    for change in result.changes[:_SHOWN_CHANGES]:
        console.print(
            escape(
                f"{change.query_id} {change.question!r}: {change.outcome_a} {change.text_a!r} "
                f"-> {change.outcome_b} {change.text_b!r} {change.reason_b}".rstrip()
            ),
            soft_wrap=True,
        )
    if len(result.changes) > _SHOWN_CHANGES:
        console.print(f"and {len(result.changes) - _SHOWN_CHANGES} more: see --html and --json")


def _share_rows(groups: dict[str, Share]) -> list[list[str]]:
    from latentbus.logs.compare_figures import percent

    return [[name, str(share.compared), str(share.changed), percent(share.share)] for name, share in groups.items()]


def _table(title: str, *columns: str, rows: list[list[str]]) -> object:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(title)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table
