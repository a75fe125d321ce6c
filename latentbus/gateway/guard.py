"""What every request passes first: host, origin, token, rate and size; and the headers of every response."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentbus.gateway.access import Access, Principal
from latentbus.gateway.errors import (
    ForbiddenError,
    MisdirectedError,
    RequestError,
    RequestSizeError,
    UnauthenticatedError,
    UnavailableError,
)
from latentbus.gateway.rates import Rates
from latentbus.gateway.responses import problem_response

MAX_BODY_BYTES: Final = 16_384
BODY_TIMEOUT_S: Final = 10.0
"""Longest time that a body may take to come."""
COOKIE: Final = "latentbus_session"
PRINCIPAL: Final = "latentbus.principal"
CLIENT: Final = "latentbus.client"
OPEN_PATHS: Final = frozenset({"/", "/healthz", "/readyz", "/openapi.json", "/v1/session", "/favicon.ico"})
OPEN_PREFIX: Final = "/static/"
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Lets through what may pass.

    Args:
        app: what answers.
        access: the tokens.
        rates: what each client may cost.
        hosts: names under which it is reached, beside localhost and addresses.
        origins: other pages whose scripts may call it.
        now_s: monotonic time.

    Attributes:
        refused: requests that were refused here, by reason.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        rates: Rates,
        *,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._access = access
        self._rates = rates
        self._hosts = {"localhost", *(host.lower().rstrip(".") for host in hosts)}
        self._origins = frozenset(origins)
        self._now_s = now_s
        self.refused: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._add_headers(message, origin, scope["path"])
            await send(message)

        try:
            answer = self._check(scope, headers, origin)
            if answer is not None:
                await answer(scope, receive, send_with_headers)
                return
            await self._app(scope, _Body(receive, headers, scope["method"]), send_with_headers)
        except RequestError as error:
            self.refused[error.code] += 1
            if started:
                raise
            await problem_response(error)(scope, receive, send_with_headers)

    def _check(self, scope: Scope, headers: Headers, origin: str | None) -> Response | None:
        """Let a request pass, or answer it here.

        Raises:
            RequestError: it may not pass.
        """
        path, address = scope["path"], scope["client"][0] if scope.get("client") else "unknown"
        host = headers.get("host", "")
        if not self.is_own_host(host):
            raise MisdirectedError("this host name is not known here: name it under gateway.hosts")
        if origin is not None and not _same_host(origin, host):
            if origin.lower() not in self._origins:
                raise ForbiddenError("another page may not call the gateway: name its origin under gateway.origins")
            if scope["method"] == "OPTIONS":
                return Response(status_code=204)
        elif headers.get("sec-fetch-site") == "cross-site" and path.startswith("/v1/"):
            raise ForbiddenError("another page may not call the gateway")
        principal = self._access.principal(token_of(headers))
        # A client is a token; without one, and while guessing one, it is an address.
        known = principal is not None and principal.name is not None
        client = f"token {principal.name}" if principal is not None and known else f"address {address}"
        self._rates.request(client, self._now_s())
        if principal is None and not (path in OPEN_PATHS or path.startswith(OPEN_PREFIX)):
            raise UnauthenticatedError("show a token: Authorization: Bearer TOKEN")
        scope[PRINCIPAL], scope[CLIENT] = principal, client
        return None

    def is_own_host(self, host: str) -> bool:
        """Whether a Host header names this gateway. An address is no name that somebody else could point here."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self._hosts
        return True

    def _add_headers(self, message: Message, origin: str | None, path: str) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
            headers[name] = value
        if not path.startswith(OPEN_PREFIX):
            headers.setdefault("Cache-Control", "no-store")
        if origin is not None and origin.lower() in self._origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
            headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
            headers["Vary"] = "Origin"


class _Body:
    """The body of a request, within its bounds of size and time."""

    def __init__(self, receive: Receive, headers: Headers, method: str) -> None:
        self._receive = receive
        self._size_bytes = 0
        self._over = method not in ("POST", "PUT", "PATCH", "DELETE")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise RequestSizeError(MAX_BODY_BYTES)

    async def __call__(self) -> Message:
        if self._over:
            return await self._receive()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                message = await self._receive()
        except TimeoutError:
            raise UnavailableError("the body of the request does not come") from None
        self._size_bytes += len(message.get("body", b""))
        if self._size_bytes > MAX_BODY_BYTES:
            raise RequestSizeError(MAX_BODY_BYTES)
        self._over = not message.get("more_body", False)
        return message


def principal_of(scope: Scope) -> Principal:
    """Who a request is that passed.

    Raises:
        UnauthenticatedError: it shows no valid token.
    """
    principal: Principal | None = scope.get(PRINCIPAL)
    if principal is None:
        raise UnauthenticatedError("show a token: Authorization: Bearer TOKEN")
    return principal


def token_of(headers: Headers) -> str | None:
    """The token that a request shows: as a bearer's, else as the cookie of a browser."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token:
        return token.strip()
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except CookieError:
        return None
    found = cookies.get(COOKIE)
    return None if found is None else found.value


def _same_host(origin: str, host: str) -> bool:
    """Whether an origin is the gateway's own page. A proxy may have taken the TLS off, so the scheme is free."""
    parts = urlsplit(origin)
    default = {"http": ":80", "https": ":443"}.get(parts.scheme)
    if default is None:
        return False
    return parts.netloc.lower().removesuffix(default) == host.lower().removesuffix(default)
