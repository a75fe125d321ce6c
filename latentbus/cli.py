"""The ``latentbus`` command.

Nothing heavy is imported here: each command imports what it needs when it runs, so that ``--help`` answers at once and
an edge machine needs no torch.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from latentbus import __version__
from latentbus.commands.ask import EPILOG as ASK_EPILOG
from latentbus.commands.ask import ask
from latentbus.commands.attack import EPILOG as ATTACK_EPILOG
from latentbus.commands.attack import attack
from latentbus.commands.bench import bench_app
from latentbus.commands.bench_uplink import EPILOG as BENCH_UPLINK_EPILOG
from latentbus.commands.bench_uplink import bench_uplink
from latentbus.commands.bench_worker import EPILOG as BENCH_WORKER_EPILOG
from latentbus.commands.bench_worker import bench_worker
from latentbus.commands.broker import broker_app
from latentbus.commands.chaos import chaos
from latentbus.commands.codec import codec_app
from latentbus.commands.compare import COMPARE_EPILOG, REDACT_EPILOG, compare, redact
from latentbus.commands.demo import EPILOG as DEMO_EPILOG
from latentbus.commands.demo import demo
from latentbus.commands.doctor import EPILOG as DOCTOR_EPILOG
from latentbus.commands.doctor import doctor
from latentbus.commands.gateway import EPILOG as GATEWAY_EPILOG
from latentbus.commands.gateway import gateway
from latentbus.commands.nodes import EDGE_EPILOG, WORKER_EPILOG, edge, worker
from latentbus.commands.recording import INSPECT_EPILOG, RECORD_EPILOG, RECOVER_EPILOG, inspect, record, recover
from latentbus.commands.replay import EPILOG as REPLAY_EPILOG
from latentbus.commands.replay import replay
from latentbus.commands.replay_cameras import EPILOG as REPLAY_CAMERAS_EPILOG
from latentbus.commands.replay_cameras import replay_cameras
from latentbus.commands.ring import ring_app
from latentbus.commands.schema import schema_app
from latentbus.commands.simulate import EPILOG as SIMULATE_EPILOG
from latentbus.commands.simulate import simulate
from latentbus.commands.site import site_app
from latentbus.commands.status import EPILOG as STATUS_EPILOG
from latentbus.commands.status import status
from latentbus.commands.train import train_app
from latentbus.commands.validate import EPILOG as VALIDATE_EPILOG
from latentbus.commands.validate import validate
from latentbus.commands.watch import EPILOG as WATCH_EPILOG
from latentbus.commands.watch import watch
from latentbus.commands.what_if import EPILOG as WHAT_IF_EPILOG
from latentbus.commands.what_if import what_if
from latentbus.options.arguments import refuse_what_is_no_number
from schemas.errors import ConfigError, LatentbusError
from schemas.printable import printable

EXIT_FAILED = 1
EXIT_USAGE = 2

app = typer.Typer(
    name="latentbus",
    epilog="Start with: latentbus demo --duration 60",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train_app, name="train")
app.add_typer(codec_app, name="codec")
app.add_typer(broker_app, name="broker")
app.add_typer(bench_app, name="bench")
app.add_typer(ring_app, name="ring")
app.add_typer(schema_app, name="schema")
app.add_typer(site_app, name="site")
bench_app.command("uplink", epilog=BENCH_UPLINK_EPILOG)(bench_uplink)
bench_app.command("worker", epilog=BENCH_WORKER_EPILOG)(bench_worker)


@app.command()
def version() -> None:
    """Print the version of this software and of the wire that it speaks."""
    typer.echo(_version_text())


def _version_text() -> str:
    from schemas.messages import SCHEMA_VERSION

    return f"latentbus {__version__}, wire version {SCHEMA_VERSION}"


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(_version_text())
        raise typer.Exit


@app.callback()
def latentbus(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print both versions, and end.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Ask questions of a camera fleet over thin links: ordered latents over MQTT, answered by an unmodified VLM."""


for command, epilog in (
    (demo, DEMO_EPILOG),
    (ask, ASK_EPILOG),
    (watch, WATCH_EPILOG),
    (status, STATUS_EPILOG),
    (doctor, DOCTOR_EPILOG),
    (edge, EDGE_EPILOG),
    (worker, WORKER_EPILOG),
    (gateway, GATEWAY_EPILOG),
    (validate, VALIDATE_EPILOG),
    (record, RECORD_EPILOG),
    (recover, RECOVER_EPILOG),
    (inspect, INSPECT_EPILOG),
    (replay, REPLAY_EPILOG),
    (replay_cameras, REPLAY_CAMERAS_EPILOG),
    (what_if, WHAT_IF_EPILOG),
    (compare, COMPARE_EPILOG),
    (redact, REDACT_EPILOG),
    (simulate, SIMULATE_EPILOG),
    (chaos, "Example: latentbus chaos --questions 200 --faults 8 --seed 3"),
    (attack, ATTACK_EPILOG),
):
    app.command(epilog=epilog)(command)


def run_command() -> None:
    """Run the command that the arguments name."""
    command = typer.main.get_command(app)
    refuse_what_is_no_number(command)
    command()


def main() -> None:
    """Run the command; our errors become one clear line, 2 for wrong settings and 1 for the rest."""
    _accept_every_character()
    try:
        run_command()
    except ConfigError as error:
        typer.echo(f"latentbus: {printable(str(error))}", err=True)
        sys.exit(EXIT_USAGE)
    except LatentbusError as error:
        typer.echo(f"latentbus: {printable(str(error))}", err=True)
        sys.exit(EXIT_FAILED)
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name or "")
        if extra is None:
            raise
        typer.echo(f"latentbus: {error.name} is not installed; run: pip install 'latentbus[{extra}]'", err=True)
        sys.exit(EXIT_USAGE)


def _accept_every_character() -> None:
    """Write what the encoding of a terminal or a file lacks as a backslash escape; a peer's text is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _extra_of(module: str) -> str | None:
    """Extra that brings a third-party module."""
    top = module.partition(".")[0]
    if top in {"av", "onnxruntime", "PIL"}:
        return "edge"
    if top in {"jinja2", "matplotlib"}:
        return "report"
    if top in {"lz4", "mcap", "zstandard"}:
        return "recording"
    if top == "cryptography":
        return "certificates"
    if top in {"aiohttp", "apprise", "sse_starlette", "starlette", "uvicorn"}:
        return "gateway"
    if top in {"accelerate", "tensorboardX"}:
        return "train"
    return "cloud" if top in {"torch", "transformers", "tokenizers", "onnx", "onnxscript"} else None
