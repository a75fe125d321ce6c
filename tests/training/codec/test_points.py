"""How models are shown larger frames, and which operating point codecs for them belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloud_workers.inference.registry import load_model
from schemas.errors import ArtifactError
from tests.cloud.tiny_models import FAMILIES
from training.codec.points import point_of
from training.codec.vlm import open_vlm, open_vlm_at


def saved(family: str, folder: Path) -> Path:
    model, processor = FAMILIES[family]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("family", "tiles"), [("fast_vlm", 1), ("qwen3_vl", 1), ("smolvlm", 2), ("idefics3", 2)])
def test_larger_frames_are_read_whole_where_the_tower_can_and_cut_otherwise(
    family: str, tiles: int, tmp_path: Path
) -> None:
    folder = saved(family, tmp_path)
    _, usual = open_vlm_at(folder, "tiny", 1)
    vlm, large = open_vlm_at(folder, "tiny", 2)
    assert (point_of(usual), point_of(large)) == ("small", "detailed")
    assert (large.image_size_px, large.tiles_per_edge) == (2 * usual.image_size_px, tiles)
    frames = np.zeros((1, large.image_size_px, large.image_size_px, 3), dtype=np.uint8)
    assert large.image_path.of_frames(frames).shape[1] == vlm.token_count
    # As a codec's folder says it, to workers and later stages.
    _, again = open_vlm(folder, "tiny", tiles_per_edge=tiles, frame_size_px=large.tile_px)
    assert point_of(again) == "detailed"
    assert load_model(folder, tiles_per_edge=tiles, frame_size_px=large.tile_px).token_count == vlm.token_count


def test_a_model_that_can_do_neither_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="InternVL: it cannot read such frames"):
        open_vlm_at(saved("internvl", tmp_path), "tiny", 2)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_folder_without_a_model_is_refused(scale: int, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no usable vision-language model"):
        open_vlm_at(tmp_path, "tiny", scale)
