"""The ``latentbus`` command.

Nothing heavy is imported here: each command imports what it needs when it runs, so that ``--help`` answers at once and
an edge machine needs no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus import __version__
from latentbus.broker_commands import broker_app
from latentbus.chaos_command import chaos
from latentbus.simulate import EPILOG as SIMULATE_EPILOG
from latentbus.simulate import simulate
from latentbus.training_commands import codec_app, train_app
from schemas.errors import ConfigError, LatentbusError
from schemas.types import AnswerType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.runtime import Stop
    from pipeline.settings import BrokerSettings, LatentbusSettings

EXIT_FAILED = 1
EXIT_USAGE = 2

app = typer.Typer(
    name="latentbus",
    help="Ask questions of a camera fleet over thin links: ordered latents over MQTT, answered by an unmodified VLM.",
    epilog="Start with: latentbus demo --duration 60",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train_app, name="train")
app.add_typer(codec_app, name="codec")
app.add_typer(broker_app, name="broker")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="YAML file; see docs/configuration.md.")]
ParentOption = Annotated[bool, typer.Option("--exit-with-parent", hidden=True)]


@app.command(
    epilog="Examples: latentbus demo --duration 60 --json out.json | latentbus demo --video street.mp4 "
    "--question 'is there a person?'"
)
def demo(
    duration: Annotated[float | None, typer.Option(help="Seconds to run; until Ctrl-C unless given.", min=1)] = None,
    uplink_kbps: Annotated[float, typer.Option(help="Uplink of the site, every byte on the wire counted.", min=1)] = 64,
    cameras: Annotated[int, typer.Option(help="Rendered cameras.", min=1, max=16)] = 4,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=16)] = 2,
    interval: Annotated[float, typer.Option(help="Seconds between frames of a camera.", min=0.1)] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the rendered cameras.", min=0)] = 7,
    video: Annotated[
        list[Path] | None, typer.Option(help="Your own video in place of the rendered ones; repeatable.")
    ] = None,
    question: Annotated[list[str] | None, typer.Option(help="What to ask of your own videos; repeatable.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    work_dir: Annotated[Path, typer.Option(help="Clips, generated settings and logs.")] = Path(".demo"),
    compare: Annotated[
        bool, typer.Option(help="Compute the other rows of the summary from the same frames afterwards.")
    ] = True,
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
        work_dir=work_dir,
        compare=compare,
    )
    # The drain of the edge is bounded by itself; then the comparison runs, which a second Ctrl-C ends.
    raise typer.Exit(run(lambda stop: run_demo(options, stop), drain_timeout_s=900))


@app.command(epilog="Example: latentbus ask gate 'is there a red car?' --type yes_no --host broker.example")
def ask(
    camera: Annotated[str, typer.Argument(help="Name of the camera.")],
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    answer_type: Annotated[AnswerType, typer.Option("--type", help="What the answer may look like.")] = AnswerType.TEXT,
    deadline: Annotated[float, typer.Option(help="Seconds until the terminal outcome.", min=0.5, max=3600)] = 30,
    query_id: Annotated[
        str | None, typer.Option(help="Key of the question; asked again under it, the same answer comes.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with a broker section.")] = None,
    host: Annotated[str | None, typer.Option(help="Broker host; overrides the file.")] = None,
    port: Annotated[int | None, typer.Option(help="Broker port; overrides the file.", min=1, max=65535)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each message as a line of JSON.")] = False,
) -> None:
    """Ask a camera one question and print the answers as they get better.

    Exit status: 0 answered, 1 any other outcome, 2 wrong settings. The broker's password comes from the settings file
    or from LATENTBUS_BROKER__PASSWORD.
    """
    from latentbus.ask import Asking, ask_and_print
    from pipeline.logs import configure_logging
    from pipeline.runtime import run

    configure_logging("warning")
    broker = _broker(config, host, port)
    asking = Asking.create(
        camera, question, answer_type, deadline_s=deadline, query_id=query_id, client=broker.username
    )
    raise typer.Exit(run(lambda stop: ask_and_print(broker, asking, stop, as_json=as_json), drain_timeout_s=2))


@app.command(epilog="Example: latentbus edge --config site.yaml")
def edge(config: ConfigOption, exit_with_parent: ParentOption = False) -> None:
    """Run a site: read its cameras, encode frames, and see every question to its outcome. Needs no torch."""
    from edge_nodes.node import run_edge
    from pipeline.settings import load_settings, require_edge

    settings = load_settings(config)
    require_edge(settings, config)
    _run_process(settings, lambda stop: run_edge(settings, stop), exit_with_parent)


@app.command(epilog="Example: latentbus worker --config worker.yaml (start it again on any machine to share the load)")
def worker(config: ConfigOption, exit_with_parent: ParentOption = False) -> None:
    """Run a worker: decode prefixes, answer with the VLM, ask for more only while an answer is not safe."""
    from cloud_workers.node import run_worker
    from pipeline.settings import load_settings, require_worker

    settings = load_settings(config)
    require_worker(settings, config)
    _run_process(settings, lambda stop: run_worker(settings, stop), exit_with_parent)


@app.command(epilog="Example: latentbus validate site.yaml")
def validate(
    file: Annotated[Path, typer.Argument(help="YAML file.")],
    show: Annotated[bool, typer.Option(help="Print the settings in full, defaults filled in, secrets hidden.")] = False,
) -> None:
    """Check a settings file: every problem with its line, its key and what is allowed there."""
    from latentbus.validate import check_files
    from pipeline.settings import load_settings

    settings = load_settings(file)
    check_files(settings, file)
    if show:
        import yaml

        typer.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), nl=False)
    else:
        sections = [name for name in ("edge", "worker") if getattr(settings, name) is not None]
        typer.echo(f"{file}: good ({', '.join(['broker', *sections])})")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"latentbus {__version__}")


app.command(epilog=SIMULATE_EPILOG)(simulate)
app.command(epilog="Example: latentbus chaos --questions 200 --faults 8 --seed 3")(chaos)


def main() -> None:
    """Run the command; our errors become one clear line, 2 for wrong settings and 1 for the rest."""
    try:
        app()
    except ConfigError as error:
        typer.echo(f"latentbus: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except LatentbusError as error:
        typer.echo(f"latentbus: {error}", err=True)
        sys.exit(EXIT_FAILED)
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name or "")
        if extra is None:
            raise
        typer.echo(f"latentbus: {error.name} is not installed; run: pip install 'latentbus[{extra}]'", err=True)
        sys.exit(EXIT_USAGE)


def _extra_of(module: str) -> str | None:
    """Extra that brings a third-party module."""
    top = module.partition(".")[0]
    if top in {"av", "onnxruntime", "PIL"}:
        return "edge"
    return "cloud" if top in {"torch", "transformers", "tokenizers", "onnx", "onnxscript"} else None


def _run_process(
    settings: LatentbusSettings, main_of: Callable[[Stop], Awaitable[int]], exit_with_parent: bool
) -> None:
    from pipeline.logs import configure_logging
    from pipeline.runtime import run, with_parent

    configure_logging(settings.log.level, settings.log.json_lines)
    raise typer.Exit(run(with_parent(main_of) if exit_with_parent else main_of))


def _broker(config: Path | None, host: str | None, port: int | None) -> BrokerSettings:
    from pipeline.settings import LatentbusSettings, load_settings

    settings = load_settings(config) if config else LatentbusSettings()
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return settings.broker.model_copy(update=given)
