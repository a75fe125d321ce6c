"""Tells people of alerts: webhooks with a signature, and every channel that Apprise knows. Each with retries."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, Self

import aiohttp

from latentbus.gateway.addresses import AllowedAddresses, AllowedResolver
from latentbus.gateway.models import AlertView, iso
from pipeline.bus.backoff import Backoff
from pipeline.config.gateway_settings import AlertSettings, WebhookSettings
from pipeline.config.logs import get_logger
from pipeline.node.work_thread import WorkThread
from schemas.errors import ConfigError, NotificationError
from schemas.printable import printable

MAX_WAITING: Final = 256
"""Notifications that wait for one channel; the oldest is dropped for a further one."""
TRIES: Final = 6
REQUEST_TIMEOUT_S: Final = 10.0
APPRISE_TIMEOUT_S: Final = 60.0
RETRY: Final = Backoff(initial_s=1.0, maximum_s=120.0, growth=3.0)
MAX_REPLY_BYTES: Final = 4_096
SIGNATURE_HEADER: Final = "Latentbus-Signature"
TIMESTAMP_HEADER: Final = "Latentbus-Timestamp"
ID_HEADER: Final = "Latentbus-Notification"

_log = get_logger(__name__)


class Channel(Protocol):
    """Where notifications go."""

    async def send(self, alert: AlertView) -> None:
        """Send one.

        Raises:
            NotificationError: it did not arrive.
        """


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The value of the signature header: HMAC-SHA256 of the timestamp, a dot and the body, in hexadecimal."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"v1={digest}"


def title_of(alert: AlertView) -> str:
    """The first line of a notification."""
    state = "over" if alert.ended is not None else alert.severity
    return printable(f"[{state}] {alert.rule}", keep="")


def text_of(alert: AlertView) -> str:
    """The rest of it: what it is about, with the answer and what it rests on."""
    lines = [alert.text]
    answer = alert.answer
    if answer is not None and answer.latents is not None:
        whole = f" of {answer.latents_total}" if answer.latents_total is not None else ""
        lines.append(
            f"answer: {answer.text} (confidence {answer.confidence or 0:.2f}, "
            f"prefix {answer.latents}{whole}, {answer.payload_bytes} bytes)"
        )
    lines.append(f"since {iso(alert.began)}" if alert.ended is None else f"over since {iso(alert.ended)}")
    return printable("\n".join(lines))


class Webhook:
    """Posts an alert as JSON.

    Args:
        name: of the channel.
        settings: address and secret.
        session: HTTP client whose resolver lets only allowed addresses through.
        addresses: those.
        wall_s: wall clock in seconds.
    """

    def __init__(
        self,
        name: str,
        settings: WebhookSettings,
        session: aiohttp.ClientSession,
        addresses: AllowedAddresses,
        *,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._settings = settings
        self._session = session
        self._addresses = addresses
        self._wall_s = wall_s

    async def send(self, alert: AlertView) -> None:
        """Post it; anything but a status of 200 to 299 is a failure.

        Raises:
            NotificationError: it did not arrive.
        """
        url = self._settings.url.get_secret_value()
        self._addresses.check_literal(self._name, url)
        body = json.dumps({"title": title_of(alert), "text": text_of(alert), "alert": alert.model_dump(mode="json")})
        data, timestamp = body.encode(), str(int(self._wall_s()))
        headers = {
            "Content-Type": "application/json",
            TIMESTAMP_HEADER: timestamp,
            ID_HEADER: f"{alert.id}-{'began' if alert.ended is None else 'ended'}",
        }
        if self._settings.secret is not None:
            headers[SIGNATURE_HEADER] = signature(self._settings.secret.get_secret_value(), timestamp, data)
        try:
            async with self._session.post(url, data=data, headers=headers, allow_redirects=False) as response:
                await response.content.read(MAX_REPLY_BYTES)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The text of the error may hold the address, and that a secret.
            problem = str(error.os_error) if isinstance(error, aiohttp.ClientConnectorError) else type(error).__name__
            refused = "is no public address" in problem
            raise NotificationError(self._name, problem, again=not refused) from None
        if not 200 <= status < 300:
            again = status in (408, 425, 429) or status >= 500
            raise NotificationError(self._name, f"answers with status {status}", again=again)


class AppriseChannel:
    """Sends an alert through Apprise.

    Args:
        name: of the channel.
        address: as Apprise writes it.

    Raises:
        ConfigError: Apprise does not know it.
    """

    def __init__(self, name: str, address: str) -> None:
        from apprise import Apprise  # slow to load, and only who has such addresses needs it

        self._name = name
        self._thread = WorkThread(f"notify {name}")
        self._apprise = Apprise()
        if not self._apprise.add(address):
            raise ConfigError(f"gateway.alerts.addresses.{name}", "is no address that Apprise knows")

    async def send(self, alert: AlertView) -> None:
        """Send it, in a thread of its own: a library that blocks costs no other channel, and no end of the process.

        Raises:
            NotificationError: it did not arrive.
        """
        try:
            async with asyncio.timeout(APPRISE_TIMEOUT_S):
                sent = await self._thread.call(self._notify, title_of(alert), text_of(alert))
        except TimeoutError:
            raise NotificationError(
                self._name, f"Apprise takes more than {APPRISE_TIMEOUT_S:g} s", again=True
            ) from None
        if not sent:
            raise NotificationError(self._name, "Apprise could not deliver it", again=True)

    def _notify(self, title: str, body: str) -> bool:
        from apprise import NotifyFormat

        return bool(self._apprise.notify(title=title, body=body, body_format=NotifyFormat.TEXT))


class Notifier:
    """Sends alerts to channels, one after the other for each, with retries. An async context manager.

    Args:
        settings: channels, and which addresses they may reach.
        sleep: waits so many seconds; a test gives its own.
        channels: channels instead of those of the settings.

    Attributes:
        counts: by channel and what became of them: sent, failed, dropped, retried.

    Raises:
        ConfigError: an address that Apprise does not know.
    """

    def __init__(
        self,
        settings: AlertSettings,
        *,
        sleep: Callable[[float], Any] = asyncio.sleep,
        channels: Mapping[str, Channel] | None = None,
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._settings = settings
        self._sleep = sleep
        self._given = channels
        self._channels: dict[str, Channel] = {
            name: AppriseChannel(name, address.get_secret_value()) for name, address in settings.addresses.items()
        }
        self._queues: dict[str, asyncio.Queue[AlertView]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Begin to send."""
        if self._given is not None:
            self._channels = dict(self._given)
        elif self._settings.webhooks:
            addresses = AllowedAddresses(self._settings.allow)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=AllowedResolver(addresses), use_dns_cache=False, limit=64),
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            for name, webhook in self._settings.webhooks.items():
                self._channels[name] = Webhook(name, webhook, self._session, addresses)
        for name, channel in self._channels.items():
            self._queues[name] = asyncio.Queue(MAX_WAITING)
            self._tasks.append(asyncio.create_task(self._run(name, channel), name=f"notify {name}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send no more; what waits is lost."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def tell(self, alert: AlertView, channels: tuple[str, ...] | None = None) -> None:
        """Send an alert, later.

        Args:
            alert: it.
            channels: who is told; None for all.
        """
        for name, queue in self._queues.items():
            if channels is not None and name not in channels:
                continue
            if queue.full():
                queue.get_nowait()
                self.counts[name, "dropped"] += 1
                _log.warning("a notification was dropped: too many wait", channel=name)
            queue.put_nowait(alert)

    async def _run(self, name: str, channel: Channel) -> None:
        while True:
            alert = await self._queues[name].get()
            try:
                await self._send(name, channel, alert)
            except Exception as error:  # noqa: BLE001 - of a library; it ends this notification, not the channel
                self.counts[name, "failed"] += 1
                _log.error("a notification failed", channel=name, kind=type(error).__name__)

    async def _send(self, name: str, channel: Channel, alert: AlertView) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                await channel.send(alert)
            except NotificationError as error:
                if not error.again or attempt == TRIES:
                    self.counts[name, "failed"] += 1
                    _log.error("a notification did not arrive", channel=name, problem=error.problem, tries=attempt)
                    return
                self.counts[name, "retried"] += 1
                await self._sleep(RETRY.delay_s(attempt, random.random()))
            else:
                self.counts[name, "sent"] += 1
                return
