"""``latentbus attack``."""

from __future__ import annotations

import typer

from latentbus.attack.options import AttackOptions
from latentbus.options.option_set import with_option_sets
from latentbus.reports.results_page import write_page

EPILOG = "Examples: latentbus attack --json attack.json | latentbus attack --short --only capture --only flood"
_PLAIN_WIDTH = 150


@with_option_sets
def attack(options: AttackOptions) -> None:
    """Attack a secured fleet that is started on this machine for it, and see whether bystanders notice.

    It takes no host: nothing but its own fleet can be attacked. Exit status 1 when an attack got through: an answer was
    wrong, late or reached somebody else, a process ended, met a bug or kept memory, or the broker took what it must
    refuse. See docs/attack.md.
    """
    from latentbus.attack.run import run_attacks
    from latentbus.reports.safe_console import SafeConsole
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import Stop, run

    configure_logging("error")
    console = SafeConsole(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH

    async def run_and_report(stop: Stop) -> int:
        report = await run_attacks(options, stop, console)
        report.print(console)
        if options.json_file is not None:
            report.write_json(options.json_file)
        write_page(options.markdown, "Attacks on a secured fleet", report.as_markdown())
        return report.exit_status

    raise typer.Exit(run(run_and_report, drain_timeout_s=300))
