"""The ``codec`` commands. Their work is in :mod:`training`, imported when a command runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.markdown import figures
from latentbus.commands.calibrate import CALIBRATE_EPILOG, codec_calibrate
from latentbus.commands.codec_train import TRAIN_EPILOG, codec_train
from latentbus.commands.export_language_model import EPILOG as EXPORT_LANGUAGE_MODEL_EPILOG
from latentbus.commands.export_language_model import export_language_model
from latentbus.options.training import (
    DEFAULT_CACHE,
    BudgetOption,
    CacheOption,
    DeviceOption,
    JsonOption,
    PhotosOption,
    SeedOption,
    ThreadsOption,
    VlmOption,
    codec_to_write,
    run_settings,
    video_file,
    vlm_or_bundled,
    write_report,
)
from latentbus.reports.results_page import MarkdownOption, write_page
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from training.codec.data import Asked
    from training.codec.evaluate.video import VideoEvaluation
    from training.codec.own_frames import OwnFrames

codec_app = typer.Typer(help="Evaluate, calibrate, train and export a codec.", no_args_is_help=True)
codec_app.command("calibrate", epilog=CALIBRATE_EPILOG)(codec_calibrate)
codec_app.command("export-language-model", epilog=EXPORT_LANGUAGE_MODEL_EPILOG)(export_language_model)
codec_app.command("train", epilog=TRAIN_EPILOG)(codec_train)

WrittenCodecOption = Annotated[Path | None, typer.Option(help="Codec folder; it is written to, so it must be named.")]
CodecOption = Annotated[Path | None, typer.Option(help="Codec folder; the bundled one unless given.")]
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
        help='JSON lines {"frame": "a.png", "text": ..., "answer_type": ..., "truth": ..., "kind": ...}; '
        "with --video without frame.",
        dir_okay=False,
    ),
]
ByTypeOption = Annotated[
    bool,
    typer.Option("--by-type", help="Promise the risk for each answer type, not only over all questions."),
]


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
    from training.codec.fit.ablation_run import Ablation, ablate_codec

    report = ablate_codec(
        vlm_or_bundled(vlm),
        run_settings(cache, seed, threads, device=device),
        Ablation(budget, processes, max_seconds, run_dir, variant or ()),
    )
    write_report(report, json_file)


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
    count: Annotated[
        int | None, typer.Option(help="Held-out frames; about five questions each. Of a video or clip: frames.", min=2)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="About a minute: few frames, few image settings.")] = False,
    photos: PhotosOption = None,
    frames: OwnFramesOption = None,
    questions: OwnQuestionsOption = None,
    video: Annotated[
        Path | None,
        typer.Option(help="Video of a camera that stands still, instead of drawn frames.", callback=video_file),
    ] = None,
    clips: Annotated[bool, typer.Option("--clips", help="Rendered clips of such cameras, instead of frames.")] = False,
    every: Annotated[
        float, typer.Option(help="Seconds between two frames of a video or clip that are asked about.", min=0.05)
    ] = 1.0,
    plots: Annotated[Path | None, typer.Option(help="Folder for plots, as PNG.", file_okay=False)] = None,
    markdown: MarkdownOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Accuracy and bytes of every prefix on held-out frames, beside image files, features and tokens.

    With --video or --clips frames follow one another, ours use key frames, and inter-coded video is a baseline too.
    """
    from training.codec.evaluate import frames as evaluation
    from training.codec.points import DOMAINS

    if point not in DOMAINS:
        raise ConfigError("--point", f"{point!r} is none of {', '.join(DOMAINS)}")
    vlm = vlm or (models / "reference-vlm" if models else vlm_or_bundled(None))
    codecs = codec or _codecs_of(point, models)
    run = run_settings(cache, seed, threads)
    if video is not None or clips:
        for option, given in (("--photos", photos), ("--frames", frames), ("--plots", plots)):
            if given is not None:
                raise ConfigError(option, "is for frames that do not follow one another: leave --video or --clips out")
        if clips and (video is not None or questions is not None):
            raise ConfigError("--clips", "come with their own frames and questions: leave --video and --questions out")
        from training.codec.evaluate.video import VIDEO_QUICK, VIDEO_SIZE, VideoEvaluation

        sequences = VideoEvaluation(
            vlm,
            codecs,
            run,
            VIDEO_QUICK if quick else VIDEO_SIZE,
            video,
            _standing_questions(questions),
            every,
            DOMAINS[point],
        )
        _evaluate_video(sequences.with_frames(count), markdown, json_file)
        return
    size = evaluation.QUICK if quick else evaluation.SIZES[point]
    own = _own_frames(frames, questions)
    report = evaluation.evaluate_codec(
        evaluation.Evaluation(vlm, codecs, run, size.with_frames(count), DOMAINS[point], photos=photos, own=own)
    )
    write_report(report, json_file)
    if markdown is not None:
        from training.codec.evaluate.markdown import as_markdown

        write_page(markdown, "Codec against other ways to send a frame", as_markdown(report))
    if plots is not None:
        from training.codec.evaluate.plots import draw_plots

        draw_plots(report, plots, suffix="" if point == "small" else f"-{point}")


def _standing_questions(questions: Path | None) -> Sequence[Asked]:
    from training.codec.evaluate.sequences import SURVEILLANCE_QUESTIONS
    from training.codec.own_frames import read_standing_questions

    return read_standing_questions(questions) if questions else SURVEILLANCE_QUESTIONS


def _evaluate_video(wanted: VideoEvaluation, markdown: Path | None, json_file: Path | None) -> None:
    from training.codec.evaluate.markdown import video_as_markdown
    from training.codec.evaluate.video import evaluate_video

    report = evaluate_video(wanted)
    write_report(report, json_file)
    if markdown is not None:
        write_page(markdown, "Codec against other ways to send a fixed camera", video_as_markdown(report))


@codec_app.command(
    "eval-set",
    epilog="Example: latentbus codec eval-set pope --questions coco_pope_random.json --images val2014 "
    "--codec my-models/codec --vlm my-models/vlm",
)
def codec_eval_set(
    name: Annotated[str, typer.Argument(help="Form of the files: pope, vqav2 or gqa.")],
    questions: Annotated[Path, typer.Option(help="File with the questions, as published.", dir_okay=False)],
    images: Annotated[Path, typer.Option(help="Folder or zip with the images.")],
    annotations: Annotated[Path | None, typer.Option(help="Of VQAv2: file with the answers.", dir_okay=False)] = None,
    codec: CodecOption = None,
    vlm: VlmOption = None,
    count: Annotated[int | None, typer.Option(help="Most images, evenly spread; all unless given.", min=1)] = None,
    sentences: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a sentence-transformers model, for the semantic consistency of answers.", file_okay=False
        ),
    ] = None,
    cache: CacheOption = DEFAULT_CACHE,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Score a codec on POPE, VQAv2 or GQA as the field does: uncompressed tokens, an empty prefix, and every rung."""
    from training.codec.standard_sets.evaluate import StandardSet, evaluate_set
    from training.codec.standard_sets.readers import set_name

    wanted = StandardSet(set_name(name), questions, images, annotations, count, sentences)
    report = evaluate_set(vlm_or_bundled(vlm), _codec(codec), run_settings(cache, 0, threads, device=device), wanted)
    write_report(report, json_file)


@codec_app.command("fetch-video", epilog="Example: latentbus codec eval --video $(latentbus codec fetch-video)")
def codec_fetch_video(cache: CacheOption = DEFAULT_CACHE) -> None:
    """Fetch vtest.avi, a fixed camera over people who walk, out of Debian's package opencv-doc; prints its path."""
    from training.baselines.footage import fetch_vtest

    typer.echo(fetch_vtest(cache))


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
    markdown: MarkdownOption = None,
) -> None:
    """Fit the tables of frames given a key frame, and measure what key frames save, on rendered clips."""
    from training.codec.fit.temporal import Clips, measure_temporal

    folder = codec_to_write(codec) if write else codec or _codecs_of(point, None)[0]
    report = measure_temporal(
        vlm_or_bundled(vlm),
        folder,
        run_settings(DEFAULT_CACHE, seed, threads),
        Clips(clips, seconds),
        write=write,
    )
    write_report(report, json_file)
    write_page(markdown, "Key frames", figures(report))


@codec_app.command("calibrate-stop", epilog="Example: latentbus codec calibrate-stop --codec my-codecs/klt --risk 0.02")
def codec_calibrate_stop(
    codec: WrittenCodecOption = None,
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
    from training.codec.stop.calibrate import StopCalibration, calibrate_stop
    from training.codec.stop.learn_then_test import Promise

    own, promise = _own_frames(frames, questions), Promise(risk, delta, by_type)
    report = calibrate_stop(
        vlm_or_bundled(vlm),
        codec_to_write(codec),
        run_settings(cache, seed, threads),
        StopCalibration(promise, count, questions_a_frame, own),
    )
    write_report(report, json_file)


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
    markdown: MarkdownOption = None,
) -> None:
    """Check the stop rule's promise: calibrate and test on random halves of held-out frames; writes to no codec."""
    from training.codec.stop.learn_then_test import Promise
    from training.codec.stop.verify import StopVerification, verify_stop

    own, promise = _own_frames(frames, questions), Promise(risk, delta, by_type)
    report = verify_stop(
        vlm_or_bundled(vlm),
        _codec(codec),
        run_settings(cache, seed, threads),
        StopVerification(promise, count, questions_a_frame, resplits, own),
    )
    write_report(report, json_file)
    write_page(markdown, "The stop rule's promise", figures(report))


@codec_app.command(
    "calibrate-gate", epilog="Example: latentbus codec calibrate-gate --codec my-codecs/meta_autoencoder"
)
def codec_calibrate_gate(
    codec: WrittenCodecOption = None,
    vlm: VlmOption = None,
    risk: Annotated[
        float,
        typer.Option(help="Accepted share of answers that differ because a question was held back.", min=0, max=1),
    ] = 0.015,
    delta: DeltaOption = 0.05,
    clips: Annotated[int, typer.Option(help="Rendered clips that limits are tested on.", min=1)] = 600,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Prove limits of the change gate, by answer type; writes gate.json and gate.safetensors of the folder."""
    from training.codec.gate.calibrate import GateCalibration, calibrate_gate
    from training.codec.stop.learn_then_test import Promise

    report = calibrate_gate(
        vlm_or_bundled(vlm),
        codec_to_write(codec),
        run_settings(cache, seed, threads),
        GateCalibration(Promise(risk, delta, by_type=True), clips),
    )
    write_report(report, json_file)


@codec_app.command("export", epilog="Example: latentbus codec export --codec my-codecs/klt --vlm my-vlm --int8")
def codec_export(
    codec: WrittenCodecOption = None,
    vlm: VlmOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    int8: Annotated[
        bool, typer.Option("--int8", help="Write encoder.int8.onnx too: the vision tower in 8-bit integers.")
    ] = False,
    frames: Annotated[
        Path | None,
        typer.Option(help="Images of your cameras to calibrate --int8 on, instead of drawn frames.", file_okay=False),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Write encoder.onnx anew from the weights, and compare it with torch: every symbol, and the answers."""
    from training.codec.fit.train import export_codec

    run = run_settings(cache, seed, threads)
    if frames is not None and not int8:
        raise ConfigError("--frames", "is for --int8, whose ranges are calibrated on them: add --int8, or leave it out")
    write_report(export_codec(vlm_or_bundled(vlm), codec_to_write(codec), run, int8=int8, frames=frames), json_file)


def _own_frames(frames: Path | None, questions: Path | None) -> OwnFrames | None:
    if (frames is None) != (questions is None):
        raise ConfigError("--frames", "images and questions come together: --frames DIR --questions FILE")
    if frames is None or questions is None:
        return None
    from training.codec.own_frames import OwnFrames

    return OwnFrames(frames, questions)


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
