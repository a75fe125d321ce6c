"""From pixels to the visual tokens that a language model consumes: the part of a VLM that runs at the edge."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_workers.inference.registry import family_of
from training.codec.towers import tower_of

_BATCH = 128
_FIXED_ONE = 1 << 22


class PixelsToTokens(nn.Module):
    """Cutting into tiles, rescaling, vision tower and connector, for frames of the operating point's own size.

    Args:
        model: of a family in `training.codec.towers`.
        image_processor: Its image processor, for mean and standard deviation.
        tiles_per_edge: 1 for frames of the tower's input size. 2 and more for frames so many times as large: they
            become tiles, row by row, and a global view behind them, as Idefics3's processor orders them.
        tile_px: Edge of a tile; None for the family's usual one.

    Raises:
        ArtifactError: a model of another family.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: Any, image_processor: Any, *, tiles_per_edge: int = 1, tile_px: int | None = None
    ) -> None:
        super().__init__()
        self._tiles = tiles_per_edge
        source = type(model).__name__
        self.views = tower_of(model, family_of(model.config, source).frame_size(model.config, tile_px, source=source))
        self.register_buffer("mean", torch.tensor(list(image_processor.image_mean)).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(list(image_processor.image_std)).reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [B, H, W, 3] to visual tokens [B, N, D]."""
        views = pixels if self._tiles == 1 else tiles_and_global_view(pixels, self._tiles)
        scaled = (views.permute(0, 3, 1, 2).to(torch.float32) / 255.0 - self.mean) / self.std
        tokens: Tensor = self.views(scaled)
        return tokens if self._tiles == 1 else tokens.reshape(pixels.shape[0], -1, tokens.shape[-1])

    def exportable(self) -> PixelsToTokens:
        """A copy without gates that let everything pass; on a FastVLM tower they cost the edge a fifth of its time.

        The towers of the third reference VLM have squeeze-and-excitation, as the stock class has, whose gates are one.
        """
        own = copy.deepcopy(self)
        for block in own.views.modules():
            if _is_open(getattr(block, "squeeze_excite", None)):
                block.squeeze_excite = nn.Identity()
        return own

    @torch.no_grad()
    def of_frames(self, frames: NDArray[np.uint8]) -> Tensor:
        """Uncompressed visual tokens of many frames: uint8 [F, H, W, 3] to float32 [F, N, D], in main memory."""
        batch, device = max(1, _BATCH // self._tiles**2), self.mean.device
        parts = [
            self(torch.tensor(np.asarray(frames[i : i + batch]), device=device)).cpu()
            for i in range(0, len(frames), batch)
        ]
        return torch.cat(parts)


def _is_open(gate: Any) -> bool:
    """Whether a gate is exactly one, whatever it sees."""
    expand = getattr(gate, "expand", None)
    if not isinstance(expand, nn.Conv2d) or expand.bias is None:
        return False
    return not bool(expand.weight.any()) and bool((torch.sigmoid(expand.bias) == 1).all())


def tiles_and_global_view(pixels: Tensor, tiles_per_edge: int) -> Tensor:
    """The images that a frame is split into.

    The global view is the box reduction that Pillow computes in 8-bit fixed point, to the bit: rows first, then
    columns, each rounded half up with weights of 22 bits.

    Args:
        pixels: uint8 [B, H, W, 3].
        tiles_per_edge: Tiles along each edge, t.

    Returns:
        int32 [B * (t * t + 1), H / t, W / t, 3]: for each frame its tiles, row by row, then the global view.
    """
    batch, height, width = pixels.shape[:3]
    tall, wide = height // tiles_per_edge, width // tiles_per_edge
    whole = pixels.to(torch.int32)
    cut = whole.reshape(batch, tiles_per_edge, tall, tiles_per_edge, wide, 3).permute(0, 1, 3, 2, 4, 5)
    cut = cut.reshape(batch, tiles_per_edge**2, tall, wide, 3)
    weight, half = round(_FIXED_ONE / tiles_per_edge), _FIXED_ONE // 2
    rows = whole.reshape(batch, height, wide, tiles_per_edge, 3).sum(3, dtype=torch.int32)
    rows = torch.div(rows * weight + half, _FIXED_ONE, rounding_mode="floor")
    view = rows.reshape(batch, tall, tiles_per_edge, wide, 3).sum(2, dtype=torch.int32)
    view = torch.div(view * weight + half, _FIXED_ONE, rounding_mode="floor").clamp_max(255)
    return torch.cat([cut, view[:, None]], dim=1).reshape(-1, tall, wide, 3)
