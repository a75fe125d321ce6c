"""The ``record``, ``recover`` and ``inspect`` commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, PortOption, broker_settings
from latentbus.options.arguments import checked_name
from latentbus.options.option_set import with_option_sets
from latentbus.options.quantities import parse_bytes, parse_seconds
from schemas.counting import counted
from schemas.errors import ConfigError, RecordingError

if TYPE_CHECKING:
    from analysis.inspection import Inspection, Watch
    from analysis.recover import Recovery
    from analysis.redact.redaction import Redaction
    from latentbus.logs.record import RecordOptions
    from pipeline.recording.format import Compression
    from pipeline.recording.message import LoggedMessage

_Number = TypeVar("_Number", int, float)

RECORD_EPILOG = (
    "Examples: latentbus record run.mcap --duration 1h | latentbus record run.mcap --topic 'lb/v2/answer/#' "
    "--topic 'lb/v2/outcome/#' --host broker.example | latentbus record shareable.mcap --redact latents --redact text"
)
RECOVER_EPILOG = "Example: latentbus recover run.mcap -o whole.mcap"
INSPECT_EPILOG = (
    "Examples: latentbus inspect run.mcap | latentbus inspect run.mcap run.1.mcap --json | "
    "latentbus inspect /var/log/latentbus"
)
DEFAULT_FILTER = "lb/v2/#"
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class RecordArguments:
    """What a user types of a recording."""

    out: Annotated[Path, typer.Argument(metavar="OUT.mcap", help="The log; must not exist.")]
    topics: Annotated[
        tuple[str, ...],
        typer.Option("--topic", "-t", help=f"MQTT topic filter; repeatable. Default: {DEFAULT_FILTER}"),
    ] = (DEFAULT_FILTER,)
    max_size: Annotated[str, typer.Option(help="Go on in a new file at this size: 512MB, 1GiB, none.")] = "512MB"
    max_time: Annotated[str, typer.Option(help="Go on in a new file after this time: 15min, 1h, none.")] = "1h"
    compression: Annotated[str, typer.Option(help="lz4, zstd (smaller, slower) or none.")] = "lz4"
    duration: Annotated[str | None, typer.Option(help="Time to record, 90s or 1h; until Ctrl-C unless given.")] = None
    redact: Annotated[
        tuple[str, ...], typer.Option(help="Leave out what is private: latents or text; repeatable.")
    ] = ()
    attach: Annotated[
        tuple[Path, ...],
        typer.Option(help="File to keep in the log; settings without their secrets; repeatable.", dir_okay=False),
    ] = ()
    name: Annotated[
        str | None,
        typer.Option(help="Name of a recorder that stays: it publishes its status, and a restart loses less."),
    ] = None

    def options(self) -> RecordOptions:
        """What is recorded, and how it is written.

        Raises:
            ConfigError: a size, a time, a name or a kind of redaction is none, or a file cannot be attached.
        """
        from analysis.redact.redaction import METADATA_KEY, redaction_value, redactor
        from latentbus.logs.record import RecordOptions
        from pipeline.recording.format import LOG_METADATA
        from pipeline.recording.recorder import RecorderOptions
        from pipeline.recording.series import SeriesOptions

        name = checked_name("--name", self.name)
        filters = tuple(dict.fromkeys(self.topics))
        kinds = _redactions(self.redact)
        about = {"filters": json.dumps(filters)}
        if kinds:
            about[METADATA_KEY] = redaction_value(kinds)
        series = SeriesOptions(
            compression=_compression(self.compression),
            max_file_bytes=None if self.max_size == "none" else _quantity("--max-size", self.max_size, parse_bytes),
            max_file_s=None if self.max_time == "none" else _quantity("--max-time", self.max_time, parse_seconds),
            metadata={LOG_METADATA: about},
            attachments=_attachments(self.attach, kinds),
        )
        return RecordOptions(
            path=self.out,
            filters=filters,
            recorder=RecorderOptions(series=series, transform=redactor(kinds) if kinds else None),
            duration_s=None if self.duration is None else _quantity("--duration", self.duration, parse_seconds),
            name=name,
        )


@with_option_sets
def record(
    arguments: RecordArguments,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Record what is on the broker: payloads, topics, QoS, retain flags, all MQTT 5 properties and times.

    Further files are OUT.1.mcap, OUT.2.mcap and so on; `inspect`, `replay` and `compare` take them together. A crash
    loses at most the last 0.5 s; what it leaves behind is read as it is, and repaired by `recover`.
    """
    from latentbus.logs.record import record as record_until_stopped
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import run

    configure_logging("warning")
    options = arguments.options()
    broker = broker_settings(config, host, port)
    # A finished file may have to be re-chunked before the process ends.
    raise typer.Exit(run(lambda stop: record_until_stopped(options, broker, stop), drain_timeout_s=300))


def recover(
    source: Annotated[Path, typer.Argument(metavar="IN.mcap", help="A log that was cut off or damaged; not changed.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.mcap", help="The new log; must not exist.")],
    compression: Annotated[str, typer.Option(help="lz4, zstd (smaller, slower) or none.")] = "lz4",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Save what is whole in a log that a crash, a full disk or a bad disk left behind.

    Every part is checked. What is left out is said. Exit status: 0 something was saved, 1 there was nothing.
    """
    from analysis.recover import recover as recover_log

    with _spinner(f"reading {source}"):
        recovery = recover_log(source, out, _compression(compression))
    if as_json:
        typer.echo(json.dumps(_recovery_json(recovery), indent=1))
    else:
        _print_recovery(recovery, out)
    raise typer.Exit(0 if recovery.messages else 1)


def inspect(
    logs: Annotated[list[Path], typer.Argument(metavar="IN.mcap...", help="Logs, read as one; a folder is all in it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
) -> None:
    """Say what is in a log: cameras, questions, outcomes, rates, gaps, bytes, fingerprints."""
    try:
        inspection = _inspect(logs, scan=False)
    except RecordingError as error:
        if error.offset is None:
            raise
        inspection = _inspect(logs, scan=True)  # damaged, though it was closed well: show what is whole
    if as_json:
        typer.echo(json.dumps(_inspection_json(inspection), indent=1))
    else:
        from latentbus.logs.inspect_view import print_inspection

        print_inspection(inspection)


def _inspect(logs: Sequence[Path], *, scan: bool) -> Inspection:
    from analysis.clocks import align
    from analysis.inspection import inspect_logs
    from pipeline.recording.reader import open_logs

    with open_logs(logs, scan=scan) as log, _progress(log.message_count) as watch:
        for clock in align(log):
            typer.echo(f"latentbus: {clock}", err=True)
        return inspect_logs(log, watch)


def _quantity(option: str, text: str, parse: Callable[[str], _Number]) -> _Number:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(option, str(error)) from None


def _compression(text: str) -> Compression:
    from pipeline.recording.format import Compression

    try:
        return Compression(text)
    except ValueError:
        raise ConfigError("--compression", f"{text!r} is none of {', '.join(Compression)}") from None


def _redactions(texts: Sequence[str]) -> frozenset[Redaction]:
    from analysis.redact.redaction import Redaction

    try:
        return frozenset(Redaction(text) for text in texts)
    except ValueError:
        raise ConfigError("--redact", f"{' '.join(texts)!r}: write one of {', '.join(Redaction)}") from None


def _attachments(files: Sequence[Path], kinds: frozenset[Redaction]) -> dict[str, tuple[str, bytes]]:
    import mimetypes

    from analysis.redact.redacted_copy import HARMLESS_ATTACHMENTS
    from analysis.redact.redaction import Redaction

    found: dict[str, tuple[str, bytes]] = {}
    for file in files:
        if file.name in found:
            raise ConfigError("--attach", f"two files are called {file.name}")
        if Redaction.TEXT in kinds and file.name not in HARMLESS_ATTACHMENTS:
            raise ConfigError("--attach", f"{file.name} may hold a question, which --redact text leaves out")
        try:
            if file.suffix in (".yaml", ".yml"):
                found[file.name] = ("application/yaml", _settings_without_secrets(file))
            else:
                kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
                found[file.name] = (kind, file.read_bytes())
        except OSError as error:
            raise ConfigError("--attach", f"cannot read {file}: {error.strerror}") from None
    return found


def _settings_without_secrets(file: Path) -> bytes:
    """A settings file as it may lie in a log: read, so that what is secret in it is known, and written again."""
    import yaml

    from edge_nodes.sources import redacted
    from pipeline.config.settings import load_settings

    values = load_settings(file).model_dump(mode="json", by_alias=True, exclude={"broker"})
    return redacted(yaml.safe_dump(values, sort_keys=False)).encode()


def _print_recovery(recovery: Recovery, out: Path) -> None:
    if recovery.complete:
        typer.echo("the log is whole: nothing had to be recovered")
    seconds = (recovery.stop_ns - recovery.start_ns) / 1e9
    typer.echo(f"{out}: {counted(recovery.messages, 'message')} over {seconds:,.1f} s")
    for damage in recovery.damages[:_SHOWN]:
        typer.echo(f"left out: {damage}")
    if len(recovery.damages) > _SHOWN:
        typer.echo(f"left out: {len(recovery.damages) - _SHOWN} more places, see --json")
    if recovery.lost or not recovery.lost_exact:
        or_more = "" if recovery.lost_exact else " or more"
        typer.echo(f"lost: {counted(recovery.lost, 'message')}{or_more}, in the parts that were left out")
    if recovery.missing:
        typer.echo(
            f"missing: {counted(recovery.missing, 'message')} between the first and the last, by their sequence numbers"
        )
    if recovery.orphans:
        typer.echo(f"left out: {counted(recovery.orphans, 'message')} whose topic stood in a part that cannot be read")


def _recovery_json(recovery: Recovery) -> dict[str, object]:
    from dataclasses import asdict

    return {
        **asdict(recovery),
        "damages": [damage._asdict() for damage in recovery.damages],
        "damaged_bytes": recovery.damaged_bytes,
    }


def _inspection_json(inspection: Inspection) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(inspection), "complete": inspection.complete}


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    from latentbus.reports.safe_console import SafeConsole

    console = SafeConsole(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


@contextmanager
def _progress(total: int) -> Iterator[Watch]:
    """Counts messages on a progress bar."""
    from rich.progress import Progress

    from latentbus.reports.safe_console import SafeConsole

    console = SafeConsole(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=total)

        def watch(messages: Iterable[LoggedMessage]) -> Iterator[LoggedMessage]:
            for number, message in enumerate(messages):
                if number % 1000 == 0:
                    progress.update(task, completed=number)
                yield message

        yield watch
