"""``latentbus broker retained``: list what dead cameras, sites and workers left on a broker, and remove it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from broker_config.access import LEFT_RETAINED
from latentbus.broker.options import BrokerConfigOption, HostOption, PortOption, broker_settings, with_address
from latentbus.broker.retained import Entry, Held, Kind, State, classify
from schemas import topics
from schemas.errors import BusError, ConfigError, NotAuthorizedError, RemoteError
from schemas.messages import Status
from schemas.printable import printable
from schemas.topics import ROOT, Family

if TYPE_CHECKING:
    from pipeline.bus.base import Subscription
    from pipeline.bus.mqtt import MqttBus
    from pipeline.config.settings import BrokerSettings

EPILOG: Final = (
    "Examples: latentbus broker retained --host broker.example | latentbus broker retained --fleet fleet --listen 75 "
    "--remove --kind status"
)
CONNECT_TIMEOUT_S: Final = 10.0
EVERYTHING: Final = f"{ROOT.partition('/')[0]}/#"
SENT_AT_ONCE: Final = 4_000
"""What Mosquitto queues for one client; what it retains beyond, it does not send, and says nothing."""
_RECEIVE_MAXIMUM: Final = 256


class RetainedStore:
    """Reads what a broker retains, and clears it.

    Args:
        bus: a connection without subscriptions, entered.
    """

    def __init__(self, bus: MqttBus) -> None:
        self._bus = bus

    async def read(self) -> list[Held]:
        """Everything that is retained below our topics, as far as this identity may read it.

        Raises:
            NotAuthorizedError: it may read nothing of it.
            ConnectionLostError: the connection broke.
        """
        try:
            return await self._retained(EVERYTHING)
        except NotAuthorizedError:
            # The admin of a secured fleet has the families where something may be left.
            found = [await self._retained(topics.family_filter(family)) for family in LEFT_RETAINED]
            return [held for family in found for held in family]

    async def listen(self, seconds: float) -> set[str]:
        """Processes that say something of themselves, as ``edge/north``.

        Args:
            seconds: how long; an edge speaks once a minute, a worker every two seconds.
        """
        heard: set[str] = set()
        filters = [topics.family_filter(family) for family in (Family.STATUS, Family.LOAD)]
        for topic_filter in filters:
            await self._bus.subscribe(_subscription(topic_filter))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    heard |= self._speakers(await self._bus.receive_batch())
        for topic_filter in filters:
            await self._bus.unsubscribe(topic_filter)
        return heard

    async def remove(self, listed: Iterable[Entry], heard: Collection[str] | None = None) -> dict[str, str]:
        """Clear topics whose message is still the one that was listed, and still dead.

        Args:
            listed: what to clear.
            heard: what :meth:`listen` found before, if it was called.

        Returns:
            What became of each topic: empty when it was cleared, else why not.
        """
        listed = list(listed)
        held = await self.read()
        if len(held) >= SENT_AT_ONCE:
            # The broker sent no more than that, which says nothing about the others.
            seen = {one.topic for one in held}
            for entry in listed:
                if entry.held.topic not in seen:
                    held += await self._retained(entry.held.topic)
        now = {entry.held.topic: entry for entry in classify(held, heard)}
        results: dict[str, str] = {}
        for entry in listed:
            topic = entry.held.topic
            present = now.get(topic)
            if present is None:
                results[topic] = "it is gone already"
            elif present.held.digest != entry.held.digest:
                results[topic] = "it has changed since it was listed"
            elif present.state is not State.DEAD:
                results[topic] = f"by now {present.why}"
            else:
                results[topic] = await self._clear(topic)
        return results

    async def _clear(self, topic: str) -> str:
        try:
            await self._bus.publish(topic, b"", qos=1, retain=True)
        except NotAuthorizedError:
            return "this identity may not clear it"
        except BusError as error:
            return str(error)
        return ""

    async def _retained(self, topic_filter: str) -> list[Held]:
        async def ask() -> None:
            await self._bus.subscribe(_subscription(topic_filter))
            # A broker sends what it retains before it answers the next request.
            await self._bus.unsubscribe(topic_filter)

        found: list[Held] = []
        asking = asyncio.create_task(ask(), name="retained")
        try:
            while not asking.done() or self._bus.statistics().incoming_messages:
                found += await self._batch(asking)
            await asking
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        return found

    async def _batch(self, asking: asyncio.Task[None]) -> list[Held]:
        """Retained messages of one batch; nothing when the request ended first."""
        from pipeline.bus.base import Inbound

        taking = asyncio.create_task(self._bus.receive_batch(), name="batch")
        try:
            await asyncio.wait({taking, asking}, return_when=asyncio.FIRST_COMPLETED)
            events = taking.result() if taking.done() else []
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        found = []
        for event in events:
            if isinstance(event, Inbound):
                self._bus.acknowledge(event)
                if event.retain and event.payload:
                    found.append(Held.of(event.topic, event.payload))
        return found

    def _speakers(self, events: Sequence[Any]) -> set[str]:
        from pipeline.bus.base import Inbound
        from schemas import wire

        heard: set[str] = set()
        for event in events:
            if not isinstance(event, Inbound):
                continue
            self._bus.acknowledge(event)
            if event.retain or not event.payload:
                continue
            with contextlib.suppress(RemoteError):
                _, message = wire.decode_publish(event.topic, event.payload)
                if isinstance(message, Status) and message.online:
                    heard.add(f"{message.kind}/{message.id}")
        return heard


def retained(
    fleet: Annotated[
        Path | None, typer.Option(help="Folder of a secured fleet; its admin may read and clear what is left.")
    ] = None,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    kind: Annotated[list[Kind] | None, typer.Option(help="Only this kind of message; repeatable.")] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Only what has this site, camera, worker or client; repeatable.")
    ] = None,
    listen: Annotated[
        float,
        typer.Option(
            help="Seconds to listen first: who says it is online and is not heard is taken for dead. An edge speaks "
            "once a minute, so give 75.",
            min=0,
            max=3600,
        ),
    ] = 0.0,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is dead, after a question.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without the question.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List what a broker retains and whether anybody still stands for it; --remove clears what is dead.

    Nothing of a process that is online is removed, nor an operator's question of a site that is only offline. How old a
    message is cannot be said: a broker does not tell, and statuses have no time in them, since no clock of one host is
    compared with another's. --listen finds processes that ended without a last word.

    Exit status 1 when something could not be removed.
    """
    from pipeline.config.logs import configure_logging

    configure_logging("warning")
    if remove and not yes and (as_json or not sys.stdin.isatty()):
        raise ConfigError("--remove", "nobody can be asked here: look at the list without it, then add --yes")
    broker = _broker(fleet, config, host, port)
    raise typer.Exit(asyncio.run(_run(broker, kind or list(Kind), name, listen, remove, yes, as_json)))


async def _run(
    broker: BrokerSettings,
    kinds: Sequence[Kind],
    names: Sequence[str] | None,
    listen_s: float,
    remove: bool,
    yes: bool,
    as_json: bool,
) -> int:
    from pipeline.bus.mqtt import MqttBus

    bus = MqttBus(broker, client_id=f"lb-retained-{secrets.token_hex(4)}", receive_maximum=_RECEIVE_MAXIMUM)
    async with bus:
        await bus.wait_connected(CONNECT_TIMEOUT_S)
        store = RetainedStore(bus)
        heard = await store.listen(listen_s) if listen_s else None
        held = await store.read()
        entries = [
            entry
            for entry in classify(held, heard)
            if entry.held.kind in kinds and (names is None or set(names) & set(entry.held.names))
        ]
        dead = [entry for entry in entries if entry.state is State.DEAD]
        if not as_json:
            _print(entries, more=len(held) >= SENT_AT_ONCE)
        if not remove or not dead:
            results: dict[str, str] = {}
        elif yes or await asyncio.to_thread(typer.confirm, f"Remove the {len(dead)} that are dead?", err=True):
            results = await store.remove(dead, heard)
        else:
            return 0
    if as_json:
        typer.echo(json.dumps([_as_json(entry, results) for entry in entries], indent=1))
    failed = {topic: why for topic, why in results.items() if why}
    if results and not as_json:
        typer.echo(f"removed {len(results) - len(failed)} of {len(results)}")
    for topic, why in sorted(failed.items()):
        typer.echo(f"not removed: {printable(topic)}: {why}", err=True)
    return 1 if failed else 0


def _print(entries: Sequence[Entry], *, more: bool) -> None:
    for entry in entries:
        line = f"{entry.state:<4}  {entry.held.kind:<8}  {entry.held.size_bytes:>6} B  {entry.held.topic}  {entry.why}"
        typer.echo(printable(line))
    counts = {state: sum(entry.state is state for entry in entries) for state in State}
    typer.echo(
        f"{len(entries)} retained: " + ", ".join(f"{count} {state}" for state, count in counts.items()), err=True
    )
    if more:
        typer.echo(f"A broker sends about {SENT_AT_ONCE} at once, so there may be more: run it again.", err=True)


def _subscription(topic_filter: str) -> Subscription:
    from pipeline.bus.base import Subscription

    # At QoS 1 the receive window holds the broker back, so that no message is dropped here.
    return Subscription(topic_filter, qos=1)


def _as_json(entry: Entry, results: dict[str, str]) -> dict[str, object]:
    held = entry.held
    result = results.get(held.topic)
    return {
        "topic": held.topic,
        "kind": held.kind,
        "size_bytes": held.size_bytes,
        "state": entry.state,
        "why": entry.why,
        "removed": result == "",
    }


def _broker(fleet: Path | None, config: Path | None, host: str | None, port: int | None) -> BrokerSettings:
    if fleet is None:
        return broker_settings(config, host, port)
    if config is not None:
        raise ConfigError("--config", "a fleet folder has the broker and the admin's certificate: name one of the two")
    from broker_config.fleet_folder import ADMIN, SETTINGS_FILE, FleetFolder
    from pipeline.config.settings import load_settings

    folder = FleetFolder(fleet).device(ADMIN)
    return with_address(load_settings(folder / SETTINGS_FILE).broker, host, port)
