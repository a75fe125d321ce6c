"""A camera that gives one picture a request."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
from collections import Counter
from time import monotonic
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from edge_nodes.sources.base import CapturedFrame, redacted
from edge_nodes.sources.reasons import reason_of, words_of
from edge_nodes.sources.still_picture import MAX_PICTURE_BYTES, read_picture
from pipeline.node.clock import Clock, MonotonicClock
from pipeline.node.work_thread import WorkThread
from schemas.errors import SourceError
from schemas.types import SourceReason

PREFIX: Final = "snapshot:"
REPEAT_S: Final = 1.0
"""A camera that gives the same picture again is asked again after this time."""
_READ_BYTES: Final = 65_536
_FORM: Final = "write snapshot:http://HOST/PATH"


class Snapshots:
    """A :class:`~edge_nodes.sources.base.FrameSource` that requests a picture when one is wanted.

    Two pictures of a lens are never equal to the last bit. One that comes again is an old one out of a cache, or the
    camera has frozen: it is asked again, and after ``stall_s`` it has stalled.

    Args:
        camera: name of the camera.
        source: ``snapshot:`` and an address.
        stall_s: limit for a picture, and for a new one.
        verify_tls: its certificate must be trusted.
        clock: what the camera runs by.

    Attributes:
        counters: ``repeated_picture``.

    Raises:
        SourceError: it is no such address.
    """

    def __init__(
        self, camera: str, source: str, *, stall_s: float, verify_tls: bool = True, clock: Clock | None = None
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._camera = camera
        self._shown = redacted(source)
        self._stall_s = stall_s
        self._clock = clock or MonotonicClock()
        self._url, self._opener = _opener(source.removeprefix(PREFIX), self._shown, verify_tls)
        self._thread: WorkThread | None = None
        self._digest = b""
        self._index = 0
        self._opened_s = 0.0
        self._first: CapturedFrame | None = None

    async def open(self) -> None:
        """Request the first picture.

        Raises:
            SourceError: there is none.
        """
        self._thread = WorkThread(f"camera-{self._camera}")
        self._opened_s, self._index, self._first = self._clock.now_s(), 0, None
        self._first = await self._new_picture()

    async def newest(self) -> CapturedFrame:
        """A new picture.

        Raises:
            SourceError: there is none, or the source is not open.
        """
        first, self._first = self._first, None
        # What came with the opening is new once, and only if it is asked for soon.
        if first is not None and self._clock.now_s() - self._opened_s <= REPEAT_S:
            return first
        return await self._new_picture()

    async def close(self) -> None:
        """End the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()

    async def _new_picture(self) -> CapturedFrame:
        limit_s = self._clock.now_s() + self._stall_s
        while True:
            if self._thread is None:
                raise SourceError(self._shown, "is not open")
            asked_s = self._clock.now_s()
            data = await self._thread.call(self._fetch)
            digest = hashlib.blake2b(data, digest_size=16).digest()
            if digest != self._digest:
                pixels = await self._thread.call(read_picture, data, self._shown)
                self._digest = digest
                now_s = self._clock.now_s()
                frame = CapturedFrame(self._camera, self._index, asked_s - self._opened_s, pixels, now_s - asked_s)
                self._index += 1
                return frame
            self.counters["repeated_picture"] += 1
            if self._clock.now_s() >= limit_s:
                problem = f"the same picture again and again for {self._stall_s:g} s"
                raise SourceError(self._shown, problem, SourceReason.TIMEOUT)
            await self._clock.sleep(REPEAT_S)

    def _fetch(self) -> bytes:
        """One request, in the thread."""
        began_s = monotonic()
        try:
            with self._opener.open(self._url, timeout=self._stall_s) as answer:
                return _read_all(answer, began_s + self._stall_s, self._shown)
        except urllib.error.HTTPError as error:
            # It keeps the connection until it is closed.
            error.close()
            raise _refused(self._shown, error.code, error.reason) from None
        except urllib.error.URLError as error:
            raise self._failed(error.reason if isinstance(error.reason, OSError) else error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> SourceError:
        if isinstance(error, ssl.SSLCertVerificationError):
            problem = f"its certificate is not trusted: {error.verify_message}"
            return SourceError(self._shown, problem, SourceReason.TLS)
        if isinstance(error, TimeoutError):
            return SourceError(self._shown, f"no picture within {self._stall_s:g} s", SourceReason.TIMEOUT)
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno is not None:
            unknown = error.errno < 0  # of the resolver
            reason = SourceReason.NOT_FOUND if unknown else reason_of(error)
            return SourceError(self._shown, words_of(error), reason)
        return SourceError(self._shown, redacted(words_of(error)), reason_of(error))


def _refused(shown: str, status: int, words: str) -> SourceError:
    if status in (401, 403):
        reason = SourceReason.AUTH
    elif 400 <= status < 500 and status not in (408, 429):
        reason = SourceReason.NOT_FOUND
    else:
        reason = SourceReason.UNREACHABLE
    return SourceError(shown, f"the camera answers {status} {words}", reason)


def _read_all(answer: Any, limit_s: float, shown: str) -> bytes:
    """The body, within a time that a server cannot stretch by sending it drop by drop."""
    parts, size_bytes = [], 0
    while data := answer.read1(_READ_BYTES):
        parts.append(data)
        size_bytes += len(data)
        if size_bytes > MAX_PICTURE_BYTES:
            problem = (
                f"a picture of more than {MAX_PICTURE_BYTES} bytes; is it a video? Write the address without {PREFIX}"
            )
            raise SourceError(shown, problem, SourceReason.CODEC)
        if monotonic() > limit_s:
            raise TimeoutError
    return b"".join(parts)


class _ClosesRefusals(urllib.request.BaseHandler):
    """The answer that asks for a password is left open by the handlers that send it."""

    handler_order = 100

    def http_error_401(self, _request: object, answer: Any, *_: object) -> None:
        """Close it; the others go on."""
        answer.close()


def _opener(url: str, shown: str, verify_tls: bool) -> tuple[str, urllib.request.OpenerDirector]:
    """The address without user name and password, and what sends them when it is asked to, and only to that host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SourceError(shown, f"is no address: {_FORM}", SourceReason.NOT_FOUND) from None
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise SourceError(shown, f"is no address of a picture: {_FORM}", SourceReason.NOT_FOUND)
    bare = host if ":" not in host else f"[{host}]"
    plain = urlunsplit(parts._replace(netloc=bare if port is None else f"{bare}:{port}"))
    context = ssl.create_default_context()
    if not verify_tls:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        passwords.add_password(None, plain, unquote(parts.username), unquote(parts.password or ""))
    handlers = (
        _ClosesRefusals(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDigestAuthHandler(passwords),
        urllib.request.HTTPBasicAuthHandler(passwords),
    )
    return plain, urllib.request.build_opener(*handlers)
