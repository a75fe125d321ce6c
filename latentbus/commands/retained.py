"""``latentbus broker retained``: list what dead cameras, sites and workers left on a broker, and remove it."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, PortOption, broker_settings, with_address
from latentbus.broker.retained import Entry, Kind, State, classify
from schemas.errors import ConfigError
from schemas.printable import printable

if TYPE_CHECKING:
    from pipeline.config.broker_settings import BrokerSettings

EPILOG: Final = (
    "Examples: latentbus broker retained --host broker.example | latentbus broker retained --fleet fleet --listen 75 "
    "--remove --kind status"
)
CONNECT_TIMEOUT_S: Final = 10.0
_RECEIVE_MAXIMUM: Final = 256


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
    from latentbus.broker.retained_store import SENT_AT_ONCE, RetainedStore
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
            _print(entries, sent_at_once=SENT_AT_ONCE if len(held) >= SENT_AT_ONCE else None)
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


def _print(entries: Sequence[Entry], *, sent_at_once: int | None) -> None:
    for entry in entries:
        line = f"{entry.state:<4}  {entry.held.kind:<8}  {entry.held.size_bytes:>6} B  {entry.held.topic}  {entry.why}"
        typer.echo(printable(line))
    counts = {state: sum(entry.state is state for entry in entries) for state in State}
    typer.echo(
        f"{len(entries)} retained: " + ", ".join(f"{count} {state}" for state, count in counts.items()), err=True
    )
    if sent_at_once is not None:
        typer.echo(f"A broker sends about {sent_at_once} at once, so there may be more: run it again.", err=True)


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
