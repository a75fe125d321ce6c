"""``latentbus codec train``: a Meta AutoEncoder for one's own model from one's own pictures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer

from latentbus.options.calibrate import TrainedOptions
from latentbus.options.codec_train import LearningOptions
from latentbus.options.option_set import with_option_sets
from latentbus.options.training import (
    DEFAULT_CACHE,
    INTERRUPTED,
    CacheOption,
    DeviceOption,
    JsonOption,
    SeedOption,
    ThreadsOption,
    run_settings,
    show_progress,
    write_report,
)

TRAIN_EPILOG: Final = (
    "Example: latentbus codec train --vlm my-vlm --images photos --output my-models --device cuda --processes 2"
)


@with_option_sets
def codec_train(
    options: TrainedOptions,
    learning: LearningOptions,
    cache_gb: Annotated[
        float,
        typer.Option(
            "--cache-gb",
            help="Most space of visual tokens in the cache. Of more pictures only so many are taken; tokens of other "
            "runs are deleted first.",
            min=0.001,
        ),
    ] = 50.0,
    cache: CacheOption = DEFAULT_CACHE,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Train a Meta AutoEncoder for your model on your pictures, from the KLT of codec calibrate on.

    The result is a directory like that of codec calibrate, with logs for TensorBoard, and ends with what to expect and
    a comparison with the KLT at the same bytes. After Ctrl-C or a crash the same command goes on from its checkpoint.
    """
    from transformers.utils.logging import disable_progress_bar

    from training.codec.calibrate.card import expect_lines
    from training.codec.train.compare import compared_lines
    from training.codec.train.plan import CodecTraining, Learning
    from training.codec.train.work import train_on_pictures

    wanted = CodecTraining(options.calibration(), Learning(**asdict(learning)), cache_gb)
    disable_progress_bar()
    run = run_settings(cache, seed, threads, device=device)
    try:
        report = train_on_pictures(options.vlm, options.images, options.output, run, wanted)
    except KeyboardInterrupt:
        show_progress("interrupted; the same command goes on where it was")
        raise typer.Exit(INTERRUPTED) from None
    typer.echo("\n".join([*expect_lines(report), "", *compared_lines(report)]))
    if json_file is not None:
        write_report(report, json_file)
    show_progress(f"try it: latentbus demo --models {options.output}")
