"""The models of an evaluation: one VLM, and codecs of one operating point that were made for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_workers.inference.adapter import ModelAdapter
from pipeline.codec.spec import CodecSpec, FrameFit, load_codec_spec
from schemas.errors import ConfigError
from training.codec.vlm import FrozenVlm, open_vlm


@dataclass(frozen=True, slots=True)
class OpenedCodecs:
    """What an evaluation needs.

    Attributes:
        specs: Of the codecs, in the order of their folders.
        vlm: Answers questions.
        frozen: The same model, as codecs see it.
    """

    specs: tuple[CodecSpec, ...]
    vlm: ModelAdapter
    frozen: FrozenVlm

    def report(self) -> dict[str, Any]:
        """What a report says of them."""
        return {
            "vlm_sha256": self.frozen.sha256,
            "frame_px": self.frozen.image_size_px,
            "codecs": [
                {"name": spec.name, "version": spec.version, "fingerprint": spec.fingerprint4.hex()}
                for spec in self.specs
            ],
        }


def open_codecs(vlm_dir: Path, codec_dirs: Sequence[Path]) -> OpenedCodecs:
    """Load a VLM and look at the codecs.

    Args:
        vlm_dir: Folder of the VLM.
        codec_dirs: Codec folders, at least one.

    Raises:
        ArtifactError: One of them is not usable, or they do not belong together.
        ConfigError: The codecs are of different operating points.
    """
    specs = tuple(load_codec_spec(folder) for folder in codec_dirs)
    for spec in specs:
        spec.check_vlm(vlm_dir)
        if _frames_of(spec) != _frames_of(specs[0]):
            raise ConfigError("--codec", "codecs of different operating points: their frames are not the same")
    vlm, frozen = open_vlm(vlm_dir, "evaluated", tiles_per_edge=specs[0].tiles_per_edge, frame_size_px=specs[0].tile_px)
    return OpenedCodecs(specs, vlm, frozen)


def _frames_of(spec: CodecSpec) -> tuple[int, int, FrameFit]:
    """What decides which pixels a codec gets to see of a frame."""
    return spec.image_size_px, spec.tiles_per_edge, spec.fit
