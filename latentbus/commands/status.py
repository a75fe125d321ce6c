"""``latentbus status``: a fleet at one moment."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, IdOption, PortOption, broker_settings
from latentbus.options.arguments import checked_name

EPILOG = "Examples: latentbus status -H broker.example | latentbus status --json | jq .problems"


def status(
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    name: IdOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is wrong with a fleet, then its pools with their backlog, workers, sites and cameras.

    It looks once, for a few seconds; `latentbus watch` goes on. Exit status: 0 nothing is wrong, 1 something is, or the
    broker cannot be reached, 2 wrong settings.
    """
    from latentbus.client.overview import read_overview
    from latentbus.reports.fleet_overview import print_overview
    from pipeline.config.logs import configure_logging

    configure_logging("error")
    broker = broker_settings(config, host, port)
    overview = asyncio.run(read_overview(broker, name=checked_name("--id", name)))
    if as_json:
        typer.echo(json.dumps(overview.as_dict()))
    else:
        print_overview(overview)
    raise typer.Exit(int(not overview.healthy))
