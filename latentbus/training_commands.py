"""The ``train`` and ``codec`` commands. Their work is in :mod:`training`, imported when a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.errors import ConfigError

train_app = typer.Typer(help="Train the bundled models again, or a codec for your VLM.", no_args_is_help=True)
codec_app = typer.Typer(help="Evaluate, calibrate and export a codec.", no_args_is_help=True)

CacheOption = Annotated[
    Path, typer.Option("--cache", help="Rendered frames, tokens and checkpoints; can be deleted afterwards.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
ThreadsOption = Annotated[int, typer.Option(help="CPU threads.", min=1)]
VlmOption = Annotated[
    Path | None, typer.Option(help="Folder of the VLM in save_pretrained format; the bundled one unless given.")
]
CodecOption = Annotated[Path | None, typer.Option(help="Codec folder; the bundled one unless given.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the report to this file instead of the terminal.")
]
BudgetOption = Annotated[str, typer.Option(help="How much of everything: full, or smoke for a run of about a minute.")]
ResumeOption = Annotated[bool, typer.Option(help="Continue from the checkpoints of the same run.")]

DEFAULT_CACHE = Path(".demo/training")


@train_app.command("reference-vlm", epilog="Example: latentbus train reference-vlm models/reference-vlm --budget smoke")
def train_reference_vlm_command(
    output: Annotated[Path, typer.Argument(help="Folder for the model, in save_pretrained format.")],
    cache: CacheOption = DEFAULT_CACHE,
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    resume: ResumeOption = True,
    json_file: JsonOption = None,
) -> None:
    """Train the bundled vision-language model from scratch on rendered scenes, and evaluate it."""
    from training.reference_vlm.config import BUDGETS
    from training.reference_vlm.train import train_reference_vlm

    _check_budget(budget, BUDGETS)
    report = train_reference_vlm(
        output, cache, seed=seed, budget=budget, resume=resume, threads=threads, progress=_progress
    )
    _write(report, json_file)


@train_app.command("codec", epilog="Example: latentbus train codec my-codecs --vlm my-vlm --vlm-id my-org/my-vlm")
def train_codec_command(
    output: Annotated[Path, typer.Argument(help="Gets the folders klt and meta_autoencoder.")],
    vlm: VlmOption = None,
    vlm_id: Annotated[str, typer.Option(help="Name under which the codec refers to the VLM.")] = "reference-vlm",
    version: Annotated[int, typer.Option(help="Version of the weights that are written.", min=1)] = 1,
    cache: CacheOption = DEFAULT_CACHE,
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    resume: ResumeOption = True,
    json_file: JsonOption = None,
) -> None:
    """Fit the KLT codec and train the Meta AutoEncoder for a frozen VLM, and export their encoders."""
    from training.codec.train import train_codec

    report = train_codec(
        _vlm(vlm),
        output,
        cache,
        vlm_id=vlm_id,
        version=version,
        seed=seed,
        budget=budget,
        resume=resume,
        threads=threads,
        progress=_progress,
    )
    _write(report, json_file)


@codec_app.command("eval", epilog="Example: latentbus codec eval --frames 600 --json rate-accuracy.json")
def codec_eval(
    codec: Annotated[
        list[Path] | None, typer.Option(help="Codec folder; repeatable. Both bundled ones unless given.")
    ] = None,
    vlm: VlmOption = None,
    frames: Annotated[int, typer.Option(help="Held-out frames; about four questions are asked of each.", min=1)] = 600,
    rivals: Annotated[bool, typer.Option(help="Measure JPEG, WebP and AVIF files as well.")] = True,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Accuracy and bytes of every prefix on held-out frames, beside image files of equal accuracy."""
    from pipeline.codec.bundled import bundled_codec_dir
    from training.codec.evaluate import evaluate_codec

    folders = codec or [bundled_codec_dir("klt"), bundled_codec_dir("meta_autoencoder")]
    report = evaluate_codec(
        _vlm(vlm), folders, cache, frames=frames, seed=seed, threads=threads, rivals=rivals, progress=_progress
    )
    _write(report, json_file)


@codec_app.command("calibrate-stop", epilog="Example: latentbus codec calibrate-stop --codec my-codecs/klt --risk 0.02")
def codec_calibrate_stop(
    codec: CodecOption = None,
    vlm: VlmOption = None,
    risk: Annotated[
        float, typer.Option(help="Accepted share of early answers that differ from the whole latent's.", min=0, max=1)
    ] = 0.02,
    delta: Annotated[
        float, typer.Option(help="Accepted chance that the thresholds break that promise.", min=0.0001, max=0.5)
    ] = 0.1,
    frames: Annotated[int, typer.Option(help="Calibration frames.", min=1)] = 2500,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Choose ladder, base prefix and the thresholds of the stop rule; writes stop.json and codec.json of the folder."""
    from training.codec.calibrate import calibrate_stop

    report = calibrate_stop(
        _vlm(vlm),
        _codec(codec),
        cache,
        risk=risk,
        delta=delta,
        frames=frames,
        seed=seed,
        threads=threads,
        progress=_progress,
    )
    _write(report, json_file)


@codec_app.command("export", epilog="Example: latentbus codec export --codec my-codecs/klt --vlm my-vlm")
def codec_export(
    codec: CodecOption = None,
    vlm: VlmOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Write encoder.onnx anew from the weights, and compare it with torch symbol by symbol."""
    from training.codec.train import export_codec

    parity = export_codec(_vlm(vlm), _codec(codec), cache, seed=seed, threads=threads, progress=_progress)
    _write(parity.as_dict(), json_file)


def _vlm(given: Path | None) -> Path:
    from pipeline.codec.bundled import bundled_vlm_dir

    return given or bundled_vlm_dir()


def _codec(given: Path | None) -> Path:
    from pipeline.codec.bundled import bundled_codec_dir

    return given or bundled_codec_dir()


def _check_budget(name: str, known: dict[str, Any]) -> None:
    if name not in known:
        raise ConfigError("--budget", f"{name!r} is none of {', '.join(known)}")


def _progress(line: str) -> None:
    typer.echo(line, err=True)


def _write(report: dict[str, Any], path: Path | None) -> None:
    text = json.dumps(report, indent=2)
    if path is None:
        typer.echo(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
