"""Every setting of a Latentbus process, read from one YAML file.

A file may hold a whole fleet, ``sites:`` and ``pools:`` with defaults that they share, or one process, ``edge:`` or
``worker:``; a process reads its own part (:mod:`pipeline.config.fleet_file`). String values may name
environment variables (``${NAME}`` or ``${NAME:-default}``), and any value can be overridden from the environment
(``LATENTBUS_BROKER__PASSWORD``), so that no secret needs to be in the file. Relative paths count from its folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.config.asking_settings import MAX_PROFILES, ProfileSettings
from pipeline.config.broker_settings import BrokerSettings, broker_below
from pipeline.config.edge_settings import EdgeSettings, site_below
from pipeline.config.fleet_file import Part, read_part
from pipeline.config.gateway_settings import GatewaySettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.section import Section
from pipeline.config.settings_checks import undefined_channels, undefined_questions, unknown_in_profiles
from pipeline.config.settings_file import Check, SettingsFile
from pipeline.config.worker_settings import WorkerSettings, worker_below
from schemas.errors import ConfigError
from schemas.types import Name

ENV_PREFIX = "LATENTBUS_"
ENV_DELIMITER = "__"
MAX_SITES = 1_024
MAX_POOLS = 256


class LogSettings(Section):
    """What is logged, and how it looks."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True)

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    json_lines: bool | None = Field(default=None, alias="json")
    """JSON lines; null writes them unless the output is a terminal."""


class DefaultsSettings(Section):
    """What sections take where they leave a key out; they are filled in before the settings are read."""

    site: dict[str, Any] = Field(default_factory=dict)
    """Of every site."""
    camera: dict[str, Any] = Field(default_factory=dict)
    """Of every camera."""
    question: dict[str, Any] = Field(default_factory=dict)
    """Of every question."""
    alert: dict[str, Any] = Field(default_factory=dict)
    """Of every alert of a question."""


class LatentbusSettings(BaseSettings):
    """The whole file."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        extra="forbid",
        frozen=True,
        validate_default=False,
    )

    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    """Where the broker is."""
    edge: EdgeSettings | None = None
    """The site of an edge process."""
    worker: WorkerSettings | None = None
    """A worker of a pool."""
    gateway: GatewaySettings | None = None
    """The HTTP gateway of the fleet."""
    sites: Annotated[dict[Name, EdgeSettings], Field(max_length=MAX_SITES)] = Field(default_factory=dict)
    """Sites of a fleet by name; an edge process has its own as ``edge``."""
    pools: Annotated[dict[Name, WorkerSettings], Field(max_length=MAX_POOLS)] = Field(default_factory=dict)
    """Pools of a fleet by name: the settings of their workers."""
    questions: dict[Name, QuestionSettings] = Field(default_factory=dict)
    """Standing questions of all sites whose cameras ask them, by id."""
    profiles: Annotated[dict[Name, ProfileSettings], Field(max_length=MAX_PROFILES)] = Field(default_factory=dict)
    """Profiles of all sites; a site may change a part of one."""
    defaults: DefaultsSettings = Field(default_factory=DefaultsSettings)
    """What sections take where they leave a key out."""
    log: LogSettings = Field(default_factory=LogSettings)
    """What is logged."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the library's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file: what is deployed beside a file overrides it."""
        return env_settings, init_settings


ALL = Part()
"""A whole file, whoever reads which part of it."""


def load_settings(path: Path, *, part: Part = ALL, checks: Sequence[Check] = ()) -> LatentbusSettings:
    """Read a settings file.

    Args:
        path: the YAML file.
        part: what of it is read.
        checks: what else must hold; their problems come in one list with all others.

    Returns:
        The settings, environment applied, relative paths made absolute from the file's folder.

    Raises:
        ConfigError: the file cannot be read or is wrong; every problem with its line, key and what is allowed.
    """
    settings = read_part(path, part).validate(
        LatentbusSettings,
        env_prefix=ENV_PREFIX,
        env_delimiter=ENV_DELIMITER,
        checks=(undefined_questions, undefined_channels, *((unknown_in_profiles,) if part == ALL else ()), *checks),
    )
    return _with_absolute_paths(settings, path.absolute().parent)


def settings_of_environment() -> LatentbusSettings:
    """The settings of a command that was given no file: defaults, and what the environment says.

    Raises:
        ConfigError: the environment is wrong.
    """
    return SettingsFile(Path("environment"), {}, {}).validate(
        LatentbusSettings, env_prefix=ENV_PREFIX, env_delimiter=ENV_DELIMITER, checks=(undefined_questions,)
    )


def require_edge(settings: LatentbusSettings, path: Path) -> EdgeSettings:
    """The edge section.

    Raises:
        ConfigError: the file has none.
    """
    if settings.edge is None:
        raise ConfigError(str(path), "no edge section: add `edge:` with at least site and cameras, or `sites:`")
    return settings.edge


def require_worker(settings: LatentbusSettings, path: Path) -> WorkerSettings:
    """The worker section.

    Raises:
        ConfigError: the file has none.
    """
    if settings.worker is None:
        raise ConfigError(str(path), "no worker section: add `worker: {}` for the defaults, or `pools:`")
    return settings.worker


def require_gateway(settings: LatentbusSettings, path: Path) -> GatewaySettings:
    """The gateway section.

    Raises:
        ConfigError: the file has none.
    """
    if settings.gateway is None:
        raise ConfigError(str(path), "no gateway section: add `gateway: {}` for the defaults")
    return settings.gateway


def _with_absolute_paths(settings: LatentbusSettings, folder: Path) -> LatentbusSettings:
    edge, worker = settings.edge, settings.worker
    update = {
        "broker": broker_below(settings.broker, folder),
        "edge": None if edge is None else site_below(edge, folder),
        "worker": None if worker is None else worker_below(worker, folder),
        "gateway": None if settings.gateway is None else settings.gateway.below(folder),
        "sites": {name: site_below(site, folder) for name, site in settings.sites.items()},
        "pools": {name: worker_below(pool, folder) for name, pool in settings.pools.items()},
    }
    return settings.model_copy(update=update)
