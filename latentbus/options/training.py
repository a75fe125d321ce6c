"""Options that the ``train`` and ``codec`` commands share, and what they do with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbus.reports.output_files import json_target, write_text
from pipeline.codec.spec import MAX_VLM_ID_CHARS
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from training.run import RunSettings

CacheOption = Annotated[
    Path, typer.Option("--cache", help="Rendered frames, tokens and checkpoints; can be deleted afterwards.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
ThreadsOption = Annotated[int, typer.Option(help="CPU threads.", min=1)]


def local_vlm(path: Path | None) -> Path | None:
    """Callback of an option for a model: a folder that is there.

    Raises:
        ConfigError: it is not, for example the id of a model on the hub.
    """
    if path is None or path.is_dir():
        return path
    fix = "give a folder in save_pretrained format"
    if not path.is_absolute() and len(path.parts) == 2 and not path.exists():
        fix += f"; if {path} is a model of the hub, first run: hf download {path} --local-dir {path.name}"
    raise ConfigError("--vlm", f"no such folder: {path}; {fix}")


def video_file(path: Path | None) -> Path | None:
    """Callback of ``--video``: a file that is there.

    Raises:
        ConfigError: it is not.
    """
    if path is None or path.is_file():
        return path
    fix = "give a file that FFmpeg reads; latentbus codec fetch-video fetches vtest.avi and prints where it is"
    raise ConfigError("--video", f"no such file: {path}; {fix}")


def short_id(text: str) -> str:
    """Callback of ``--vlm-id``: what codec.json takes, said before hours of training.

    Raises:
        ConfigError: empty, or too long.
    """
    if not 1 <= len(text) <= MAX_VLM_ID_CHARS:
        raise ConfigError("--vlm-id", f"must be 1 to {MAX_VLM_ID_CHARS} characters, has {len(text)}")
    return text


def _usable_device(text: str) -> str:
    if text != "cpu":
        from pipeline.codec.device_torch import check_device

        check_device(text, "--device")
    return text


VlmOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the VLM in save_pretrained format; the bundled one unless given.", callback=local_vlm),
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", help="Write the report to this file instead of the terminal.", callback=json_target),
]
BudgetOption = Annotated[str, typer.Option(help="How much of everything: full, or smoke for a run of about a minute.")]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, or cuda.", callback=_usable_device)]
PhotosOption = Annotated[
    Path | None, typer.Option(help="Class folder or zip of photographs: the second domain, beside rendered scenes.")
]
ResumeOption = Annotated[bool, typer.Option(help="Continue from the checkpoints of the same run.")]
MaxSecondsOption = Annotated[
    float | None, typer.Option(help="End the learning after so many seconds, its schedule drawn in.", min=1)
]

DEFAULT_CACHE = Path(".demo/training")
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def run_settings(cache: Path, seed: int, threads: int, *, device: str = "cpu", resume: bool = True) -> RunSettings:
    """What the options say about how a run works; its lines go to the terminal."""
    from training.run import RunSettings

    return RunSettings(cache, seed, threads, device, resume, show_progress)


OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what the output folder holds.")]


def codec_to_write(given: Path | None) -> Path:
    """The codec folder that a command changes, which a user must name.

    Raises:
        ConfigError: none was given: the bundled one belongs to the installation.
    """
    if given is None:
        from pipeline.codec.bundled import bundled_codec_dir

        raise ConfigError(
            "--codec",
            "this command writes to the codec's folder, so name it. The bundled one belongs to the installation: "
            f"copy {bundled_codec_dir()} and name the copy",
        )
    return given


def vlm_or_bundled(given: Path | None) -> Path:
    """The VLM's folder; the bundled one unless given."""
    from pipeline.codec.bundled import bundled_vlm_dir

    return given or bundled_vlm_dir()


def show_progress(line: str) -> None:
    """A line on the standard error, so that reports can be piped."""
    typer.echo(line, err=True)


def write_report(report: dict[str, Any], path: Path | None) -> None:
    """Write a report as JSON, to the terminal unless a file is given."""
    text = json.dumps(report, indent=2)
    if path is None:
        typer.echo(text)
    else:
        write_text(path, text + "\n", "--json")
