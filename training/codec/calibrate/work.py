"""Calibrates a codec for a model on somebody's own pictures, stage by stage; what was done before is not done again.

::

    pictures   which can be used
    tokens     what the tower makes of them (kept in the cache beside the stages)
    codec      transform, tables, encoder
    stop       ladder and thresholds
    report     what to expect

The result is one directory::

    codec/   for edges and workers: codec.json, encoder.onnx, ..., README.md (model card), calibration.json (figures)
    vlm      link to the model's folder
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.codec.bundled import OWN_CODEC
from training.codec.calibrate.make import latent_size, make_codec
from training.codec.calibrate.picture_work import FIGURES, TOKENS, CodecCalibration, PictureWork, open_work
from training.codec.calibrate.sets import CLOSED_FORM
from training.run import RunSettings
from training.stages import Stage, StagedWork


def calibrate_codec(
    vlm: str, images: Path, output: Path, run: RunSettings, wanted: CodecCalibration | None = None
) -> dict[str, Any]:
    """Make a KLT codec with stop rule and key frame tables for any model, from pictures of one's own.

    Args:
        vlm: Folder in `save_pretrained` format, or hub id.
        images: Folder or zip of pictures, or a video.
        output: Gets `codec` and `vlm`.
        run: Cache, seed, threads, progress.
        wanted: What to make.

    Returns:
        What `calibration.json` holds.

    Raises:
        TooFewPicturesError: there are fewer pictures than the promise needs.
        ConfigError: an option, a question or the output folder is wrong.
        ArtifactError: the model is not usable.
        SourceError: no frame of a video decodes.
    """
    wanted = wanted or CodecCalibration()
    work = _Calibration(wanted, run, open_work(vlm, images, output, run, wanted, CLOSED_FORM), CLOSED_FORM)
    spent_s = StagedWork(work.root, work.stages(), run.progress).run()
    report: dict[str, Any] = json.loads((work.root / "report" / FIGURES).read_bytes())
    work.lay_out(output, "stop", "report")
    run.progress(f"{output / OWN_CODEC} written, {sum(spent_s.values()) / 60:.1f} min")
    return report


class _Calibration(PictureWork):
    """Stages of one calibration."""

    def stages(self) -> list[Stage]:
        """All of them, each after what it reads."""
        return [
            *self.first_stages(),
            Stage("codec", "transform, tables, encoder", self.codec_settings, (TOKENS,), self._make, 0.05),
            Stage("stop", "ladder and thresholds", self.stop_settings, ("codec",), self._calibrate, 0.3),
            Stage("report", "what to expect", {}, ("stop",), self._report, 0.05),
        ]

    def _make(self, folder: Path) -> None:
        size = latent_size(*self.token_shape, self.wanted.size_bytes)
        made = make_codec(folder, self.material(), size, self.wanted.version, self.run.progress)
        (folder / FIGURES).write_text(json.dumps(made), encoding="utf-8")

    def _calibrate(self, folder: Path) -> None:
        self.calibrate(folder, "codec")

    def _report(self, folder: Path) -> None:
        self.report(folder, "stop")
