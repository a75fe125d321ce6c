"""``latentbus edge`` and ``latentbus worker``: the two kinds of processes of a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.config.settings import LatentbusSettings
    from pipeline.node.runtime import Stop

EDGE_EPILOG = (
    "Examples: latentbus edge --config site.yaml | latentbus edge -c site.yaml --record site.mcap --full-latents | "
    "latentbus edge -c site.yaml --once. With --once: exit status 0 every question has its outcome, 3 not all of them "
    "could be told, 4 a camera showed no frame or a question found no answer in time"
)
WORKER_EPILOG = "Example: latentbus worker --config worker.yaml (start it again on any machine to share the load)"

ONCE_LIMIT_S = 120.0

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="YAML file; see docs/configuration.md.")]
RecordOption = Annotated[
    Path | None,
    typer.Option(help="Log of what this process sends and receives; overrides recording.file of the settings."),
]


def edge(
    config: ConfigOption,
    record: RecordOption = None,
    full_latents: Annotated[
        bool, typer.Option("--full-latents", help="Keep the whole latent of every frame in that log, for replays.")
    ] = False,
    once: Annotated[
        bool,
        typer.Option("--once", help="Ask about one frame of each camera, get the answers, and end: for a timer."),
    ] = False,
    limit_s: Annotated[
        float, typer.Option("--limit", min=1, max=86_400, help="Seconds that --once may take, from start to stop.")
    ] = ONCE_LIMIT_S,
) -> None:
    """Run a site: read its cameras, encode frames, and see every question to its outcome. Needs no torch."""
    from edge_nodes.node import run_edge
    from latentbus.options.node_recording import recorded_edge
    from pipeline.config.settings import load_settings, require_edge

    settings = load_settings(config)
    site = recorded_edge(require_edge(settings, config), record, full_latents=full_latents)
    settings = settings.model_copy(update={"edge": site})
    _run_process(settings, lambda stop: run_edge(settings, stop, once_limit_s=limit_s if once else None))


def worker(config: ConfigOption, record: RecordOption = None) -> None:
    """Run a worker: decode prefixes, answer with the VLM, ask for more only while an answer is not safe."""
    from cloud_workers.node import run_worker
    from latentbus.options.node_recording import recorded_worker
    from pipeline.config.settings import load_settings, require_worker

    settings = load_settings(config)
    settings = settings.model_copy(update={"worker": recorded_worker(require_worker(settings, config), record)})
    _run_process(settings, lambda stop: run_worker(settings, stop))


def _run_process(settings: LatentbusSettings, main: Callable[[Stop], Awaitable[int]]) -> None:
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import leave_blocked_threads, run

    configure_logging(settings.log.level, settings.log.json_lines)
    status = run(main)
    leave_blocked_threads(status)
    raise typer.Exit(status)
