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
    import asyncio

    from analysis.markdown import figures
    from latentbus.bench.uplink import bench_uplink as measure
    from latentbus.bench.uplink import write_report
    from latentbus.reports.safe_console import SafeConsole
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import Stop, run

    configure_logging("warning")
    shown = SafeConsole(stderr=True, highlight=False, soft_wrap=True)

    async def work(stop: Stop) -> int:
        stop.set_ready()
        measuring = asyncio.ensure_future(measure(options, lambda text: shown.print(text, style="dim", markup=False)))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({measuring, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not measuring.done():
            # Nothing is kept of a measurement that was broken off; its folder and its processes go.
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)
            return 1
        report = measuring.result()
        report.print(SafeConsole(highlight=False, soft_wrap=True))
        write_report(report, options)
        write_page(options.markdown, "Wire bytes of a question on a shared uplink", figures(report.to_json(options)))
        return 0

    raise typer.Exit(run(work, drain_timeout_s=60))
