"""``latentbus ring``: the events that the edges of a fleet keep."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, PortOption, broker_settings
from schemas.errors import ConfigError
from schemas.types import FrameId

if TYPE_CHECKING:
    from latentbus.client.events import EventClient, EventFrame
    from pipeline.config.broker_settings import BrokerSettings
    from pipeline.node.runtime import Stop
    from schemas.messages import EventEntry

ring_app = typer.Typer(
    no_args_is_help=True,
    help="Events: the frames around answers that match a rule, kept at the edge. On a secured broker operators may "
    "list, fetch and erase them; pictures go to those whom the settings of the camera name.",
    epilog="Examples: latentbus ring list gate; latentbus ring fetch gate 1a2b3c4d-17 --out event; "
    "latentbus ring erase gate --older-than 86400",
)
CameraArgument = Annotated[str, typer.Argument(help="Name of the camera.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@ring_app.command("list", epilog="Example: latentbus ring list gate --host broker.example")
def list_events(
    camera: CameraArgument,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the events of a camera, the latest first."""
    _run(_list, broker_settings(config, host, port), camera, as_json)


@ring_app.command(epilog="Example: latentbus ring fetch gate 1a2b3c4d-17 --pictures --out event")
def fetch(
    camera: CameraArgument,
    event: Annotated[str, typer.Argument(help="The event, as `ring list` shows it.")],
    out: Annotated[Path, typer.Option(help="Folder for the frames; made if need be.")],
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Fetch JPEG pictures, where the camera's settings allow that to you.")
    ] = False,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Fetch the latents or the pictures of an event into a folder, with an index of them in index.jsonl.

    They leave the uplink of the site when nothing else waits for it.
    """
    chosen, broker = _event(event), broker_settings(config, host, port)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--out", f"{out}: {error.strerror or error}") from error
    _run(_fetch, broker, camera, chosen, out, pictures)


@ring_app.command(
    epilog="Examples: latentbus ring erase gate --event 1a2b3c4d-17; latentbus ring erase gate --all; "
    "latentbus ring erase gate --older-than 3600 --younger-than 7200"
)
def erase(
    camera: CameraArgument,
    event: Annotated[str | None, typer.Option(help="This event alone.")] = None,
    older_than: Annotated[
        float | None, typer.Option(help="Frames that are at least so many seconds old.", min=0, max=2_678_400)
    ] = None,
    younger_than: Annotated[
        float | None, typer.Option(help="Frames that are no older than so many seconds.", min=0, max=2_678_400)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All events of the camera, however old.")] = False,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Erase events of a camera at its edge, and the frames of that time in its memory."""
    by_time = older_than is not None or younger_than is not None
    if [event is not None, by_time, everything].count(True) != 1:
        raise ConfigError("erase", "say what: one of --event, --older-than and --younger-than, or --all")
    chosen = None if event is None else _event(event)
    _run(_erase, broker_settings(config, host, port), camera, chosen, older_than or 0.0, younger_than)


def _event(text: str) -> FrameId:
    try:
        return FrameId.parse(text)
    except ValueError as error:
        raise ConfigError("EVENT", str(error)) from None


def _run(work: object, broker: BrokerSettings, *arguments: object) -> None:
    from latentbus.client.events import EventClient
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import run

    configure_logging("error")

    async def main(_stop: Stop) -> int:
        async with EventClient(broker) as client:
            await work(client, *arguments)  # type: ignore[operator]
        return 0

    raise typer.Exit(run(main, drain_timeout_s=2))


async def _list(client: EventClient, camera: str, as_json: bool) -> None:
    for entry in await client.events(camera):
        if as_json:
            sys.stdout.write(json.dumps({**entry.model_dump(mode="json"), "event": str(entry.event)}) + "\n")
        else:
            typer.echo(_line(entry))


def _line(entry: EventEntry) -> str:
    from schemas.printable import printable

    age = "age unknown" if isinstance(entry.age_ms, str) else f"{entry.age_ms / 1000:.0f} s ago"
    kept = f"{entry.frames} frames, {entry.pictures} pictures, {entry.size_bytes} bytes"
    return f"{entry.event}  {age}  {entry.question_id}: {printable(entry.text)}  ({kept})"


async def _fetch(client: EventClient, camera: str, event: FrameId, out: Path, pictures: bool) -> None:
    try:
        with (out / "index.jsonl").open("w", encoding="utf-8") as index:
            async for frame in client.fetch(camera, event, pictures=pictures):
                name = f"{frame.index:04d}.{'jpg' if pictures else 'latents'}"
                (out / name).write_bytes(frame.payload)
                index.write(json.dumps(_described(frame, name)) + "\n")
                typer.echo(f"{name}  {frame.offset_ms / 1000:+.1f} s  {len(frame.payload)} bytes")
    except OSError as error:
        raise ConfigError("--out", f"{out}: {error.strerror or error}") from error


def _described(frame: EventFrame, name: str) -> dict[str, object]:
    return {
        "file": name,
        "frame": str(frame.frame),
        "offset_ms": frame.offset_ms,
        "fingerprint": frame.fingerprint.hex(),
    }


async def _erase(
    client: EventClient, camera: str, event: FrameId | None, older_than_s: float, younger_than_s: float | None
) -> None:
    typer.echo(await client.erase(camera, event=event, older_than_s=older_than_s, younger_than_s=younger_than_s))
