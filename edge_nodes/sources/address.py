"""Where FFmpeg finds a source, and with which options it is opened."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from edge_nodes.sources.base import redacted
from edge_nodes.sources.reasons import TLS_PORTS
from schemas.errors import SourceError
from schemas.types import SourceReason

OPEN_TIMEOUT_S: Final = 15.0
READ_TIMEOUT_S: Final = 30.0
"""What grows while it plays, such as a live playlist, may be silent for so long."""
CONNECT_TIMEOUT_S: Final = 8.0
"""A camera of the network must have answered by then."""
VIDEO_SCHEMES: Final = ("rtsp", "rtsps", "http", "https")
_NETWORK_PROTOCOLS: Final = "http,https,httpproxy,tcp,tls,udp,rtp,crypto,rtsp,rtsps"
"""A playlist of the network must not make the edge read its own files."""


@dataclass(frozen=True, slots=True)
class Address:
    """What FFmpeg opens.

    Attributes:
        url: path or address, user name and password included.
        shown: the same as it may be shown.
        format: FFmpeg's name of the format or device; None to find out.
        options: FFmpeg's own.
        live: its end is a loss, and only its newest frame counts.
        open_timeout_s: limit for opening.
        read_timeout_s: limit for silence.
        verify_tls: a certificate must be trusted.
    """

    url: str
    shown: str
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    live: bool = False
    open_timeout_s: float = OPEN_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S
    verify_tls: bool = True


def file_address(path: Path) -> Address:
    """A file, pipe or local playlist."""
    # A playlist must not make the edge fetch from the network.
    return Address(str(path.absolute()), str(path), options={"protocol_whitelist": "file,crypto,data"})


def network_address(url: str, *, stall_s: float, verify_tls: bool = True) -> Address:
    """A camera of the network.

    Args:
        url: ``rtsp://``, ``rtsps://``, ``http://`` or ``https://``.
        stall_s: limit for silence.
        verify_tls: its certificate must be trusted.

    Raises:
        SourceError: it is no address of a host.
    """
    shown = redacted(url)
    scheme = _checked_scheme(url, shown)
    # FFmpeg's limit for each wait on the socket, in microseconds. Its old name, stimeout, is ignored silently.
    options = {"protocol_whitelist": _NETWORK_PROTOCOLS, "timeout": str(round(stall_s * 1e6))}
    if scheme in ("rtsp", "rtsps"):
        # Over UDP a lost packet damages pictures, and firewalls hold it back; sound is not even asked for.
        options |= {"rtsp_transport": "tcp", "allowed_media_types": "video"}
        # The rate is not worth waiting for: twenty frames otherwise.
        options |= {"fpsprobesize": "0", "analyzeduration": "1000000"}
    if scheme in TLS_PORTS:
        options |= _tls_options(verify_tls)
    return Address(
        url,
        shown,
        options=options,
        live=True,
        open_timeout_s=min(CONNECT_TIMEOUT_S, stall_s),
        read_timeout_s=stall_s,
        verify_tls=verify_tls,
    )


def device_address(device: str, *, stall_s: float) -> Address:
    """A camera of this machine, by Video4Linux."""
    return Address(
        device,
        f"v4l2:{device}",
        format="v4l2",
        live=True,
        open_timeout_s=CONNECT_TIMEOUT_S,
        read_timeout_s=stall_s,
    )


def _checked_scheme(url: str, shown: str) -> str:
    try:
        parts = urlsplit(url)
        found = parts.hostname, parts.port
    except ValueError:
        # What Python says may quote a part of the password.
        problem = "is no address: write special characters of a password as %40 for @, %2F for /, and so on"
        raise SourceError(shown, problem, SourceReason.NOT_FOUND) from None
    if not found[0]:
        raise SourceError(shown, "names no host: write SCHEME://HOST/PATH", SourceReason.NOT_FOUND)
    return parts.scheme.lower()


def _tls_options(verify: bool) -> dict[str, str]:
    if not verify:
        return {"tls_verify": "0"}
    options = {"tls_verify": "1"}
    # Python's OpenSSL knows where the system keeps its authorities (SSL_CERT_FILE included); FFmpeg's TLS does not.
    authorities = ssl.get_default_verify_paths()
    if authorities.cafile is not None:
        options["ca_file"] = authorities.cafile
    return options
