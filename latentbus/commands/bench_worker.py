"""``latentbus bench worker``."""

from __future__ import annotations

import typer

from latentbus.bench.options import WorkerBenchOptions
from latentbus.options.option_set import with_option_sets
from latentbus.reports.results_page import write_page

EPILOG = "Examples: latentbus bench worker --json worker.json | latentbus bench worker --models my-models"


@with_option_sets
def bench_worker(options: WorkerBenchOptions) -> None:
    """Measure questions a second of a worker's model: in batches across cameras, and one by one.

    16 questions of 16, 4 and 1 frames, decoder and model. One by one is the faster of transformers' generate and of
    the worker's own engine with one question at a time.

    Exit status: 0 when all that was measured is as it should be, 1 otherwise.
    """
    from analysis.markdown import figures
    from latentbus.bench.measuring import unless_stopped
    from latentbus.bench.worker.run import bench_worker as measure
    from latentbus.reports.output_files import write_json
    from latentbus.reports.plain import plain
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import Stop, run

    configure_logging("error")

    async def work(stop: Stop) -> int:
        measuring = measure(options, lambda what: typer.echo(f"measuring: {what}", err=True))
        found = await unless_stopped(measuring, stop)
        if found is None:
            return 1
        report = found.as_dict()
        for name, value in report.items():
            typer.echo(f"{name:28} {plain(value)}")
        write_json(options.json_file, report)
        write_page(options.markdown, "A worker's model: batched and one by one", figures(report))
        return int(bool(found.missed()))

    raise typer.Exit(run(work, drain_timeout_s=60))
