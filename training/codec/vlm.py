"""A frozen vision-language model as codecs see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoConfig

from cloud_workers.inference.adapter import ModelAdapter
from cloud_workers.inference.registry import family_of, load_model
from pipeline.codec.model_files import check_model_files
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
        usual_size_px: Height and width of the frames that it reads unless told otherwise.
        tiles_per_edge: Tiles that a frame is cut into along each edge, 1 for none.
        fit: What frames of another size go through.
    """

    image_path: PixelsToTokens
    vlm_id: str
    sha256: str
    image_size_px: int
    usual_size_px: int
    tiles_per_edge: int = 1
    fit: FrameFit = field(default_factory=FrameFit)

    @property
    def tile_px(self) -> int:
        """Height and width of one image of the VLM."""
        return self.image_size_px // self.tiles_per_edge


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
        usual_size_px=family_of(vlm.model.config, str(vlm_dir)).image_size_px(vlm.model.config),
        tiles_per_edge=tiles_per_edge,
    )
    return vlm, frozen


def open_vlm_at(vlm_dir: Path, vlm_id: str, frame_scale: int) -> tuple[ModelAdapter, FrozenVlm]:
    """Load a VLM for frames of another size than it usually reads, in the best way that its family has.

    Args:
        vlm_dir: Folder in `save_pretrained` format.
        vlm_id: Name under which codecs refer to it.
        frame_scale: As in `CodecBudget`.

    Raises:
        ArtifactError: it is not a usable model, or reads no frames of that size.
    """
    if frame_scale == 1:
        return open_vlm(vlm_dir, vlm_id)
    check_model_files(vlm_dir)
    try:
        config = AutoConfig.from_pretrained(vlm_dir, trust_remote_code=False)
    except (OSError, ValueError):
        return open_vlm(vlm_dir, vlm_id, tiles_per_edge=frame_scale)  # says what is wrong with it
    family = family_of(config, str(vlm_dir))
    if family.any_size:
        return open_vlm(vlm_dir, vlm_id, frame_size_px=frame_scale * family.image_size_px(config))
    return open_vlm(vlm_dir, vlm_id, tiles_per_edge=frame_scale)
