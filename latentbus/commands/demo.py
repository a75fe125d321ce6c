"""``latentbus demo``: the whole system on one machine."""

from __future__ import annotations

import typer

from latentbus.demo.options import DemoOptions
from latentbus.options.option_set import with_option_sets

EPILOG = (
    "Examples: latentbus demo --duration 60 --json out.json | latentbus demo --video street.mp4 "
    "--question 'is there a person?'"
)


@with_option_sets
def demo(options: DemoOptions) -> None:
    """Run the whole system on this machine: broker, one site of cameras on a thin uplink, and workers."""
    from latentbus.demo.run import run_demo
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import run

    configure_logging("warning")
    # The drain of the edge is bounded by itself; then the comparison runs, which a second Ctrl-C ends.
    raise typer.Exit(run(lambda stop: run_demo(options, stop), drain_timeout_s=900))
