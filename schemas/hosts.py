"""Where a broker or an HTTP server is, as a person may write it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_TLS_SCHEMES = frozenset({"mqtts", "ssl", "tls", "wss", "https"})


def check_host(host: str) -> str:
    """The host, if it is a name in ASCII or an IPv4 or IPv6 address.

    Raises:
        ValueError: it is none; the text says what to write instead.
    """
    address, _, zone = host.partition("%")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        pass
    else:
        if not zone or _NAME.fullmatch(zone):
            return host
    if len(host) <= 253 and all(map(_NAME.fullmatch, host.removesuffix(".").split("."))):
        return host
    raise ValueError(f"must be a host name in ASCII or an address alone{_instead(host)}")


def check_http_url(url: str) -> str:
    """The address of an HTTP server, if it is one without user name, query and fragment.

    Raises:
        ValueError: it is none; the text says what to write instead.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError("must be an address such as http://127.0.0.1:8000")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be an address alone, without user name, password, ? and #")
    return url


def _instead(text: str) -> str:
    """What was probably meant."""
    scheme, separator, _ = text.partition("://")
    try:
        parts = urlsplit(text if separator else f"//{text}")
        found, port = parts.hostname, parts.port
    except ValueError:
        return ""
    if not found or found == text:
        return ""
    try:
        check_host(found)
    except ValueError:
        return ""
    port_text = f", port {port}" if port else ""
    tls_text = " and a tls section" if separator and scheme.lower() in _TLS_SCHEMES else ""
    return f": write {found}{port_text}{tls_text}"
