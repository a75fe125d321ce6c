"""Settings of the connection to the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from pipeline.config.section import Section
from schemas.hosts import check_host

Port = Annotated[int, Field(ge=1, le=65_535)]


class TlsSettings(Section):
    """TLS towards the broker; an empty section means TLS with the system's certificate authorities."""

    ca_file: Path | None = None
    """Certificate authority that signed the broker's certificate; null takes the system's."""
    cert_file: Path | None = None
    """Certificate of this client, for brokers that ask for one."""
    key_file: Path | None = None
    """Private key of ``cert_file``."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        return self


class BrokerSettings(Section):
    """Where the MQTT 5 broker is, and who this process is to it."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Its host name or address."""
    port: Port = 1883
    """Its port; 8883 is usual with TLS."""
    username: str | None = None
    """Identity, if the broker does not take it from the certificate."""
    password: SecretStr | None = None
    """Give it as ``${NAME}`` or ``LATENTBUS_BROKER__PASSWORD``."""
    tls: TlsSettings | None = None
    """An empty section is TLS with the system's certificate authorities."""
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    """Silence after which broker and client call each other dead. Each ping costs the uplink some 80 bytes."""
    traceparent: bool = False
    """Mark messages of questions with a W3C ``traceparent``, an MQTT user property of 71 bytes each."""

    @field_validator("host")
    @classmethod
    def _a_host_alone(cls, host: str) -> str:
        return check_host(host)

    @model_validator(mode="after")
    def _password_needs_user(self) -> Self:
        if self.password is not None and self.username is None:
            raise ValueError("a password without a username: set broker.username")
        return self


def broker_below(broker: BrokerSettings, folder: Path) -> BrokerSettings:
    """The settings with files that count from a folder."""
    if broker.tls is None:
        return broker
    files = {name: path_below(getattr(broker.tls, name), folder) for name in ("ca_file", "cert_file", "key_file")}
    return broker.model_copy(update={"tls": broker.tls.model_copy(update=files)})


def path_below(path: Path | None, folder: Path) -> Path | None:
    """A file that counts from a folder, if there is one."""
    return None if path is None else folder / path.expanduser()
