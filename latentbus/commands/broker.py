"""``latentbus broker``: a broker to try things out, and the certificates and rights of a fleet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker_config.devices import TAKES_POOL, Device, DeviceKind, fleet_cameras
from latentbus.commands.retained import EPILOG as RETAINED_EPILOG
from latentbus.commands.retained import retained
from schemas.counting import counted
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from broker_config.fleet_folder import FleetFolder

PASSPHRASE_ENVIRONMENT_VARIABLE = "LATENTBUS_CA_PASSPHRASE"  # noqa: S105 - its name, not its value
EXPIRY_WARNING_DAYS = 30

broker_app = typer.Typer(
    help="A private broker for trials, and the certificates and rights of a secured fleet.",
    no_args_is_help=True,
    epilog="The recipe is in docs/security.md. The key of the authority is encrypted when "
    f"{PASSPHRASE_ENVIRONMENT_VARIABLE} is set.",
)

broker_app.command(epilog=RETAINED_EPILOG)(retained)

FleetArgument = Annotated[Path, typer.Argument(help="Folder of the fleet, made by `latentbus broker certs`.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the device: the site of an edge, the name of a worker.")]
DaysOption = Annotated[int, typer.Option(help="Days that the certificate is valid.", min=1, max=3650)]
RequestOption = Annotated[
    Path | None,
    typer.Option("--csr", help="Certificate signing request of a device that keeps its private key.", exists=True),
]
DEFAULT_DAYS = 397


@broker_app.command(epilog="Example: latentbus broker run --port 1883")
def run(
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="Port on this machine; a free one unless given.", min=1)
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option(help="Let only the devices of this fleet folder in, over TLS, by their rights.")
    ] = None,
) -> None:
    """Run a private Mosquitto on this machine for trying things out; it takes connections from this machine only."""
    from latentbus.broker.local import serve_broker
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import run as run_process

    configure_logging("info")
    folder = None
    if fleet is not None:
        opened = _open(fleet)
        folder, listed = opened.broker, opened.register.port
        if port != listed:
            typer.echo(
                f"the settings of this fleet's devices name port {listed}, the broker listens on "
                f"{'a free one' if port is None else port}: give --port {listed}, or change theirs",
                err=True,
            )
    raise typer.Exit(run_process(lambda stop: serve_broker(port, stop, fleet=folder)))


@broker_app.command(epilog="Example: latentbus broker certs fleet --host broker.example --host 192.0.2.7")
def certs(
    fleet: Annotated[Path, typer.Argument(help="Folder to make.")],
    host: Annotated[list[str], typer.Option(help="Name or address of the broker, the preferred first; repeatable.")],
    port: Annotated[int, typer.Option(help="Port of its secured listener.", min=1, max=65535)] = 8883,
    days: DaysOption = DEFAULT_DAYS,
) -> None:
    """Make a fleet: its authority, the broker's certificate and rules, and the device that may change the rules."""
    from broker_config.fleet_folder import FleetFolder

    made = FleetFolder.create(fleet, host, port=port, passphrase=_passphrase(), days=days)
    typer.echo(f"{made.broker}: for the broker, see broker_config/mosquitto.conf")
    typer.echo(f"{made.device('admin')}: the certificate that may change its rules; `latentbus broker apply` uses it")
    typer.echo(f"{fleet / 'authority'}: keep ca.key secret, whoever has it can be any device")


@broker_app.command(
    epilog="Examples: latentbus broker add-device fleet north --config site.yaml | "
    "latentbus broker add-device fleet w-1 --kind worker | latentbus broker add-device fleet alice --kind client"
)
def add_device(
    fleet: FleetArgument,
    name: NameArgument,
    kind: Annotated[DeviceKind | None, typer.Option(help="What it is; read from --config unless given.")] = None,
    pool: Annotated[str, typer.Option(help="Pool of an edge or a worker.")] = "main",
    camera: Annotated[
        list[str] | None, typer.Option(help="Camera of an edge, or one that a client may ask (all unless given).")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file of the edge: its pool and cameras.")
    ] = None,
    csr: RequestOption = None,
    days: DaysOption = DEFAULT_DAYS,
    update: Annotated[
        bool, typer.Option("--update", help="Change the rights of a device that is there; its certificate stays.")
    ] = False,
) -> None:
    """Take a device in: a certificate in its name, and the rights of its kind. Then run `latentbus broker apply`."""
    device = _device(name, kind, pool, tuple(camera or ()), config)
    opened = _open(fleet)
    known = fleet_cameras(opened.register.devices.values())
    unknown = sorted(set(device.cameras) - set(known)) if device.kind is not DeviceKind.EDGE else []
    if unknown:
        there = ", ".join(known) or "none"
        typer.echo(f"{name}: no edge has camera {', '.join(unknown)} yet; cameras of this fleet: {there}", err=True)
    if update:
        opened.update(device)
        typer.echo(f"{name}: rights changed; run `latentbus broker apply {fleet}`")
        return
    folder = opened.add(device, request=_request(csr), days=days)
    typer.echo(f"{folder}: hand this to the device, then run `latentbus broker apply {fleet}`")


@broker_app.command(epilog="Example: latentbus broker renew-device fleet north")
def renew_device(
    fleet: FleetArgument,
    name: NameArgument,
    csr: RequestOption = None,
    days: DaysOption = DEFAULT_DAYS,
    revoke_older: Annotated[
        bool, typer.Option("--revoke-older", help="Revoke all its older certificates now: a key was stolen.")
    ] = False,
) -> None:
    """Issue a new certificate; the older ones stay valid until they run out, unless they are revoked."""
    opened = _open(fleet)
    folder = opened.renew(name, request=_request(csr), days=days)
    typer.echo(f"{folder}: hand this to the device")
    if revoke_older:
        _say_revoked(opened, name, opened.revoke_older(name))


@broker_app.command(epilog="Example: latentbus broker revoke-device fleet north")
def revoke_device(fleet: FleetArgument, name: NameArgument) -> None:
    """Put a device out of the fleet: no rights, every certificate of it revoked. Then run `latentbus broker apply`."""
    opened = _open(fleet)
    _say_revoked(opened, name, opened.remove(name))
    typer.echo(f"Now run `latentbus broker apply {fleet}`: it ends the connection of {name}.")


@broker_app.command(epilog="Example: latentbus broker renew-broker fleet --host broker.example")
def renew_broker(
    fleet: FleetArgument,
    host: Annotated[
        list[str] | None, typer.Option(help="Its names and addresses from now on; kept unless given.")
    ] = None,
    days: DaysOption = DEFAULT_DAYS,
) -> None:
    """Issue a new certificate for the broker itself."""
    opened = _open(fleet)
    opened.renew_broker(host or (), days=days)
    typer.echo(f"{opened.broker}: copy server.crt and server.key to the broker and send it SIGHUP")


@broker_app.command(epilog="Example: latentbus broker devices fleet")
def devices(
    fleet: FleetArgument,
    rights: Annotated[bool, typer.Option("--rights", help="Also every topic that each may publish or read.")] = False,
) -> None:
    """List the devices of a fleet and when their certificates run out. Exit status 1 when one does within 30 days."""
    from broker_config.access import rights_of
    from broker_config.certificates import utc_now

    opened = _open(fleet)
    due = 0
    cameras = fleet_cameras(opened.register.devices.values())
    # On the standard error, so that the list can be piped.
    typer.echo(f"{'device':<32} {'kind':<9} {'expires in':>10}  pool and cameras", err=True)
    for name, device in sorted(opened.register.devices.items()):
        valid = opened.register.valid_certificate(name)
        days_left = -1 if valid is None else (valid.not_after - utc_now()).days
        due += days_left < EXPIRY_WARNING_DAYS
        where = ", ".join(filter(None, [device.pool, *device.cameras]))
        typer.echo(f"{name:<32} {device.kind:<9} {counted(days_left, 'day'):>10}  {where}".rstrip())
        for right in rights_of(device, cameras) if rights else ():
            typer.echo(f"    {right.access:<20} {right.topic}")
    raise typer.Exit(1 if due else 0)


@broker_app.command(epilog="Example: latentbus broker apply fleet --dry-run")
def apply(
    fleet: FleetArgument,
    host: Annotated[str | None, typer.Option(help="Broker host; the first of `certs` unless given.")] = None,
    port: Annotated[int | None, typer.Option(help="Broker port; that of `certs` unless given.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Bring the rules of the running broker in line with the register; devices whose rights change reconnect."""
    import asyncio

    from latentbus.broker.options import with_address
    from latentbus.broker.rules import bring_in_line
    from pipeline.config.logs import configure_logging
    from pipeline.config.settings import load_settings

    configure_logging("warning")
    opened = _open(fleet)
    broker = load_settings(opened.device("admin") / "settings.yaml").broker
    commands = asyncio.run(bring_in_line(with_address(broker, host, port), opened.rules(), dry_run=dry_run))
    for command in commands:
        name = command.get("username") or command.get("rolename") or "everybody"
        typer.echo(f"{'would send ' if dry_run else ''}{command['command']} {name}")
    if not commands:
        typer.echo("the broker's rules agree with the register")


def _device(
    name: str,
    kind: DeviceKind | None,
    pool: str,
    cameras: tuple[str, ...],
    config: Path | None,
) -> Device:
    from latentbus.options.arguments import made_of

    if config is not None:
        from pipeline.config.fleet_file import Part
        from pipeline.config.settings import load_settings, require_edge

        edge = require_edge(load_settings(config, part=Part("edge", name)), config)
        kind, pool = DeviceKind.EDGE, edge.pool
        cameras = cameras or tuple(edge.cameras)
    if kind is None:
        raise ConfigError("--kind", f"one of {', '.join(DeviceKind)}, or the settings file of an edge as --config")
    options = {"name": "NAME", "pool": "--pool", "cameras": "--camera"}
    held_pool = pool if kind in TAKES_POOL else None
    return made_of(Device, options, name=name, kind=kind, pool=held_pool, cameras=cameras)


def _open(path: Path) -> FleetFolder:
    from broker_config.fleet_folder import FleetFolder

    opened = FleetFolder(path, _passphrase())
    if opened.set_aside is not None:
        typer.echo(
            f"{path / 'register.json'} was of version 1: kept as {opened.set_aside.name}. Its devices and certificates "
            f"were taken over, their rights are those of wire version 2 now: run `latentbus broker apply {path}`",
            err=True,
        )
    return opened


def _passphrase() -> bytes | None:
    return os.environb.get(PASSPHRASE_ENVIRONMENT_VARIABLE.encode()) or None


def _request(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _say_revoked(fleet: FleetFolder, name: str, count: int) -> None:
    typer.echo(
        f"{name}: certificates revoked: {count}; copy {fleet.broker / 'revoked.pem'} to the broker and send it SIGHUP"
    )
