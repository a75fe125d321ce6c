"""The gateway process: its socket, its HTTP server, and a stop in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from latentbus.gateway.access import TOKEN_FILE, Access, access_of, is_loopback
from latentbus.gateway.api import make_app
from latentbus.gateway.guard import Guard
from latentbus.gateway.notify import Notifier
from latentbus.gateway.service import Gateway
from latentbus.gateway.telemetry import GatewayMetrics
from pipeline.config.alert_rules import SiteProfiles, site_profiles
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.gateway_settings import GatewaySettings
from pipeline.config.logs import get_logger
from pipeline.config.settings import LatentbusSettings
from pipeline.node.reload import keep_reloading
from pipeline.node.runtime import Stop
from pipeline.node.tasks import first_of
from schemas.errors import ConfigError

BACKLOG: Final = 512
KEEP_ALIVE_S: Final = 30
IDLE_CHECK_S: Final = 15.0
"""A connection without a whole request between two looks at it is closed."""
GRACE_S: Final = 5
"""Time that open requests have when the process stops."""
DEAD_PEER_MS: Final = 30_000
"""A peer that takes nothing of what was sent for so long is cut off by the system."""
SEND_BUFFER_BYTES: Final = 131_072
"""What the system holds for one client that does not read; Linux takes twice as much."""
MAX_HEADER_BYTES: Final = 16_384

_log = get_logger(__name__)


class _Protocol(H11Protocol):
    """A connection that is closed when no request comes on it, in whole or in part."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._looked_at: object = self
        self._look = self.loop.call_later(IDLE_CHECK_S, self._look_again)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        cycle = self.cycle
        answered = cycle is None or cycle.response_complete
        if answered and self._looked_at is cycle:
            self.transport.close()
            return
        self._looked_at = cycle
        self._look = self.loop.call_later(IDLE_CHECK_S, self._look_again)


class _Server(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@dataclass(frozen=True, slots=True)
class Serving:
    """A gateway that serves.

    Attributes:
        gateway: it.
        access: its tokens.
        url: where it is.
    """

    gateway: Gateway
    access: Access
    url: str
    _http: asyncio.Task[None]

    async def failed(self) -> None:
        """Wait, for ever in the best case, until a part of it ends on its own.

        Raises:
            LatentbusError: why it did.
        """
        await first_of(_ended(self._http), self.gateway.failed())


async def run_gateway(
    broker: BrokerSettings,
    settings: GatewaySettings,
    stop: Stop,
    *,
    sites: Mapping[str, SiteProfiles] | None = None,
    reload: Callable[[], LatentbusSettings] | None = None,
) -> int:
    """Run the gateway until it is asked to stop.

    Args:
        broker: where the fleet is.
        settings: of the gateway.
        stop: asks it to stop.
        sites: profiles of the sites that the settings know.
        reload: reads the settings again, when SIGHUP comes.

    Returns:
        Exit status.

    Raises:
        LatentbusError: see :func:`serving`, or the connection to the broker ended for good.
    """
    async with serving(broker, settings, sites) as served:
        _say(settings, served)
        stop.set_ready()
        waits = [stop.wait(), served.failed()]
        if reload is not None:
            waits.append(keep_reloading(stop, reload, partial(_take_over, served.gateway)))
        await first_of(*waits)
    return 0


@contextlib.asynccontextmanager
async def serving(
    broker: BrokerSettings, settings: GatewaySettings, sites: Mapping[str, SiteProfiles] | None = None
) -> AsyncIterator[Serving]:
    """Serve while the context lasts.

    Args:
        broker: where the fleet is.
        settings: of the gateway.
        sites: profiles of the sites that the settings know.

    Raises:
        ConfigError: it cannot listen, or a certificate, token or address cannot be used.
        HistoryError: the history can be neither read nor replaced.
    """
    await asyncio.to_thread(_check_tls, settings)
    access = access_of(settings)
    metrics = GatewayMetrics()
    notifier = Notifier(settings.alerts)
    metrics.watch_notifier(notifier)
    with _listening(settings) as listener:
        gateway = Gateway(broker, settings, metrics, notifier, sites=sites)
        async with notifier, gateway.running():
            server = _Server(_config(make_app(gateway, settings, access, metrics), settings))
            http = asyncio.create_task(server.serve(sockets=[listener]), name="http")
            try:
                yield Serving(gateway, access, _url(settings, listener.getsockname()[1]), http)
            finally:
                gateway.stop_streams()
                server.should_exit = True
                await http


def _take_over(gateway: Gateway, settings: LatentbusSettings) -> None:
    assert settings.gateway is not None  # noqa: S101 - who reads them sees to it
    gateway.reconfigure(settings.gateway, site_profiles(settings))


async def _ended(serving: asyncio.Task[None]) -> None:
    await asyncio.wait({serving})
    serving.result()


def _config(app: Guard, settings: GatewaySettings) -> uvicorn.Config:
    tls = settings.tls
    # It says this of a stream whose client takes nothing any more, too.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "without completing response" not in str(record.msg))
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        http=_Protocol,
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        limit_concurrency=settings.limits.connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ssl_certfile=None if tls is None else tls.cert_file,
        ssl_keyfile=None if tls is None else tls.key_file,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config


def _check_tls(settings: GatewaySettings) -> None:
    """Certificate and key are such, and belong together.

    Raises:
        ConfigError: they are not.
    """
    if settings.tls is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls.cert_file, settings.tls.key_file
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("gateway.tls", f"certificate or key cannot be used: {error}") from None


@contextlib.contextmanager
def _listening(settings: GatewaySettings) -> Iterator[socket.socket]:
    """The socket that is listened on.

    Raises:
        ConfigError: the port is taken, or the address is none of this machine.
    """
    host = settings.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError("gateway.host", f"{host} is no address of this machine: {error.strerror or error}") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            problem = f"cannot listen on {host}, port {settings.port}: {error.strerror or error}"
            raise ConfigError("gateway.port", problem) from None
        yield listener


def _url(settings: GatewaySettings, port: int) -> str:
    scheme = "http" if settings.tls is None else "https"
    host = "localhost" if is_loopback(settings.host) else settings.hosts[0] if settings.hosts else settings.host
    return f"{scheme}://{host}:{port}"


def _say(settings: GatewaySettings, served: Serving) -> None:
    access = served.access
    _log.info("listening", url=f"{served.url}/", token_needed=access.required)
    if access.generated is not None:
        kept = "in memory alone" if settings.state_dir is None else str(settings.state_dir / TOKEN_FILE)
        _log.warning("a token was made; it is shown this once", token=access.generated, kept=kept)
    if not access.required and not is_loopback(settings.host):
        _log.warning("everybody who reaches the port may ask and read: gateway.auth is false", host=settings.host)
    if settings.tls is None and not is_loopback(settings.host):
        _log.warning("tokens and answers cross the network unencrypted: set gateway.tls, or put a proxy before it")
    if settings.state_dir is None:
        _log.warning("the history is kept in memory alone: set gateway.state_dir")
