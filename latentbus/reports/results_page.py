"""Pages of measured figures, as in ``docs/results``: command, date, commit, machine, and what was found."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from latentbus import __version__
from latentbus.reports.output_files import RESULTS_MARK, markdown_target, write_text

_OUTPUT_OPTIONS: Final = ("--json", "--markdown", "--plots", "--work-dir", "--cache", "--picture", "--metrics-port")
"""Options whose value says where something goes, and nothing about what is measured."""

MarkdownOption = Annotated[
    Path | None,
    typer.Option("--markdown", help="Write the figures as a page to this file.", dir_okay=False,
                 callback=markdown_target),
]  # fmt: skip


def write_page(path: Path | None, title: str, body: str, arguments: Sequence[str] | None = None) -> None:
    """Write a page of figures, where one was asked for.

    Args:
        path: of the page; None writes nothing.
        title: of the page.
        body: its tables, in Markdown.
        arguments: of the command, its name first; those of this process unless given.

    Raises:
        ConfigError: it cannot be written.
    """
    if path is not None:
        write_text(path, page(title, body, shown_command(arguments or _own_arguments())), "--markdown")


def page(title: str, body: str, command: str) -> str:
    """A page: its title, where its figures come from, and the figures."""
    return (
        f"# {title}\n\n{RESULTS_MARK}\n\n"
        f"- Command: `{command}`\n"
        f"- Measured: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {_source_version()}\n"
        f"- Machine: {machine_class()}\n\n"
        f"{body.strip()}\n"
    )


def shown_command(arguments: Sequence[str]) -> str:
    """A command as a reader would type it: without the options that say where output goes, and without folders.

    Args:
        arguments: the command and what follows it.
    """
    shown = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name in _OUTPUT_OPTIONS:
            if not equals:
                next(rest, None)
            continue
        shown.append(re.sub(r"(?<![\w.:])~?/\S*/(\S+)", r"\1", argument))
    return " ".join(word if re.fullmatch(r"[\w./:%=,@+-]+", word) else shlex.quote(word) for word in shown)


def machine_class() -> str:
    """Processor cores that this process may use, memory, architecture, Python and load."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (
        f"{cores} cores ({platform.machine()}), {memory_gib:.0f} GiB of memory, {platform.system()}, "
        f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f} at the end"
    )


def _own_arguments() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name.startswith("benchmarks."):
        return ["python", "-m", spec.name, *sys.argv[1:]]
    return ["latentbus", *sys.argv[1:]]


def _source_version() -> str:
    """The commit that runs, or the version where it is not run from a checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        found = subprocess.run(  # noqa: S603 - no part of it comes from outside
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"],  # noqa: S607 - as PATH has it
            capture_output=True,
            check=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"
    return f"commit {found.stdout.strip().replace('-dirty', ' with changes')}"
