"""TLS towards the broker: the handshake, and how long the certificates last."""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import socket
import ssl
import time
from pathlib import Path
from typing import Final

from edge_nodes.check.findings import Finding, Verdict
from pipeline.bus.tls import tls_context_of
from pipeline.config.broker_settings import BrokerSettings
from schemas.errors import ConfigError

EXPIRY_WARNING_DAYS: Final = 30
_LIMIT_S: Final = 10.0
_DAY_S: Final = 86_400.0


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def check_tls(broker: BrokerSettings) -> list[Finding]:
    """Shake hands with the broker, and look at both certificates."""
    if broker.tls is None:
        if is_loopback(broker.host):
            return [Finding("tls", Verdict.GOOD, "none, and none is needed on this machine")]
        fix = "set broker.tls and the TLS port; docs/security.md has the recipe"
        return [Finding("tls", Verdict.WARN, "questions, answers and frames cross the network in the clear", fix)]
    findings = [await asyncio.to_thread(_shake_hands, broker)]
    if broker.tls.cert_file is not None:
        findings.append(await asyncio.to_thread(check_own_certificate, broker.tls.cert_file))
    return findings


def _shake_hands(broker: BrokerSettings) -> Finding:
    assert broker.tls is not None  # noqa: S101 - the caller looked
    try:
        context = tls_context_of(broker.tls)
        with (
            socket.create_connection((broker.host, broker.port), timeout=_LIMIT_S) as plain,
            context.wrap_socket(plain, server_hostname=broker.host) as secured,
        ):
            certificate, version = secured.getpeercert() or {}, secured.version() or "TLS"
    except ConfigError as error:
        return Finding("tls", Verdict.BAD, str(error), "correct broker.tls in the settings")
    except (OSError, ValueError) as error:
        return Finding("tls", Verdict.BAD, f"no handshake: {error}", "see the line of the broker, which says more")
    ends = certificate.get("notAfter")
    if not isinstance(ends, str):
        return Finding("tls", Verdict.GOOD, version)
    left_days = (ssl.cert_time_to_seconds(ends) - time.time()) / _DAY_S
    return _lasting("tls", f"{version}, the broker's certificate", left_days, "latentbus broker renew-broker")


def check_own_certificate(path: Path) -> Finding:
    """How long the certificate of this process lasts.

    Args:
        path: PEM file.
    """
    what = "certificate"
    if importlib.util.find_spec("cryptography") is None:
        return Finding(what, Verdict.UNKNOWN, f"{path}: pip install 'latentbus[certificates]' to see when it ends")
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return Finding(what, Verdict.BAD, f"{path}: {error}", "hand this device its folder again")
    left_days = (certificate.not_valid_after_utc.timestamp() - time.time()) / _DAY_S
    return _lasting(what, f"{path}", left_days, "latentbus broker renew-device")


def _lasting(what: str, name: str, left_days: float, command: str) -> Finding:
    figures = {"days_left": round(left_days, 1)}
    if left_days <= 0:
        return Finding(what, Verdict.BAD, f"{name} has ended", f"renew it: {command}", figures)
    found = f"{name} lasts {left_days:,.0f} more days"
    if left_days < EXPIRY_WARNING_DAYS:
        return Finding(what, Verdict.WARN, found, f"renew it: {command}", figures)
    return Finding(what, Verdict.GOOD, found, None, figures)
