"""A frozen vision-language model as codecs see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cloud_workers.inference.adapter import ModelAdapter
from cloud_workers.inference.registry import load_model
from pipeline.codec.spec import FrameFit, hash_vlm
from training.codec.image_path import PixelsToTokens


@dataclass(frozen=True, slots=True)
class FrozenVlm:
    """The model that a codec is made for.

    Attributes:
        image_path: From pixels to its visual tokens.
        vlm_id: Its name or hub id.
        sha256: `hash_vlm` of its folder.
        image_size_px: Height and width of a frame.
        tiles_per_edge: Tiles that a frame is cut into along each edge, 1 for none.
        fit: What frames of another size go through.
    """

    image_path: PixelsToTokens
    vlm_id: str
    sha256: str
    image_size_px: int
    tiles_per_edge: int = 1
    fit: FrameFit = field(default_factory=FrameFit)


def open_vlm(
    vlm_dir: Path, vlm_id: str, *, tiles_per_edge: int = 1, frame_size_px: int | None = None
) -> tuple[ModelAdapter, FrozenVlm]:
    """Load a VLM as workers do, and what codecs need of it.

    Args:
        vlm_dir: Folder in `save_pretrained` format.
        vlm_id: Name under which codecs refer to it.
        tiles_per_edge: As in `CodecSpec`.
        frame_size_px: Height and width of a tile, for models that read any; None for what is usual in the family.

    Raises:
        ArtifactError: it is not a usable model.
    """
    vlm = load_model(vlm_dir, tiles_per_edge=tiles_per_edge, frame_size_px=frame_size_px)
    tile_px = vlm.frame_size_px // tiles_per_edge
    image_path = PixelsToTokens(
        vlm.model, vlm.processor.image_processor, tiles_per_edge=tiles_per_edge, tile_px=tile_px
    )
    frozen = FrozenVlm(
        image_path=image_path.eval(),
        vlm_id=vlm_id,
        sha256=hash_vlm(vlm_dir),
        image_size_px=vlm.frame_size_px,
        tiles_per_edge=tiles_per_edge,
    )
    return vlm, frozen
