"""The ``train`` and ``codec`` commands. Their work is in :mod:`training`, imported when a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from training.codec.own_frames import OwnFrames

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
DeviceOption = Annotated[str, typer.Option(help="Where to learn: cpu, or cuda.")]
PhotosOption = Annotated[
    Path | None, typer.Option(help="Class folder or zip of photographs: the second domain, beside rendered scenes.")
]
RiskOption = Annotated[
    float, typer.Option(help="Accepted share of early answers that differ from the whole latent's.", min=0, max=1)
]
DeltaOption = Annotated[
    float, typer.Option(help="Accepted chance that a calibration breaks its promise.", min=0.0001, max=0.5)
]
QuestionsAFrameOption = Annotated[int, typer.Option(help="Questions that a frame is asked; 0 asks all kinds.", min=0)]
OwnFramesOption = Annotated[
    Path | None, typer.Option("--frames", help="Folder of your own images, with --questions.", file_okay=False)
]
OwnQuestionsOption = Annotated[
    Path | None,
    typer.Option(
        "--questions",
        help='JSON lines {"frame": "a.png", "text": ..., "answer_type": ..., "truth": ..., "kind": ...}.',
        dir_okay=False,
    ),
]
ByTypeOption = Annotated[
    bool,
    typer.Option("--by-type", help="Promise the risk for each answer type, not only over all questions."),
]
ResumeOption = Annotated[bool, typer.Option(help="Continue from the checkpoints of the same run.")]

DEFAULT_CACHE = Path(".demo/training")


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
    json_file: JsonOption = None,
) -> None:
    """Train the bundled vision-language model on rendered scenes and photographs, and evaluate it."""
    from training.reference_vlm.config import BUDGETS
    from training.reference_vlm.train import train_reference_vlm

    _check_budget(budget, BUDGETS)
    report = train_reference_vlm(
        output,
        cache,
        photos=photos,
        start_from=start_from,
        seed=seed,
        budget=budget,
        resume=resume,
        device=device,
        threads=threads,
        progress=_progress,
    )
    report["accuracy"] = _evaluate_vlm(output, frames, photos, seed)
    _write(report, json_file)


@train_app.command(
    "evaluate-vlm", epilog="Example: latentbus train evaluate-vlm my-vlm --photos cifar10-train.zip --frames 500"
)
def evaluate_vlm_command(
    model: Annotated[
        Path | None, typer.Argument(help="Folder in save_pretrained format; the bundled model unless given.")
    ] = None,
    photos: PhotosOption = None,
    frames: Annotated[int, typer.Option(help="Held-out frames of each domain.", min=1)] = 300,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Accuracy of a VLM by domain and kind of question, and its calibration error; writes evaluation.json beside it."""
    _write(_evaluate_vlm(_vlm(model), frames, photos, seed), json_file)


@train_app.command("codec", epilog="Example: latentbus train codec my-codecs --vlm my-vlm --vlm-id my-org/my-vlm")
def train_codec_command(
    output: Annotated[Path, typer.Argument(help="Gets the folders klt and meta_autoencoder, or those of the point.")],
    vlm: VlmOption = None,
    vlm_id: Annotated[str, typer.Option(help="Name under which the codec refers to the VLM.")] = "reference-vlm",
    version: Annotated[int, typer.Option(help="Version of the weights that are written.", min=1)] = 1,
    point: Annotated[
        str, typer.Option(help="small: one view of a frame. detailed: tiles and a global view of a larger frame.")
    ] = "small",
    cache: CacheOption = DEFAULT_CACHE,
    budget: BudgetOption = "full",
    device: DeviceOption = "cpu",
    max_seconds: Annotated[
        float | None, typer.Option(help="End the learning after so many seconds, its schedule drawn in.", min=1)
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Weights and checkpoints of one run; a finished one is only written out.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Run directory of a finished run to go on from, with --budget polish.")
    ] = None,
    photos: PhotosOption = None,
    export_klt: Annotated[bool, typer.Option(help="Write the KLT's encoder.onnx too, as codec export does.")] = True,
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
        point=point,
        budget=budget,
        device=device,
        max_seconds=max_seconds,
        run_dir=run_dir,
        start_from=start_from,
        photos=photos,
        resume=resume,
        threads=threads,
        export_klt=export_klt,
        progress=_progress,
    )
    _write(report, json_file)


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
    max_seconds: Annotated[
        float | None, typer.Option(help="End the learning after so many seconds, its schedule drawn in.", min=1)
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    resume: ResumeOption = True,
    json_file: JsonOption = None,
) -> None:
    """Learn a smaller or larger decoder for a codec; symbols, tables and encoder stay. Calibrate the stop rule next."""
    from training.codec.decoder_alone import learn_decoder

    report = learn_decoder(
        _vlm(vlm),
        codec,
        output,
        cache,
        layers=layers,
        width=width,
        budget=budget,
        seed=seed,
        device=device,
        max_seconds=max_seconds,
        photos=photos,
        resume=resume,
        threads=threads,
        progress=_progress,
    )
    _write(report, json_file)


@codec_app.command("ablate", epilog="Example: latentbus codec ablate --device cuda --processes 6 --json ablation.json")
def codec_ablate(
    vlm: VlmOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    budget: BudgetOption = "full",
    device: DeviceOption = "cpu",
    processes: Annotated[int, typer.Option(help="Variants that are trained at once.", min=1)] = 1,
    max_seconds: Annotated[
        float | None, typer.Option(help="Break off after so many seconds; the same command continues.", min=1)
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Of this ablation; in the cache unless given.")] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="Name of a variant to train; repeatable, all of them if none.")
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Train variants of the Meta AutoEncoder that differ in one choice each, and compare them on held-out frames."""
    from training.codec.ablation_run import ablate_codec

    report = ablate_codec(
        _vlm(vlm),
        cache,
        budget=budget,
        device=device,
        processes=processes,
        max_seconds=max_seconds,
        run_dir=run_dir,
        seed=seed,
        threads=threads,
        variants=variant or (),
        progress=_progress,
    )
    _write(report, json_file)


@codec_app.command("eval", epilog="Example: latentbus codec eval --quick --json eval.json --markdown eval.md")
def codec_eval(
    codec: Annotated[
        list[Path] | None,
        typer.Option(help="Codec folder; repeatable, the first is compared with the others. The bundled ones if none."),
    ] = None,
    vlm: VlmOption = None,
    models: Annotated[
        Path | None, typer.Option(help="Folder laid out as the bundled models/, instead of that.", file_okay=False)
    ] = None,
    point: Annotated[str, typer.Option(help="Operating point: small, or detailed.")] = "small",
    count: Annotated[int | None, typer.Option(help="Held-out frames; about five questions each.", min=2)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="About a minute: few frames, few image settings.")] = False,
    photos: PhotosOption = None,
    frames: OwnFramesOption = None,
    questions: OwnQuestionsOption = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for plots, as PNG.", file_okay=False)] = None,
    markdown: Annotated[Path | None, typer.Option(help="File for tables in Markdown.", dir_okay=False)] = None,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Accuracy and bytes of every prefix on held-out frames, beside image files, whole and pruned tokens."""
    from training.codec import evaluate

    if point not in evaluate.SIZES:
        raise ConfigError("--point", f"{point!r} is none of {', '.join(evaluate.SIZES)}")
    size = evaluate.QUICK if quick else evaluate.SIZES[point]
    report = evaluate.evaluate_codec(
        evaluate.Evaluation(
            vlm or (models / "reference-vlm" if models else _vlm(None)),
            codec or _codecs_of(point, models),
            cache,
            size.with_frames(count),
            evaluate.DOMAINS[point],
            photos=photos,
            own=_own_frames(frames, questions),
            seed=seed,
            threads=threads,
        ),
        _progress,
    )
    _write(report, json_file)
    if markdown is not None:
        from training.codec.evaluate_markdown import as_markdown

        markdown.write_text(as_markdown(report), encoding="utf-8")
    if plots is not None:
        from training.codec.plots import draw_plots

        draw_plots(report, plots, suffix="" if point == "small" else f"-{point}")


@codec_app.command("temporal", epilog="Example: latentbus codec temporal --point detailed --json temporal.json")
def codec_temporal(
    codec: CodecOption = None,
    vlm: VlmOption = None,
    point: Annotated[str, typer.Option(help="Operating point: small, or detailed.")] = "small",
    clips: Annotated[int, typer.Option(help="Clips that tables are fitted on; as many are scored.", min=2)] = 8,
    seconds: Annotated[float, typer.Option(help="Length of a clip.", min=2)] = 6.0,
    write: Annotated[
        bool, typer.Option("--write", help="Put the fitted tables into the codec folder; its fingerprint changes.")
    ] = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Fit the tables of frames given a key frame, and measure what key frames save, on rendered clips."""
    from training.codec.temporal import measure_temporal

    folder = codec or _codecs_of(point, None)[0]
    report = measure_temporal(
        _vlm(vlm), folder, clips=clips, seconds=seconds, seed=seed, threads=threads, write=write, progress=_progress
    )
    _write(report, json_file)


@codec_app.command("calibrate-stop", epilog="Example: latentbus codec calibrate-stop --codec my-codecs/klt --risk 0.02")
def codec_calibrate_stop(
    codec: CodecOption = None,
    vlm: VlmOption = None,
    risk: RiskOption = 0.02,
    delta: DeltaOption = 0.05,
    by_type: ByTypeOption = False,
    count: Annotated[
        int, typer.Option(help="Calibration frames; score and ladder take two fifths as many each, others.", min=1)
    ] = 1500,
    frames: OwnFramesOption = None,
    questions: OwnQuestionsOption = None,
    questions_a_frame: QuestionsAFrameOption = 3,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Fit the stop rule's score, choose ladder and thresholds; writes stop.json and codec.json of the folder."""
    from training.codec.calibrate import calibrate_stop

    report = calibrate_stop(
        _vlm(vlm),
        _codec(codec),
        cache,
        risk=risk,
        delta=delta,
        by_type=by_type,
        frames=count,
        own=_own_frames(frames, questions),
        questions_a_frame=questions_a_frame,
        seed=seed,
        threads=threads,
        progress=_progress,
    )
    _write(report, json_file)


@codec_app.command("verify-stop", epilog="Example: latentbus codec verify-stop --risk 0.02 --json verify.json")
def codec_verify_stop(
    codec: CodecOption = None,
    vlm: VlmOption = None,
    risk: RiskOption = 0.02,
    delta: DeltaOption = 0.05,
    by_type: ByTypeOption = False,
    count: Annotated[int, typer.Option(help="Held-out frames; half of them calibrate, half test.", min=2)] = 2000,
    frames: OwnFramesOption = None,
    questions: OwnQuestionsOption = None,
    questions_a_frame: QuestionsAFrameOption = 3,
    resplits: Annotated[int, typer.Option(help="How often the frames are split anew.", min=1)] = 100,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Check the stop rule's promise: calibrate and test on random halves of held-out frames; writes to no codec."""
    from training.codec.verify import verify_stop

    report = verify_stop(
        _vlm(vlm),
        _codec(codec),
        cache,
        risk=risk,
        delta=delta,
        by_type=by_type,
        frames=count,
        own=_own_frames(frames, questions),
        questions_a_frame=questions_a_frame,
        resplits=resplits,
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


def _evaluate_vlm(model_dir: Path, frames: int, photos: Path | None, seed: int) -> dict[str, Any]:
    from training.reference_vlm.evaluate import evaluate_reference_vlm

    report = evaluate_reference_vlm(model_dir, frames=frames, photos=photos, seed=seed, progress=_progress)
    (model_dir / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _own_frames(frames: Path | None, questions: Path | None) -> OwnFrames | None:
    if (frames is None) != (questions is None):
        raise ConfigError("--frames", "images and questions come together: --frames DIR --questions FILE")
    if frames is None or questions is None:
        return None
    from training.codec.own_frames import OwnFrames

    return OwnFrames(frames, questions)


def _vlm(given: Path | None) -> Path:
    from pipeline.codec.bundled import bundled_vlm_dir

    return given or bundled_vlm_dir()


def _codec(given: Path | None) -> Path:
    from pipeline.codec.bundled import bundled_codec_dir

    return given or bundled_codec_dir()


def _codecs_of(point: str, models: Path | None) -> list[Path]:
    """The learned codec of an operating point, then the closed form."""
    from pipeline.codec.bundled import bundled_codec_dir

    suffixes = {"small": "", "detailed": "_detailed"}
    if point not in suffixes:
        raise ConfigError("--point", f"{point!r} is none of {', '.join(suffixes)}")
    names = [f"{name}{suffixes[point]}" for name in ("meta_autoencoder", "klt")]
    return [models / "codecs" / name if models else bundled_codec_dir(name) for name in names]


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
