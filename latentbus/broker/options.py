"""How a command is told where the broker is: a settings file, and options that override it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.config.broker_settings import BrokerSettings

BrokerConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with a broker section.")]
HostOption = Annotated[str | None, typer.Option("--host", "-H", help="Broker host; overrides the file.")]
PortOption = Annotated[
    int | None, typer.Option("--port", "-p", help="Broker port; overrides the file.", min=1, max=65535)
]
IdOption = Annotated[
    str | None,
    typer.Option(
        "--id",
        "-i",
        metavar="NAME",
        help="Name of this client: its client id begins with it, and what it asks is asked in this name. Unless given, "
        "the user name on the broker, or a drawn one.",
    ),
]


def broker_settings(config: Path | None, host: str | None, port: int | None) -> BrokerSettings:
    """The broker that the options of a command name.

    Raises:
        ConfigError: the file, the environment or an option is wrong.
    """
    from pipeline.config.fleet_file import Part
    from pipeline.config.settings import load_settings, settings_of_environment

    settings = load_settings(config, part=Part("client")) if config else settings_of_environment()
    return with_address(settings.broker, host, port)


def with_address(broker: BrokerSettings, host: str | None, port: int | None) -> BrokerSettings:
    """The same broker under another host or port, where they are given.

    Raises:
        ConfigError: the host is none.
    """
    from latentbus.options.arguments import made_of

    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return made_of(type(broker), {"host": "--host", "port": "--port"}, **{**dict(broker), **given})
