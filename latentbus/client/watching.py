"""``latentbus watch``: what a fleet is asked and answers, as it comes, for people and for scripts."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from rich.markup import escape

from latentbus.client.ask import line_of
from latentbus.client.client import CONNECT_TIMEOUT_S, Client
from latentbus.client.mailbox import Told
from latentbus.client.questions import client_name
from latentbus.reports.safe_console import SafeConsole
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop
from schemas import wire
from schemas.errors import ConfigError, RemoteError
from schemas.messages import Message

SHARE: Final = "$share/"
_SHOWN_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of all answers and outcomes is shown; empty means all.

    Attributes:
        sites: sites of the questions, or of the cameras of ad-hoc ones.
        cameras: cameras.
        questions: ids of questions.
        owners: ``site/NAME``, ``client/NAME``, or ``site`` and ``client`` for all of them.
        finals: only how queries end.
    """

    sites: frozenset[str] = frozenset()
    cameras: frozenset[str] = frozenset()
    questions: frozenset[str] = frozenset()
    owners: frozenset[str] = frozenset()
    finals: bool = False

    def admits(self, message: Told, site: str | None) -> bool:
        """Whether a message is shown.

        Args:
            message: it.
            site: the site that it belongs to, where that is known.
        """
        if self.finals and message.outcome is None:
            return False
        if self.cameras and message.camera not in self.cameras:
            return False
        if self.sites and site not in self.sites:
            return False
        if self.questions and message.question_id not in self.questions:
            return False
        return not self.owners or not self.owners.isdisjoint((message.owner, message.owner.partition("/")[0]))


@dataclass(slots=True)
class Until:
    """When watching ends by itself.

    Attributes:
        count: after so many messages; None: never.
        timeout_s: after so long; None: never.
    """

    count: int | None = None
    timeout_s: float | None = None


async def watch_and_print(
    broker: BrokerSettings,
    wanted: Wanted,
    until: Until,
    stop: Stop,
    *,
    as_json: bool,
    name: str | None = None,
) -> int:
    """Print answers and outcomes as they come.

    Args:
        broker: where the fleet is.
        wanted: what is shown.
        until: when it ends by itself.
        stop: ends it.
        as_json: print each message as a line of JSON, with its site.
        name: of this client.

    Returns:
        0, or 1 when the time was over before as many came as were wanted, or any.

    Raises:
        NotAuthorizedError: the broker does not let this client read the cameras.
        ConnectionLostError: the broker cannot be reached.
    """
    console = SafeConsole(highlight=False)
    async with Client(broker, name=name, whole_fleet=True) as client:
        answers = client.watch(wanted.cameras or None)

        async def shown() -> AsyncIterator[Callable[[], None]]:
            async for message in answers:
                site = client.fleet.site_of_query(message.owner, message.camera)
                if wanted.admits(message, site):
                    yield _printing(console, message, site, as_json)

        try:
            return await _until(shown(), until, stop)
        finally:
            await answers.aclose()


async def watch_topics_and_print(
    broker: BrokerSettings,
    filters: list[str],
    until: Until,
    stop: Stop,
    *,
    as_json: bool,
    name: str | None = None,
) -> int:
    """Print every message on some topics, decoded.

    Args:
        broker: where the fleet is.
        filters: MQTT topic filters.
        until: when it ends by itself.
        stop: ends it.
        as_json: print each message as a line of JSON.
        name: of this client.

    Returns:
        See :func:`watch_and_print`.

    Raises:
        ConfigError: a filter is that of a share group.
        NotAuthorizedError: the broker does not let this client read them.
        ConnectionLostError: the broker cannot be reached.
    """
    for topic_filter in filters:
        if topic_filter.startswith(SHARE):
            problem = f"{topic_filter}: what is dealt to a watcher is lost to the workers; name the topic without it"
            raise ConfigError("--topic", problem)
    bus = MqttBus(
        broker,
        client_id=f"{name or client_name(broker.username)}-{secrets.token_hex(4)}",
        subscriptions=[Subscription(topic_filter, qos=0) for topic_filter in filters],
    )
    async with bus:
        await bus.wait_connected(CONNECT_TIMEOUT_S)
        console = SafeConsole(highlight=False)

        async def shown() -> AsyncIterator[Callable[[], None]]:
            while True:
                for event in await bus.receive_batch():
                    if isinstance(event, Inbound):
                        yield _printing_topic(console, event, as_json)

        return await _until(shown(), until, stop)


async def _until(shown: AsyncIterator[Callable[[], None]], until: Until, stop: Stop) -> int:
    """Print what comes; the exit status."""
    printed = 0

    async def show() -> None:
        nonlocal printed
        async for show_it in shown:
            show_it()
            printed += 1
            if until.count is not None and printed >= until.count:
                return

    showing = asyncio.create_task(show(), name="watch")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait({showing, stopped}, timeout=until.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if showing in done:
            showing.result()
        if done:
            return 0
        return int(not printed or until.count is not None)
    finally:
        showing.cancel()
        stopped.cancel()
        await asyncio.gather(showing, stopped, return_exceptions=True)
        if isinstance(shown, AsyncGenerator):
            await shown.aclose()


def _printing(console: SafeConsole, message: Told, site: str | None, as_json: bool) -> Callable[[], None]:
    def show() -> None:
        if as_json:
            _print_json({"site": site, **message.model_dump(mode="json")})
            return
        place = message.camera if site is None else f"{site}/{message.camera}"
        asked = message.question_id if not message.ad_hoc else f"{message.question_id} of {message.owner}"
        head = f"[dim]{time.strftime('%H:%M:%S')}[/]  [bold]{escape(place)}[/]  {escape(asked)}"
        console.print(f"{head}  {line_of(message)}", soft_wrap=True)

    return show


def _printing_topic(console: SafeConsole, event: Inbound, as_json: bool) -> Callable[[], None]:
    def show() -> None:
        if as_json:
            _print_json(_decoded(event))
            return
        found = _decoded(event)
        words = [f"[bold]{escape(event.topic)}[/]"]
        words += ["[dim]retained[/]"] if event.retain else []
        if "problem" in found:
            words.append(f"[red]{escape(found['problem'])}[/]")
        elif found["message"] is None:
            words.append("[dim]deleted[/]")
        else:
            words += [found["kind"], escape(json.dumps(found["message"], separators=(",", ":"), ensure_ascii=False))]
        console.print(f"[dim]{time.strftime('%H:%M:%S')}[/]  {'  '.join(words)}", soft_wrap=True)

    return show


def _decoded(event: Inbound) -> dict[str, Any]:
    """A message of any topic, as plain data; bytes in hexadecimal, long ones cut."""
    found: dict[str, Any] = {"topic": event.topic, "retain": event.retain, "payload_bytes": len(event.payload)}
    try:
        _, message = wire.decode_publish(event.topic, event.payload)
    except RemoteError as error:
        return {**found, "problem": str(error)}
    return {**found, "kind": type(message).__name__ if message else None, "message": _plain(message)}


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return {name: _plain(entry) for name, entry in value.model_dump(mode="python").items()}
    if isinstance(value, bytes):
        return value.hex() if len(value) <= _SHOWN_BYTES else f"{value[:_SHOWN_BYTES].hex()}... {len(value)} bytes"
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _print_json(value: dict[str, Any]) -> None:
    # ASCII: JSON stays JSON on a terminal that is not UTF-8.
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
