"""``latentbus chaos``: real processes, real faults, and a ledger that must balance."""

from __future__ import annotations

import typer

from latentbus.chaos.options import ChaosOptions
from latentbus.options.option_set import with_option_sets
from latentbus.reports.results_page import write_page

_PLAIN_WIDTH = 120


@with_option_sets
def chaos(options: ChaosOptions) -> None:
    """Break a real fleet on this machine and check that every question still ends exactly once.

    Exit status 1 when a question was lost or decided twice, or a process did not survive what it should; see
    docs/chaos.md. Ctrl-C drains and reports.
    """
    from latentbus.chaos.run import run_chaos
    from latentbus.reports.safe_console import SafeConsole
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import Stop, run

    configure_logging("error")
    console = SafeConsole(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH

    async def run_and_report(stop: Stop) -> int:
        report = await run_chaos(options, stop, console)
        report.print(console)
        if options.json_file is not None:
            report.write_json(options.json_file)
        write_page(options.markdown, "Faults on real processes", report.as_markdown())
        return report.exit_status

    raise typer.Exit(run(run_and_report, drain_timeout_s=900))
