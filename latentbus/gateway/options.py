"""How the command is told what to serve: a settings file, and options that override it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentbus.broker.options import with_address
from latentbus.options.arguments import made_of
from pipeline.config.alert_rules import with_question_alerts
from pipeline.config.fleet_file import Part
from pipeline.config.gateway_settings import GatewaySettings
from pipeline.config.settings import LatentbusSettings, load_settings, require_gateway, settings_of_environment
from schemas.errors import ConfigError

_OPTIONS = {"host": "--listen", "port": "--listen", "state_dir": "--state-dir"}


def gateway_settings(
    config: Path | None, host: str | None, port: int | None, listen: str | None, state_dir: Path | None
) -> LatentbusSettings:
    """The settings of the command, with a gateway section.

    Raises:
        ConfigError: the file, the environment or an option is wrong.
    """
    settings = settings_of_environment() if config is None else load_settings(config, part=Part("gateway"))
    gateway = (settings.gateway or GatewaySettings()) if config is None else require_gateway(settings, config)
    gateway = with_question_alerts(gateway, settings)
    given: dict[str, Any] = {}
    if listen is not None:
        address, _, number = listen.rpartition(":")
        if not address or not number.isdigit():
            raise ConfigError("--listen", f"{listen!r} is not ADDRESS:PORT, such as 0.0.0.0:8080")
        given = {"host": address.strip("[]"), "port": int(number)}
    if state_dir is not None:
        given["state_dir"] = state_dir.absolute()
    if given:
        gateway = made_of(GatewaySettings, _OPTIONS, **{**dict(gateway), **given})
    return settings.model_copy(update={"broker": with_address(settings.broker, host, port), "gateway": gateway})
