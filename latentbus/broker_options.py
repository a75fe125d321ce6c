"""How a command is told where the broker is: a settings file, and options that override it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.settings import BrokerSettings

BrokerConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with a broker section.")]
HostOption = Annotated[str | None, typer.Option(help="Broker host; overrides the file.")]
PortOption = Annotated[int | None, typer.Option(help="Broker port; overrides the file.", min=1, max=65535)]


def broker_settings(config: Path | None, host: str | None, port: int | None) -> BrokerSettings:
    """The broker that the options of a command name.

    Raises:
        ConfigError: the file is wrong.
    """
    from pipeline.settings import LatentbusSettings, load_settings

    settings = load_settings(config) if config else LatentbusSettings()
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return settings.broker.model_copy(update=given)
