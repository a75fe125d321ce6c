"""``latentbus edge`` and ``latentbus worker``: the two kinds of processes of a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus.reports.output_files import json_target, write_json
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.config.edge_settings import EdgeSettings
    from pipeline.config.settings import LatentbusSettings
    from pipeline.node.runtime import Stop

EDGE_EPILOG = (
    "Examples: latentbus edge --config fleet.yaml --site north | latentbus edge -c site.yaml --check | "
    "latentbus edge -c site.yaml --record site.mcap --full-latents | latentbus edge -c site.yaml --once"
)
WORKER_EPILOG = (
    "Example: latentbus worker --config fleet.yaml --pool main (start it again on any machine to share the load)"
)

ONCE_LIMIT_S = 120.0

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="YAML file; see docs/configuration.md.")]
RecordOption = Annotated[
    Path | None,
    typer.Option(help="Log of what this process sends and receives; overrides recording.file of the settings."),
]


def edge(
    config: ConfigOption,
    site: Annotated[str | None, typer.Option(help="Which site of the file this is, where it has several.")] = None,
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
    check: Annotated[
        bool, typer.Option("--check", help="Say whether this device can do it, show what the model sees, and end.")
    ] = False,
    pictures: Annotated[
        Path, typer.Option(help="With --check: folder of a JPEG for each camera, of what the model sees.")
    ] = Path("edge-check"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="With --check: write what was found.", callback=json_target)
    ] = None,
) -> None:
    """Run a site: read its cameras, encode frames, and see every question to its outcome. Needs no torch.

    --check looks at memory, time a frame, each camera and the broker. Stop a running edge of the site first: cameras
    and brokers may take only one of them. Exit status of --check: 0 it can, 1 something is bad, 2 wrong settings; of
    --once: 0 every question has its outcome, 3 not all of them could be told, 4 a camera showed no frame, or a question
    found no answer, in time.
    """
    if check:
        raise typer.Exit(_check_edge(config, site, pictures, json_file))
    if json_file is not None:
        raise ConfigError("--json", "is for --check: add it, or leave --json out")
    from edge_nodes.node import run_edge
    from latentbus.options.node_recording import recorded_edge
    from pipeline.config.fleet_file import Part
    from pipeline.config.reload import check_shared
    from pipeline.config.settings import load_settings, require_edge

    settings = load_settings(config, part=Part("edge", site))

    def own(read: LatentbusSettings) -> EdgeSettings:
        return recorded_edge(require_edge(read, config), record, full_latents=full_latents)

    def again() -> EdgeSettings:
        read = load_settings(config, part=Part("edge", site))
        check_shared(settings, read)
        return own(read)

    settings = settings.model_copy(update={"edge": own(settings)})
    once_limit_s = limit_s if once else None
    _run_process(settings, lambda stop: run_edge(settings, stop, once_limit_s=once_limit_s, reload=again))


def worker(
    config: ConfigOption,
    pool: Annotated[str | None, typer.Option(help="Which pool of the file it serves, where it has several.")] = None,
    record: RecordOption = None,
) -> None:
    """Run a worker: decode prefixes, answer with the VLM, ask for more only while an answer is not safe."""
    from cloud_workers.node import run_worker
    from latentbus.options.node_recording import recorded_worker
    from pipeline.config.fleet_file import Part
    from pipeline.config.settings import load_settings, require_worker

    settings = load_settings(config, part=Part("worker", pool))
    settings = settings.model_copy(update={"worker": recorded_worker(require_worker(settings, config), record)})
    _run_process(settings, lambda stop: run_worker(settings, stop))


def _check_edge(config: Path, site: str | None, pictures: Path, json_file: Path | None) -> int:
    import asyncio

    from edge_nodes.check.device import check_device
    from edge_nodes.check.findings import Verdict
    from latentbus.reports.edge_check import print_findings
    from pipeline.config.fleet_file import Part
    from pipeline.config.logs import configure_logging
    from pipeline.config.settings import load_settings, require_edge
    from pipeline.node.runtime import leave_blocked_threads

    configure_logging("error")
    settings = load_settings(config, part=Part("edge", site))
    findings = asyncio.run(check_device(settings, require_edge(settings, config), pictures))
    print_findings(findings)
    status = int(any(finding.verdict is Verdict.BAD for finding in findings))
    write_json(json_file, {"can": not status, "findings": [finding.as_dict() for finding in findings]})
    leave_blocked_threads(status)
    return status


def _run_process(settings: LatentbusSettings, main: Callable[[Stop], Awaitable[int]]) -> None:
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import leave_blocked_threads, run

    configure_logging(settings.log.level, settings.log.json_lines)
    status = run(main)
    leave_blocked_threads(status)
    raise typer.Exit(status)
