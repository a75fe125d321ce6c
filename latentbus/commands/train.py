"""The ``train`` commands. Their work is in :mod:`training`, imported when a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from latentbus.options.training import (
    DEFAULT_CACHE,
    INTERRUPTED,
    BudgetOption,
    CacheOption,
    DeviceOption,
    JsonOption,
    MaxSecondsOption,
    OverwriteOption,
    PhotosOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
    VlmOption,
    local_vlm,
    run_settings,
    short_id,
    show_progress,
    vlm_or_bundled,
    write_report,
)
from latentbus.reports.output_files import write_text
from schemas.errors import ConfigError

train_app = typer.Typer(help="Train the bundled models again, or a codec for your VLM.", no_args_is_help=True)


@train_app.command(
    "reference-vlm",
    epilog="Example: latentbus train reference-vlm my-vlm --photos cifar10-train.zip --device cuda --budget gpu",
)
def train_reference_vlm_command(
    output: Annotated[Path, typer.Argument(help="Folder for the model, in save_pretrained format.")],
    photos: PhotosOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    budget: Annotated[
        str, typer.Option(help="How much of everything: full for two cores, gpu, or smoke for a run of about a minute.")
    ] = "full",
    device: DeviceOption = "cpu",
    start_from: Annotated[
        Path | None, typer.Option(help="Saved model of the same size and vocabulary to go on from.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Held-out frames of each domain for the evaluation.", min=1)] = 300,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    resume: ResumeOption = True,
    generation: Annotated[
        int,
        typer.Option(
            help="2 trains the bundled model; 3 the next one, whose tower starts from ImageNet.", min=2, max=3
        ),
    ] = 2,
    overwrite: OverwriteOption = False,
    json_file: JsonOption = None,
) -> None:
    """Train the bundled vision-language model on rendered scenes and photographs, and evaluate it."""
    from training.reference_vlm.config import BUDGETS
    from training.reference_vlm.pretrained.train import THIRD_BUDGETS, train_third_reference_vlm
    from training.reference_vlm.train import train_reference_vlm

    _check_budget(budget, BUDGETS if generation == 2 else THIRD_BUDGETS)
    _check_vlm_output(output, overwrite=overwrite)
    run = run_settings(cache, seed, threads, device=device, resume=resume)
    if generation == 3:
        if start_from is not None:
            raise ConfigError("--start-from", "a model of generation 3 starts from ImageNet: leave it out")
        write_report(train_third_reference_vlm(output, run, photos=photos, budget=budget), json_file)
        return
    report = train_reference_vlm(output, run, photos=photos, start_from=start_from, budget=budget)
    report["accuracy"] = _evaluate_vlm(output, frames, photos, seed)
    write_report(report, json_file)


@train_app.command(
    "evaluate-vlm", epilog="Example: latentbus train evaluate-vlm my-vlm --photos cifar10-train.zip --frames 500"
)
def evaluate_vlm_command(
    model: Annotated[
        Path | None,
        typer.Argument(help="Folder in save_pretrained format; the bundled model unless given.", callback=local_vlm),
    ] = None,
    photos: PhotosOption = None,
    frames: Annotated[int, typer.Option(help="Held-out frames of each domain.", min=1)] = 300,
    seed: SeedOption = 0,
    everyday: Annotated[
        bool,
        typer.Option("--everyday", help="Scenes of each kind and photographs with balanced answers, and nothing else."),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Accuracy of a VLM by domain and kind of question, and its calibration error.

    Beside a model of yours it writes evaluation.json, unless --everyday is given.
    """
    from training.reference_vlm.evaluate import evaluate_everyday, evaluate_reference_vlm

    if everyday:
        report = evaluate_everyday(
            vlm_or_bundled(model), frames=frames, photos=photos, seed=seed, progress=show_progress
        )
        write_report(report, json_file)
        return
    if model is not None:
        write_report(_evaluate_vlm(model, frames, photos, seed), json_file)
        return
    # The bundled model belongs to the installation: nothing is written there.
    report = evaluate_reference_vlm(
        vlm_or_bundled(None), frames=frames, photos=photos, seed=seed, progress=show_progress
    )
    write_report(report, json_file)


@train_app.command("codec", epilog="Example: latentbus train codec my-codecs --vlm my-vlm --vlm-id my-org/my-vlm")
def train_codec_command(
    output: Annotated[Path, typer.Argument(help="Gets the folders klt and meta_autoencoder, or those of the point.")],
    vlm: VlmOption = None,
    vlm_id: Annotated[
        str, typer.Option(help="Name under which the codec refers to the VLM.", callback=short_id)
    ] = "reference-vlm",
    version: Annotated[int, typer.Option(help="Version of the weights that are written.", min=1)] = 1,
    point: Annotated[
        str, typer.Option(help="small: frames of the size that the VLM reads. detailed: frames of twice the edge.")
    ] = "small",
    cache: CacheOption = DEFAULT_CACHE,
    budget: BudgetOption = "full",
    device: DeviceOption = "cpu",
    max_seconds: MaxSecondsOption = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Weights and checkpoints of one run; a finished one is only written out.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Run directory of a finished run to go on from, with --budget polish.")
    ] = None,
    photos: PhotosOption = None,
    overwrite: OverwriteOption = False,
    export_klt: Annotated[bool, typer.Option(help="Write the KLT's encoder.onnx too, as codec export does.")] = True,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    resume: ResumeOption = True,
    json_file: JsonOption = None,
) -> None:
    """Fit both codecs for a frozen VLM on rendered scenes, and export their encoders.

    On pictures of your own: latentbus codec calibrate, then latentbus codec train.
    """
    from training.codec.fit.train import CodecTraining, train_codec

    wanted = CodecTraining(
        vlm_id=vlm_id,
        version=version,
        point=point,
        budget=budget,
        max_seconds=max_seconds,
        run_dir=run_dir,
        start_from=start_from,
        photos=photos,
        export_klt=export_klt,
        overwrite=overwrite,
    )
    run = run_settings(cache, seed, threads, device=device, resume=resume)
    report = train_codec(vlm_or_bundled(vlm), output, run, wanted)
    write_report(report, json_file)


@train_app.command(
    "decoder", epilog="Example: latentbus train decoder my-codecs/meta_autoencoder my-codecs/light --layers 1"
)
def train_decoder_command(
    codec: Annotated[Path, typer.Argument(help="Codec folder, a meta_autoencoder; left as it is.", file_okay=False)],
    output: Annotated[Path, typer.Argument(help="Folder for the codec with the new decoder.", file_okay=False)],
    layers: Annotated[int | None, typer.Option(help="Layers of the decoder; as before unless given.", min=0)] = None,
    width: Annotated[int | None, typer.Option(help="Its width; as before unless given.", min=1)] = None,
    vlm: VlmOption = None,
    photos: PhotosOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    budget: BudgetOption = "full",
    device: DeviceOption = "cpu",
    max_seconds: MaxSecondsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    resume: ResumeOption = True,
    overwrite: OverwriteOption = False,
    json_file: JsonOption = None,
) -> None:
    """Learn a smaller or larger decoder for a codec; symbols, tables and encoder stay. Calibrate the stop rule next."""
    from training.codec.fit.decoder import DecoderTraining, learn_decoder

    wanted = DecoderTraining(layers, width, budget, max_seconds, photos, overwrite)
    run = run_settings(cache, seed, threads, device=device, resume=resume)
    report = learn_decoder(vlm_or_bundled(vlm), codec, output, run, wanted)
    write_report(report, json_file)


@train_app.command(
    "all",
    epilog="Examples: latentbus train all work --photos cifar10-train.zip --plan, then the same without --plan. "
    "Codecs for a model of yours: latentbus train all work --vlm my-vlm. "
    "Use what came of it: latentbus codec eval --models work/models",
)
def train_all_command(
    root: Annotated[Path, typer.Argument(help="Folder for all stages; the result is in its models/.", file_okay=False)],
    vlm: Annotated[
        Path | None,
        typer.Option(help="Finished VLM in save_pretrained format, instead of training one.", callback=local_vlm),
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="Operating point of the codecs: small (if none), detailed; repeatable.")
    ] = None,
    photos: PhotosOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    budget: BudgetOption = "full",
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run and how long it takes, and end.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Train the third reference VLM and make all that hangs on it: codecs, encoders, stop rules, evaluation.

    Every stage is done once. Break off with Ctrl-C, or lose the power: the same command goes on, inside of a stage from
    its last checkpoint, and does again only what other settings or inputs change.
    """
    from training.everything import WHOLE_BUDGETS, Everything, stages_of
    from training.stages import StagedWork

    _check_budget(budget, WHOLE_BUDGETS)
    wanted = Everything(WHOLE_BUDGETS[budget], tuple(point or ("small",)), photos, vlm)
    run = run_settings(cache, seed, threads, device=device)
    work = StagedWork(root, stages_of(wanted, root, run), show_progress)
    if plan:
        rows = [
            {"stage": row.stage.name, "what": row.stage.what, "state": row.state, "hours": row.hours}
            for row in work.plan()
        ]
        if json_file is None:
            for row in rows:
                typer.echo(f"{row['state']:8} {row['hours']:6.2f} h  {row['stage']:26} {row['what']}")
        else:
            write_report({"stages": rows}, json_file)
        return
    try:
        spent_s = work.run()
    except KeyboardInterrupt:
        show_progress("stopped; the same command goes on")
        raise typer.Exit(INTERRUPTED) from None
    write_report({"models": str(root / "models"), "seconds": spent_s}, json_file)


def _evaluate_vlm(model_dir: Path, frames: int, photos: Path | None, seed: int) -> dict[str, Any]:
    from training.reference_vlm.evaluate import evaluate_reference_vlm

    report = evaluate_reference_vlm(model_dir, frames=frames, photos=photos, seed=seed, progress=show_progress)
    write_text(model_dir / "evaluation.json", json.dumps(report, indent=2) + "\n", str(model_dir))
    return report


def _check_vlm_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder with a finished model; what this command has not made, in any case."""
    if not (folder / "config.json").exists():
        return
    if not (folder / "training.json").exists():
        raise ConfigError("OUTPUT", f"{folder} holds a model that was not trained here: name another folder")
    if not overwrite:
        raise ConfigError("OUTPUT", f"{folder} holds a finished model: name another folder, or add --overwrite")


def _check_budget(name: str, known: dict[str, Any]) -> None:
    if name not in known:
        raise ConfigError("--budget", f"{name!r} is none of {', '.join(known)}")
