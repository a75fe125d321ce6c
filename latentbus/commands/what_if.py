"""``latentbus what-if``: what another uplink, pool or policy would have made of a recorded run, in the simulator."""

from __future__ import annotations

from latentbus.options.option_set import with_option_sets
from latentbus.what_if.options import WhatIfOptions

EPILOG = "Example: latentbus what-if run.mcap site.mcap --uplink-kbps 16 --workers 1"


@with_option_sets
def what_if(options: WhatIfOptions) -> None:
    """Compute what another uplink, pool or policy would have made of a recorded run. Nothing is published."""
    from latentbus.reports.safe_console import SafeConsole
    from latentbus.what_if.run import run_what_if
    from pipeline.config.logs import configure_logging

    configure_logging("warning")
    run_what_if(options, SafeConsole(stderr=True))
