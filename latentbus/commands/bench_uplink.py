"""``latentbus bench uplink``."""

from __future__ import annotations

import typer

from latentbus.bench.uplink_options import UplinkBenchOptions
from latentbus.options.option_set import with_option_sets
from latentbus.reports.results_page import write_page

EPILOG = "Example: latentbus bench uplink --json uplink.json"


@with_option_sets
def bench_uplink(options: UplinkBenchOptions) -> None:
    """Measure what a question costs on the wire: four cameras on one uplink, before and after, in one run.

    Exit status: 0 when it was measured, 1 after an error.
    """
    from functools import partial

    from analysis.markdown import figures
    from latentbus.bench.measuring import unless_stopped
    from latentbus.bench.uplink import bench_uplink as measure
    from latentbus.bench.uplink import write_report
    from latentbus.reports.safe_console import SafeConsole
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import Stop, run

    configure_logging("warning")
    shown = SafeConsole(stderr=True, highlight=False, soft_wrap=True)

    async def work(stop: Stop) -> int:
        say = partial(shown.print, style="dim", markup=False)
        report = await unless_stopped(measure(options, say), stop)
        if report is None:
            return 1
        report.print(SafeConsole(highlight=False, soft_wrap=True))
        write_report(report, options)
        write_page(options.markdown, "Wire bytes of a question on a shared uplink", figures(report.to_json(options)))
        return 0

    raise typer.Exit(run(work, drain_timeout_s=60))
