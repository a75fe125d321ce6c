"""``latentbus doctor``: why a process would not work here, and what to do about it."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, IdOption, PortOption
from latentbus.options.arguments import checked_name
from schemas.errors import ConfigError

EPILOG = (
    "Examples: latentbus doctor -H broker.example | latentbus doctor --config fleet.yaml --site north | "
    "latentbus doctor --json"
)


def doctor(
    config: BrokerConfigOption = None,
    site: Annotated[str | None, typer.Option(help="Which site of the file this is, where it has several.")] = None,
    pool: Annotated[str | None, typer.Option(help="Which pool of the file it serves, where it has several.")] = None,
    host: HostOption = None,
    port: PortOption = None,
    name: IdOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at what a process needs, each with its fix: broker, its version and bugs, TLS, topics, models, clock, disk.

    With the settings file of an edge, worker or gateway it looks at what that needs, else at what a client needs. On a
    broker with certificates a name has one connection: stop the process of the file first, it would be disconnected.
    `latentbus edge --check` looks at cameras and encoder. Exit status: 0 nothing is bad, 1 something is, 2 wrong
    settings.
    """
    from edge_nodes.check.findings import Verdict
    from latentbus.broker.options import with_address
    from latentbus.doctor.broker import worst
    from latentbus.doctor.run import diagnose
    from latentbus.reports.edge_check import print_findings
    from pipeline.config.fleet_file import Part
    from pipeline.config.logs import configure_logging
    from pipeline.config.settings import ALL, load_settings, settings_of_environment

    configure_logging("error")
    if site is not None and pool is not None:
        raise ConfigError("--pool", "an edge or a worker, not both: leave --site out, or this")
    part = ALL if site is None and pool is None else Part("edge", site) if pool is None else Part("worker", pool)
    settings = settings_of_environment() if config is None else load_settings(config, part=part)
    settings = settings.model_copy(update={"broker": with_address(settings.broker, host, port)})
    findings = asyncio.run(diagnose(settings, config, checked_name("--id", name)))
    status = int(worst(findings) is Verdict.BAD)
    if as_json:
        typer.echo(json.dumps({"can": not status, "findings": [finding.as_dict() for finding in findings]}))
    else:
        print_findings(findings)
    raise typer.Exit(status)
