"""Settings of the gateway: where it listens, who may do what, what it keeps, and when it alerts."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from pipeline.config.alert_settings import MAX_CHANNELS, AlertConditionSettings
from pipeline.config.home_assistant_settings import HomeAssistantSettings
from pipeline.config.section import Section
from schemas.hosts import check_host
from schemas.types import Name

MAX_TOKENS: Final = 1_024
MAX_ALERT_RULES: Final = 512
MIN_TOKEN_CHARS: Final = 16
"""Of a token that somebody chooses; generated ones have 43 characters."""

_Port = Annotated[int, Field(ge=1, le=65_535)]


def _host_or_network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return check_host(text)
    return text


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError("must be scheme and host alone, such as https://screens.example")
    return text.rstrip("/").lower()


class GatewayTlsSettings(Section):
    """Certificate of the gateway's own HTTPS."""

    cert_file: Path
    """Certificate with its chain, as PEM."""
    key_file: Path
    """Its private key."""


class TokenSettings(Section):
    """A token, and what whoever shows it may do."""

    token: SecretStr
    """The secret itself, at least 16 characters; take it from the environment: ``${NAME}``."""
    role: Literal["viewer", "asker", "operator"] = "viewer"
    """``viewer`` reads; ``asker`` asks as well; ``operator`` also reads the metrics."""
    cameras: Annotated[tuple[Name, ...], Field(max_length=1_024)] = ()
    """Cameras that it is held to; none means all."""

    @field_validator("token")
    @classmethod
    def _long_enough(cls, token: SecretStr) -> SecretStr:
        if len(token.get_secret_value()) < MIN_TOKEN_CHARS:
            raise ValueError(f"must have at least {MIN_TOKEN_CHARS} characters: make one with openssl rand -hex 24")
        return token


class HistorySettings(Section):
    """What is kept of outcomes, below ``state_dir``."""

    max_days: Annotated[float, Field(gt=0, le=3_650)] = 30.0
    """Older outcomes are deleted."""
    max_mb: Annotated[float, Field(ge=1, le=1_000_000)] = 512.0
    """Size of its file from which on the oldest are deleted, in megabytes (1,000,000 bytes)."""


class GatewayLimitSettings(Section):
    """What one client, by token or else by address, may cost."""

    asks_per_s: Annotated[float, Field(ge=0.001, le=10_000)] = 2.0
    """Questions a second, in the long run."""
    burst_asks: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Questions at once."""
    requests_per_s: Annotated[float, Field(ge=0.1, le=100_000)] = 20.0
    """Requests a second, in the long run."""
    burst_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Requests at once."""
    streams: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Streams of server-sent events that are open at once."""
    connections: Annotated[int, Field(ge=4, le=65_536)] = 1_024
    """Connections of all clients together."""


class AlertRuleSettings(AlertConditionSettings):
    """When the answer to a question is an alert, at several sites or cameras."""

    question: Name
    """Id of a standing question."""
    site: Name | None = None
    """Site whose question it is; null takes that id of every site."""
    cameras: Annotated[tuple[Name, ...], Field(max_length=1_024)] = ()
    """Cameras that are looked at; none means all that are asked it."""


class WebhookSettings(Section):
    """An address that alerts are posted to, as JSON."""

    url: SecretStr
    """``https://`` address; it may hold a secret, so it is shown nowhere."""
    secret: SecretStr | None = None
    """Signs each request; see docs/gateway.md."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: SecretStr) -> SecretStr:
        parts = urlsplit(url.get_secret_value())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// address")
        return url


class AlertSettings(Section):
    """Rules, and who is told."""

    rules: Annotated[dict[Name, AlertRuleSettings], Field(max_length=MAX_ALERT_RULES)] = Field(default_factory=dict)
    """By name."""
    system: bool = True
    """Alert when something is wrong with the fleet itself, too: docs/operations.md has what."""
    patience_s: Annotated[float, Field(ge=1, le=86_400)] = 30.0
    """That must hold on for so long before it is an alert, and as long before it is over."""
    missed_share: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Of the questions, what may miss its deadline: the budget of the alert ``deadlines-missed``."""
    webhooks: Annotated[dict[Name, WebhookSettings], Field(max_length=MAX_CHANNELS)] = Field(default_factory=dict)
    """By name."""
    addresses: Annotated[dict[Name, SecretStr], Field(max_length=MAX_CHANNELS)] = Field(default_factory=dict)
    """Addresses as Apprise writes them, by name: ``mailto://``, ``ntfy://``, ``tgram://`` and a hundred others."""
    allow: Annotated[tuple[Annotated[str, AfterValidator(_host_or_network)], ...], Field(max_length=256)] = ()
    """Hosts and networks that webhooks may reach though they are not public: ``10.0.0.0/8``, ``hub.lan``."""

    @model_validator(mode="after")
    def _channels_exist(self) -> Self:
        both = sorted(set(self.webhooks) & set(self.addresses))
        if both:
            raise ValueError(f"a webhook and an address are both called {', '.join(both)}")
        known = {*self.webhooks, *self.addresses}
        for name, rule in self.rules.items():
            if missing := sorted(set(rule.channels or ()) - known):
                raise ValueError(f"rule {name} tells {', '.join(missing)}, of which there is none")
        return self


class GatewaySettings(Section):
    """The HTTP gateway and its dashboard."""

    name: Name = "gateway"
    """Its name on the broker, which keeps what comes while it is away. One process a name."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address that it listens on; ``0.0.0.0`` opens it to the network."""
    port: _Port = 8080
    """Its port."""
    tls: GatewayTlsSettings | None = None
    """Serve HTTPS; null serves plain HTTP, for loopback or behind a proxy."""
    hosts: Annotated[tuple[Annotated[str, AfterValidator(check_host)], ...], Field(max_length=64)] = ()
    """Names under which browsers reach it; localhost and addresses are known already."""
    origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], Field(max_length=64)] = ()
    """Other pages whose scripts may call it, such as ``https://screens.example``."""
    auth: bool | None = None
    """Whether a token is needed; null asks for one unless it listens on loopback and none is configured."""
    tokens: Annotated[dict[Name, TokenSettings], Field(max_length=MAX_TOKENS)] = Field(default_factory=dict)
    """By name. Where one is needed and none is here, an operator's token is made and stored in ``state_dir``."""
    state_dir: Path | None = None
    """Folder of the history and of a token that was made; null keeps both in memory."""
    session_s: Annotated[int, Field(ge=0, le=86_400)] = 3_600
    """How long the broker keeps outcomes for a gateway that is away, in seconds."""
    codecs: Annotated[tuple[Path, ...], Field(max_length=64)] = ()
    """Codec folders of the fleet beside the bundled ones: they say how many latents are the whole."""
    history: HistorySettings = Field(default_factory=HistorySettings)
    """What is kept of outcomes."""
    limits: GatewayLimitSettings = Field(default_factory=GatewayLimitSettings)
    """What one client may cost."""
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    """Rules, and who is told."""
    home_assistant: HomeAssistantSettings | None = None
    """Show cameras and standing questions in Home Assistant; null says nothing to it."""

    def below(self, folder: Path) -> Self:
        """The same with paths that count from a folder."""
        tls = self.tls and self.tls.model_copy(
            update={name: folder / path.expanduser() for name, path in dict(self.tls).items()}
        )
        state_dir = self.state_dir and folder / self.state_dir.expanduser()
        codecs = tuple(folder / path.expanduser() for path in self.codecs)
        return self.model_copy(update={"tls": tls, "state_dir": state_dir, "codecs": codecs})

    @model_validator(mode="after")
    def _distinct_tokens(self) -> Self:
        secrets = [entry.token.get_secret_value() for entry in self.tokens.values()]
        if len(set(secrets)) != len(secrets):
            raise ValueError("two tokens are the same: give each its own")
        return self
