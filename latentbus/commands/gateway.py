"""``latentbus gateway``: HTTP API and dashboard of a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus.broker.options import HostOption, PortOption

if TYPE_CHECKING:
    from pipeline.config.settings import LatentbusSettings

EPILOG = (
    "Examples: latentbus gateway --host broker.example | latentbus gateway --config gateway.yaml | "
    "curl -N localhost:8080/v1/ask -H 'Content-Type: application/json' "
    '-d \'{"camera": "gate", "question": "Is there a red car?"}\''
)


def gateway(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file with the sections broker and gateway.")
    ] = None,
    host: HostOption = None,
    port: PortOption = None,
    listen: Annotated[
        str | None, typer.Option(help="Where to listen, ADDRESS:PORT; overrides the file. Default: 127.0.0.1:8080.")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Folder of the history; overrides the file. Without one it is in memory alone.")
    ] = None,
) -> None:
    """Serve a fleet over HTTP: ask, answers as they improve, history, alerts, and a dashboard.

    Anything but loopback needs a token: those of the file, else one that is made and shown once. Exit status: 0 after a
    stop in good order, 1 when it could not go on, 2 wrong settings.
    """
    from latentbus.gateway.options import gateway_settings
    from latentbus.gateway.process import run_gateway
    from pipeline.config.alert_rules import site_profiles
    from pipeline.config.logs import configure_logging
    from pipeline.config.reload import check_shared
    from pipeline.node.runtime import leave_blocked_threads, run

    settings = gateway_settings(config, host, port, listen, state_dir)

    def again() -> LatentbusSettings:
        read = gateway_settings(config, host, port, listen, state_dir)
        check_shared(settings, read)
        return read

    configure_logging(settings.log.level, settings.log.json_lines)
    assert settings.gateway is not None  # noqa: S101 - gateway_settings gives one
    served = settings.gateway
    sites = site_profiles(settings)
    status = run(lambda stop: run_gateway(settings.broker, served, stop, sites=sites, reload=again))
    leave_blocked_threads(status)
    raise typer.Exit(status)
