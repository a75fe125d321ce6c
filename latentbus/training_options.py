"""Options that the ``train`` and ``codec`` commands share, and what they do with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

CacheOption = Annotated[
    Path, typer.Option("--cache", help="Rendered frames, tokens and checkpoints; can be deleted afterwards.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
ThreadsOption = Annotated[int, typer.Option(help="CPU threads.", min=1)]
VlmOption = Annotated[
    Path | None, typer.Option(help="Folder of the VLM in save_pretrained format; the bundled one unless given.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the report to this file instead of the terminal.")
]
BudgetOption = Annotated[str, typer.Option(help="How much of everything: full, or smoke for a run of about a minute.")]
DeviceOption = Annotated[str, typer.Option(help="Where to learn: cpu, or cuda.")]
PhotosOption = Annotated[
    Path | None, typer.Option(help="Class folder or zip of photographs: the second domain, beside rendered scenes.")
]
ResumeOption = Annotated[bool, typer.Option(help="Continue from the checkpoints of the same run.")]
MaxSecondsOption = Annotated[
    float | None, typer.Option(help="End the learning after so many seconds, its schedule drawn in.", min=1)
]

DEFAULT_CACHE = Path(".demo/training")


def vlm_or_bundled(given: Path | None) -> Path:
    """The VLM's folder; the bundled one unless given."""
    from pipeline.codec.bundled import bundled_vlm_dir

    return given or bundled_vlm_dir()


def show_progress(line: str) -> None:
    """A line on the standard error, so that reports can be piped."""
    typer.echo(line, err=True)


def write_report(report: dict[str, Any], path: Path | None) -> None:
    """Write a report as JSON, to the terminal unless a file is given."""
    text = json.dumps(report, indent=2)
    if path is None:
        typer.echo(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
