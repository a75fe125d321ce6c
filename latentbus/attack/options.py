"""What a run of attacks is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from latentbus.reports.output_files import json_target
from latentbus.reports.results_page import MarkdownOption
from schemas.errors import ConfigError

NAMES: Final = (
    "capture", "same-ids", "foreign-replies", "forbidden-topics", "camera-claim", "deletion", "expiry", "malformed",
    "version-1", "busy-storm", "text-flood", "flood", "burst", "long-questions", "correlation", "properties",
    "retained", "connections",
)  # fmt: skip
"""Names of the attacks, here since --help, which is to be quick, shows them."""


@dataclass(frozen=True, slots=True)
class AttackOptions:
    """Options of ``latentbus attack``.

    Attributes:
        short: fewer messages of each kind, for a test run.
        only: names of the attacks to run; empty runs all.
        seed: of everything that is drawn.
        deadline_s: of the questions that bystanders ask.
        json_file: where the report is written.
        markdown: where the figures are written as a page.
        work_dir: the fleet's folder, settings, logs.

    Raises:
        ConfigError: there is no attack of a name.
    """

    short: Annotated[bool, typer.Option("--short", help="Fewer messages of each kind: under a minute.")] = False
    only: Annotated[
        tuple[str, ...], typer.Option(help=f"Only this attack; repeatable. There are {', '.join(NAMES)}.")
    ] = ()
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.", min=0)] = 0
    deadline_s: Annotated[
        float,
        typer.Option("--deadline", help="Deadline of the bystanders' questions in seconds.", min=1, max=120),
    ] = 15.0
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.", callback=json_target)
    ] = None
    markdown: MarkdownOption = None
    work_dir: Annotated[Path, typer.Option(help="Certificates, generated settings, logs.")] = Path(".attack")

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.only) - set(NAMES)):
            raise ConfigError("--only", f"no attack {', '.join(unknown)}; there are {', '.join(NAMES)}")

    def count(self, full: int, short: int) -> int:
        """How many messages an attack sends."""
        return short if self.short else full
