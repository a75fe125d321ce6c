"""Options of ``latentbus codec calibrate`` and ``latentbus codec train``: model, pictures, questions, promise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus.options.training import short_id

if TYPE_CHECKING:
    from training.codec.calibrate.picture_work import CodecCalibration

_LARGEST_BYTES = 8_000
"""A frame may take twice the mean, and one message holds 16,384."""


def _short_or_none(text: str | None) -> str | None:
    return None if text is None else short_id(text)


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What is calibrated, on what; see `training.codec.calibrate.work.CodecCalibration`."""

    vlm: Annotated[
        str, typer.Option(help="The model: folder in save_pretrained format, or hub id org/name or org/name@commit.")
    ]
    images: Annotated[Path, typer.Option(help="Your pictures: a folder, a zip of one, or a video.")]
    output: Annotated[Path, typer.Option(help="Directory for the result: codec/ and a link to the model.")]
    questions: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines {"text": ..., "answer_type": ...}, asked of every picture; with "frame": "a.png" of that '
            'one, and with "truth" accuracy is reported. Four general questions unless given.',
            dir_okay=False,
        ),
    ] = None
    risk: Annotated[
        float, typer.Option(help="Accepted share of early answers that differ from the whole latent's.", min=0, max=1)
    ] = 0.05
    delta: Annotated[
        float, typer.Option(help="Accepted chance that a calibration breaks its promise.", min=0.0001, max=0.5)
    ] = 0.05
    questions_a_frame: Annotated[
        int, typer.Option(help="Questions of a frame that the promise covers; 0 covers all.", min=0)
    ] = 3
    size_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes",
            help="Mean size of a whole latent; by the number of visual tokens unless given.",
            min=16,
            max=_LARGEST_BYTES,
        ),
    ] = None
    tiles: Annotated[
        int, typer.Option(help="Tiles along each edge of a frame, for SmolVLM and Idefics3; 1 for none.", min=1, max=8)
    ] = 1
    frame_px: Annotated[
        int | None, typer.Option(help="Edge of a tile, for models that read any; the usual one unless given.", min=8)
    ] = None
    every_s: Annotated[float, typer.Option("--every", help="Seconds between two frames of a video.", min=0.05)] = 1.0
    max_pictures: Annotated[int, typer.Option(help="Most pictures; of more so many are taken.", min=1)] = 400
    vlm_id: Annotated[
        str | None,
        typer.Option(help="What the codec calls the model; its own name unless given.", callback=_short_or_none),
    ] = None
    version: Annotated[
        int, typer.Option("--version-of-weights", help="Number of this release of the codec.", min=1)
    ] = 1
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a codec in the output directory.")] = False

    def calibration(self) -> CodecCalibration:
        """What the work takes."""
        from training.codec.calibrate.picture_work import CodecCalibration
        from training.codec.stop.learn_then_test import Promise

        return CodecCalibration(
            questions=self.questions,
            promise=Promise(self.risk, self.delta),
            questions_a_frame=self.questions_a_frame,
            size_bytes=self.size_bytes,
            tiles_per_edge=self.tiles,
            frame_px=self.frame_px,
            every_s=self.every_s,
            max_pictures=self.max_pictures,
            vlm_id=self.vlm_id,
            version=self.version,
            overwrite=self.overwrite,
        )


@dataclass(frozen=True, slots=True)
class TrainedOptions(CalibrateOptions):
    """The same for a training, which takes many pictures."""

    max_pictures: Annotated[int, typer.Option(help="Most pictures; of more so many are taken.", min=1)] = 50_000
