"""The ``latentbus`` command.

Nothing heavy is imported here: each command imports what it needs when it runs, so that ``--help`` answers at once and
an edge machine needs no torch.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus import __version__
from latentbus.arguments import refuse_what_is_no_number
from latentbus.attack_command import EPILOG as ATTACK_EPILOG
from latentbus.attack_command import attack
from latentbus.bench_commands import bench_app
from latentbus.broker_commands import broker_app
from latentbus.broker_options import BrokerConfigOption, HostOption, PortOption, broker_settings
from latentbus.chaos_command import chaos
from latentbus.codec_commands import codec_app
from latentbus.compare_command import COMPARE_EPILOG, REDACT_EPILOG, compare, redact
from latentbus.output_files import json_target, svg_target
from latentbus.recording_commands import INSPECT_EPILOG, RECORD_EPILOG, RECOVER_EPILOG, inspect, record, recover
from latentbus.replay_command import EPILOG as REPLAY_EPILOG
from latentbus.replay_command import replay
from latentbus.simulate import EPILOG as SIMULATE_EPILOG
from latentbus.simulate import simulate
from latentbus.train_commands import train_app
from pipeline.settings import MAX_BATCH_FRAMES, MAX_INTERVAL_S, MAX_UPLINK_KBPS, FirstPrefixRule
from schemas.errors import ConfigError, LatentbusError
from schemas.printable import printable
from schemas.types import AnswerType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.runtime import Stop
    from pipeline.settings import LatentbusSettings

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

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="YAML file; see docs/configuration.md.")]
RecordOption = Annotated[
    Path | None,
    typer.Option(help="Log of what this process sends and receives; overrides recording.file of the settings."),
]
ParentOption = Annotated[bool, typer.Option("--exit-with-parent", hidden=True)]


@app.command(
    epilog="Examples: latentbus demo --duration 60 --json out.json | latentbus demo --video street.mp4 "
    "--question 'is there a person?'"
)
def demo(
    duration: Annotated[float | None, typer.Option(help="Seconds to run; until Ctrl-C unless given.", min=1)] = None,
    uplink_kbps: Annotated[
        float, typer.Option(help="Uplink of the site, every byte on the wire counted.", min=1, max=MAX_UPLINK_KBPS)
    ] = 64,
    cameras: Annotated[int, typer.Option(help="Rendered cameras.", min=1, max=16)] = 4,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=16)] = 2,
    interval: Annotated[
        float, typer.Option(help="Seconds between frames of a camera.", min=0.1, max=MAX_INTERVAL_S)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the rendered cameras.", min=0)] = 7,
    video: Annotated[
        list[Path] | None, typer.Option(help="Your own video in place of the rendered ones; repeatable.")
    ] = None,
    question: Annotated[list[str] | None, typer.Option(help="What to ask of your own videos; repeatable.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.", callback=json_target)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the live table at its end to this SVG file.", callback=svg_target)
    ] = None,
    work_dir: Annotated[Path, typer.Option(help="Clips, generated settings and logs.")] = Path(".demo"),
    compare: Annotated[
        bool, typer.Option(help="Compute the other rows of the summary from the same frames afterwards.")
    ] = True,
    record: Annotated[Path | None, typer.Option(help="Log everything on the broker to this MCAP file.")] = None,
    batch_frames: Annotated[
        int,
        typer.Option(
            help="Frames in one batch of a worker's model; 1 makes a replay repeat it exactly.",
            min=1,
            max=MAX_BATCH_FRAMES,
        ),
    ] = 16,
    first_prefix: Annotated[
        FirstPrefixRule,
        typer.Option(
            help="What the first message of a frame carries: the prefix of the fewest expected bytes, of the shortest "
            "expected delay, always the base prefix, or everything."
        ),
    ] = "base",
) -> None:
    """Run the whole system on this machine: broker, one site of cameras on a thin uplink, and workers."""
    from latentbus.demo.options import DemoOptions
    from latentbus.demo.run import run_demo
    from pipeline.logs import configure_logging
    from pipeline.runtime import run

    configure_logging("warning")
    options = DemoOptions(
        duration_s=duration,
        uplink_kbps=uplink_kbps,
        cameras=cameras,
        workers=workers,
        interval_s=interval,
        seed=seed,
        videos=tuple(video or ()),
        questions=tuple(question or ()),
        json_file=json_file,
        picture_file=picture,
        work_dir=work_dir,
        compare=compare,
        record=record,
        batch_frames=batch_frames,
        first_prefix=first_prefix,
    )
    # The drain of the edge is bounded by itself; then the comparison runs, which a second Ctrl-C ends.
    raise typer.Exit(run(lambda stop: run_demo(options, stop), drain_timeout_s=900))


@app.command(epilog="Example: latentbus ask gate 'is there a red car?' --type yes_no --host broker.example")
def ask(
    camera: Annotated[str, typer.Argument(help="Name of the camera.")],
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    answer_type: Annotated[AnswerType, typer.Option("--type", help="What the answer may look like.")] = AnswerType.TEXT,
    option: Annotated[
        list[str] | None, typer.Option(help="An answer to choose from, with --type choice; give two or more.")
    ] = None,
    deadline: Annotated[float, typer.Option(help="Seconds until the terminal outcome.", min=0.5, max=3600)] = 30,
    query_id: Annotated[
        str | None, typer.Option(help="Key of the question; asked again under it, the same answer comes.")
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Ask only where an edge that is online serves the camera; --no-check waits for one.")
    ] = True,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each message as a line of JSON.")] = False,
) -> None:
    """Ask a camera one question and print the answers as they get better.

    Exit status: 0 answered, 1 any other outcome, 2 wrong settings or no such camera. The broker's password comes from
    the settings file or from LATENTBUS_BROKER__PASSWORD.
    """
    from latentbus.ask import Asking, ask_and_print
    from pipeline.logs import configure_logging
    from pipeline.runtime import run

    configure_logging("warning")
    broker = broker_settings(config, host, port)
    asking = Asking.create(
        camera,
        question,
        answer_type,
        deadline_s=deadline,
        query_id=query_id,
        client=broker.username,
        options=option or (),
    )
    raise typer.Exit(
        run(lambda stop: ask_and_print(broker, asking, stop, as_json=as_json, check=check), drain_timeout_s=2)
    )


@app.command(
    epilog="Examples: latentbus edge --config site.yaml | latentbus edge -c site.yaml --record site.mcap --full-latents"
)
def edge(
    config: ConfigOption,
    record: RecordOption = None,
    full_latents: Annotated[
        bool, typer.Option("--full-latents", help="Keep the whole latent of every frame in that log, for replays.")
    ] = False,
    exit_with_parent: ParentOption = False,
) -> None:
    """Run a site: read its cameras, encode frames, and see every question to its outcome. Needs no torch."""
    from edge_nodes.node import run_edge
    from latentbus.node_recording import recorded_edge
    from pipeline.settings import load_settings, require_edge

    settings = load_settings(config)
    site = recorded_edge(require_edge(settings, config), record, full_latents=full_latents)
    settings = settings.model_copy(update={"edge": site})
    _run_process(settings, lambda stop: run_edge(settings, stop), exit_with_parent)


@app.command(epilog="Example: latentbus worker --config worker.yaml (start it again on any machine to share the load)")
def worker(config: ConfigOption, record: RecordOption = None, exit_with_parent: ParentOption = False) -> None:
    """Run a worker: decode prefixes, answer with the VLM, ask for more only while an answer is not safe."""
    from cloud_workers.node import run_worker
    from latentbus.node_recording import recorded_worker
    from pipeline.settings import load_settings, require_worker

    settings = load_settings(config)
    settings = settings.model_copy(update={"worker": recorded_worker(require_worker(settings, config), record)})
    _run_process(settings, lambda stop: run_worker(settings, stop), exit_with_parent)


@app.command(epilog="Example: latentbus validate site.yaml")
def validate(
    file: Annotated[Path, typer.Argument(help="YAML file.")],
    show: Annotated[bool, typer.Option(help="Print the settings in full, defaults filled in, secrets hidden.")] = False,
) -> None:
    """Check a settings file: every problem with its line, its key and what is allowed there."""
    from latentbus.validate import load_and_check

    settings = load_and_check(file)
    if show:
        import yaml

        typer.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), nl=False)
    else:
        sections = [name for name in ("edge", "worker") if getattr(settings, name) is not None]
        typer.echo(f"{file}: good ({', '.join(['broker', *sections])})")


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


app.command(epilog=SIMULATE_EPILOG)(simulate)
app.command(epilog=REPLAY_EPILOG)(replay)
app.command(epilog="Example: latentbus chaos --questions 200 --faults 8 --seed 3")(chaos)
app.command(epilog=ATTACK_EPILOG)(attack)
app.command(epilog=RECORD_EPILOG)(record)
app.command(epilog=RECOVER_EPILOG)(recover)
app.command(epilog=INSPECT_EPILOG)(inspect)
app.command(epilog=COMPARE_EPILOG)(compare)
app.command(epilog=REDACT_EPILOG)(redact)


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
    return "cloud" if top in {"torch", "transformers", "tokenizers", "onnx", "onnxscript"} else None


def _run_process(
    settings: LatentbusSettings, main_of: Callable[[Stop], Awaitable[int]], exit_with_parent: bool
) -> None:
    from pipeline.logs import configure_logging
    from pipeline.runtime import leave_blocked_threads, run, with_parent

    configure_logging(settings.log.level, settings.log.json_lines)
    status = run(with_parent(main_of) if exit_with_parent else main_of)
    leave_blocked_threads(status)
    raise typer.Exit(status)
