"""Why FFmpeg could not open or read a source: the one place that reads its errors."""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

import av

from schemas.errors import SourceError
from schemas.types import SourceReason

_BY_CLASS: Final[tuple[tuple[tuple[type[Exception], ...], SourceReason], ...]] = (
    ((av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError, PermissionError), SourceReason.AUTH),
    # Other refusals of the request: 410 of HTTP, 454 of RTSP.
    (
        (av.error.HTTPNotFoundError, av.error.HTTPBadRequestError, FileNotFoundError, NotADirectoryError),
        SourceReason.NOT_FOUND,
    ),
    ((av.error.HTTPOtherClientError, IsADirectoryError, ProcessLookupError), SourceReason.NOT_FOUND),
    ((TimeoutError, av.error.ExitError, BlockingIOError), SourceReason.TIMEOUT),
    ((ConnectionError, av.error.HTTPServerError, av.error.HTTPTooManyRequestsError), SourceReason.UNREACHABLE),
    ((EOFError,), SourceReason.ENDED),
    (
        (
            av.error.InvalidDataError,
            av.error.DecoderNotFoundError,
            av.error.DemuxerNotFoundError,
            av.error.PatchWelcomeError,
            av.error.ProtocolNotFoundError,
        ),
        SourceReason.CODEC,
    ),
    ((ssl.SSLError,), SourceReason.TLS),
)
_UNREACHABLE_ERRNO: Final = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH})
LOST: Final = "lost"
"""The step of a source that was open."""
TLS_PORTS: Final = {"https": 443, "rtsps": 322}
_PORTS: Final = {"http": 80, "rtsp": 554, **TLS_PORTS}


def reason_of(error: BaseException, *, waited_s: float = 0.0, limit_s: float | None = None) -> SourceReason:
    """The reason that an error of FFmpeg, or of the system, stands for.

    Args:
        error: what was raised.
        waited_s: how long the call took.
        limit_s: its time limit. FFmpeg says all sorts of things when it is interrupted.
    """
    if limit_s is not None and waited_s >= 0.9 * limit_s:
        return SourceReason.TIMEOUT
    for classes, reason in _BY_CLASS:
        if isinstance(error, classes):
            return reason
    if isinstance(error, OSError) and error.errno in _UNREACHABLE_ERRNO:
        return SourceReason.UNREACHABLE
    return SourceReason.OTHER


def words_of(error: Exception) -> str:
    """What the library says, without the path or address that it repeats: a password may be in it."""
    return getattr(error, "strerror", None) or str(error)


def source_error(
    shown: str, step: str, error: Exception, *, waited_s: float = 0.0, limit_s: float | None = None
) -> SourceError:
    """The typed error for what FFmpeg raised.

    Args:
        shown: the source, redacted.
        step: what was tried.
        error: what was raised.
        waited_s: how long it took.
        limit_s: its time limit.
    """
    reason = reason_of(error, waited_s=waited_s, limit_s=limit_s)
    if step == LOST and reason is SourceReason.OTHER and isinstance(error, OSError) and error.errno == errno.EIO:
        reason = SourceReason.ENDED  # the connection was closed in the middle of something
    words = f"no data for {limit_s:g} s" if reason is SourceReason.TIMEOUT and limit_s is not None else words_of(error)
    return SourceError(shown, f"{step}: {words}", reason)


def find_cause(url: str, *, timeout_s: float, verify: bool = True) -> tuple[SourceReason, str] | None:
    """Why a host cannot be talked to, where FFmpeg only says "Input/output error". Blocking.

    Args:
        url: address of the source.
        timeout_s: limit of each step.
        verify: whether its certificate must be trusted.

    Returns:
        None when a connection works.
    """
    parts = urlsplit(url)
    scheme, host = parts.scheme.lower(), parts.hostname
    if host is None or scheme not in _PORTS:
        return None
    port = parts.port or _PORTS[scheme]
    try:
        with closing(socket.create_connection((host, port), timeout_s)) as connection:
            if scheme in TLS_PORTS:
                context = ssl.create_default_context() if verify else ssl._create_unverified_context()  # noqa: S323, SLF001 - as the operator chose
                context.wrap_socket(connection, server_hostname=host).close()
    except socket.gaierror as error:
        return SourceReason.NOT_FOUND, f"host {host}: {error.strerror}"
    except ssl.SSLCertVerificationError as error:
        return SourceReason.TLS, f"its certificate is not trusted: {error.verify_message}"
    except ssl.SSLError as error:
        return SourceReason.TLS, f"port {port} does not speak TLS: {error.reason or error}"
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        return (SourceReason.UNREACHABLE if reason is SourceReason.OTHER else reason), f"port {port}: {words_of(error)}"
    return None
