"""``latentbus codec calibrate``: a codec for one's own model from one's own pictures."""

from __future__ import annotations

from typing import Final

import typer

from latentbus.options.calibrate import CalibrateOptions
from latentbus.options.option_set import with_option_sets
from latentbus.options.training import (
    DEFAULT_CACHE,
    INTERRUPTED,
    CacheOption,
    JsonOption,
    SeedOption,
    ThreadsOption,
    run_settings,
    show_progress,
    write_report,
)

CALIBRATE_EPILOG: Final = "Example: latentbus codec calibrate --vlm my-vlm --images photos --output my-models"


@with_option_sets
def codec_calibrate(
    options: CalibrateOptions,
    cache: CacheOption = DEFAULT_CACHE,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    json_file: JsonOption = None,
) -> None:
    """Make a codec for your model from your pictures: transform, stop rule, key frame tables, encoder, model card.

    Stages that are done are skipped, so that after Ctrl-C the same command goes on. Ends with what to expect.
    """
    from transformers.utils.logging import disable_progress_bar

    from training.codec.calibrate.card import expect_lines
    from training.codec.calibrate.work import calibrate_codec

    disable_progress_bar()
    run = run_settings(cache, seed, threads)
    try:
        report = calibrate_codec(options.vlm, options.images, options.output, run, options.calibration())
    except KeyboardInterrupt:
        show_progress("interrupted; the same command goes on where it was")
        raise typer.Exit(INTERRUPTED) from None
    typer.echo("\n".join(expect_lines(report)))
    if json_file is not None:
        write_report(report, json_file)
    show_progress(f"try it: latentbus demo --models {options.output}")
