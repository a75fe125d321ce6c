"""TLS towards the broker."""

from __future__ import annotations

import ssl

from pipeline.config.broker_settings import TlsSettings
from schemas.errors import ConfigError


def tls_context_of(tls: TlsSettings) -> ssl.SSLContext:
    """TLS 1.2 or later, with the broker's name checked.

    Raises:
        ConfigError: a file cannot be loaded.
    """
    try:
        context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(tls.ca_file))
    except OSError as error:
        raise ConfigError("broker.tls.ca_file", f"{tls.ca_file}: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file is not None:
        try:
            context.load_cert_chain(str(tls.cert_file), None if tls.key_file is None else str(tls.key_file))
        except OSError as error:
            raise ConfigError("broker.tls.cert_file", f"{tls.cert_file} with {tls.key_file}: {error}") from error
    return context
