"""``latentbus attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbus.attack.options import NAMES
from latentbus.reports.output_files import json_target
from latentbus.reports.results_page import MarkdownOption, write_page
from schemas.errors import ConfigError

EPILOG = "Examples: latentbus attack --json attack.json | latentbus attack --short --only capture --only flood"
_PLAIN_WIDTH = 150


def attack(
    short: Annotated[bool, typer.Option("--short", help="Fewer messages of each kind: under a minute.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this attack; repeatable. There are {', '.join(NAMES)}.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.", min=0)] = 0,
    deadline: Annotated[
        float, typer.Option(help="Deadline of the bystanders' questions in seconds.", min=1, max=120)
    ] = 15.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.", callback=json_target)
    ] = None,
    markdown: MarkdownOption = None,
    work_dir: Annotated[Path, typer.Option(help="Certificates, generated settings, logs.")] = Path(".attack"),
) -> None:
    """Attack a secured fleet that is started on this machine for it, and see whether bystanders notice.

    It takes no host: nothing but its own fleet can be attacked. Exit status 1 when an attack got through: an answer was
    wrong, late or reached somebody else, a process ended, met a bug or kept memory, or the broker took what it must
    refuse. See docs/attack.md.
    """
    from latentbus.attack.options import AttackOptions
    from latentbus.attack.run import run_attacks
    from latentbus.reports.safe_console import SafeConsole
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import Stop, run

    if unknown := sorted(set(only or ()) - set(NAMES)):
        raise ConfigError("--only", f"no attack {', '.join(unknown)}; there are {', '.join(NAMES)}")
    configure_logging("error")
    options = AttackOptions(
        short=short, only=tuple(only or ()), seed=seed, deadline_s=deadline, json_file=json_file, work_dir=work_dir
    )
    console = SafeConsole(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH

    async def run_and_report(stop: Stop) -> int:
        report = await run_attacks(options, stop, console)
        report.print(console)
        if options.json_file is not None:
            report.write_json(options.json_file)
        write_page(markdown, "Attacks on a secured fleet", report.as_markdown())
        return report.exit_status

    raise typer.Exit(run(run_and_report, drain_timeout_s=300))
