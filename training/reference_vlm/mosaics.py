"""Mosaics of photographs, drawn on the device: the tower sees each in hundreds of crops, sizes and places."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as nnf

from training.reference_vlm.dense_labels import IGNORE, LABELS

_GRIDS: Final = (1, 2, 2, 3, 3, 4, 4, 5)
_EMPTY_SHARE: Final = 0.15
_LARGEST_GAP: Final = 14


class PhotoMosaics:
    """Draws labelled mosaics.

    Args:
        photos: uint8 [P, h, w, 3].
        kinds: Index of each photograph's class in the vocabulary, int64 [P].
        background: Index of the background.
        size: Height and width of a mosaic in pixels.
        grid: Visual tokens along one edge.
    """

    def __init__(self, photos: Tensor, kinds: Tensor, *, background: int, size: int, grid: int) -> None:
        self._photos = photos
        self._kinds = kinds
        self._background = background
        self._size = size
        self._grid = grid

    def draw(self, batch: int, generator: torch.Generator, choice: int) -> tuple[Tensor, Tensor]:
        """Mosaics with equal grids.

        Args:
            batch: How many.
            generator: Source of randomness on the photographs' device.
            choice: Picks grid, gap and filter; any non-negative number.

        Returns:
            Pixels in [-1, 1], float [B, 3, S, S]; dense labels, int64 [B, 6, N].
        """
        device = self._photos.device
        cells = _GRIDS[choice % len(_GRIDS)]
        cell = self._size // cells
        gap = choice // len(_GRIDS) % _LARGEST_GAP
        edge = cell - gap

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=device) * (high - low) + low

        count = batch * cells * cells
        chosen = torch.randint(len(self._photos), (count,), generator=generator, device=device)
        photos = self._photos[chosen].permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        # Crop, stretch and mirror by one affine map.
        theta = torch.zeros(count, 2, 3, device=device)
        scale_x, scale_y = uniform(0.72, 1.0, count), uniform(0.72, 1.0, count)
        theta[:, 0, 0] = scale_x * torch.where(uniform(0, 1, count) < 0.5, -1.0, 1.0)
        theta[:, 1, 1] = scale_y
        theta[:, 0, 2] = uniform(-1, 1, count) * (1 - scale_x)
        theta[:, 1, 2] = uniform(-1, 1, count) * (1 - scale_y)
        places = nnf.affine_grid(theta, [count, 3, edge, edge], align_corners=False)
        mode = ("bilinear", "bicubic")[choice // 7 % 2]
        drawn = nnf.grid_sample(photos, places, mode=mode, padding_mode="border", align_corners=False)
        drawn = drawn * uniform(0.75, 1.25, count, 1, 1, 1) + uniform(-0.15, 0.15, count, 3, 1, 1)
        shown = (uniform(0, 1, count) >= _EMPTY_SHARE) | torch.tensor(cells == 1, device=device)
        canvas = uniform(-0.8, 0.8, batch, 3, 1, 1).expand(-1, -1, self._size, self._size).clone()
        framed = uniform(-0.8, 0.8, batch, 3, 1, 1)
        framed = framed[:, None].expand(-1, cells * cells, -1, cell, cell).reshape(count, 3, cell, cell).clone()
        offset = gap // 2
        framed[:, :, offset : offset + edge, offset : offset + edge] = torch.where(
            shown[:, None, None, None], drawn, framed[:, :, offset : offset + edge, offset : offset + edge]
        )
        whole = framed.reshape(batch, cells, cells, 3, cell, cell).permute(0, 3, 1, 4, 2, 5)
        canvas[:, :, : cells * cell, : cells * cell] = whole.reshape(batch, 3, cells * cell, cells * cell)
        kinds = torch.where(shown, self._kinds[chosen], self._background).reshape(batch, cells, cells)
        return canvas.clamp_(-1, 1), self._labels(kinds, cells, cell)

    def _labels(self, kinds: Tensor, cells: int, cell: int) -> Tensor:
        """Dense labels of mosaics from the kinds in their cells, int64 [B, 6, N]."""
        device, grid = kinds.device, self._grid
        centre = (torch.arange(grid, device=device) + 0.5) * (self._size / grid)
        owner = (centre / cell).long().clamp_max(cells - 1)
        kind = kinds[:, owner][:, :, owner]
        on_photo = kind != self._background
        middle = (torch.arange(cells, device=device) + 0.5) * cell / self._size
        third = (middle * 3).long()[owner]
        holds = (middle * grid).long()[owner] == torch.arange(grid, device=device)
        rows = torch.where(on_photo, third[:, None].expand(grid, grid), IGNORE)
        columns = torch.where(on_photo, third[None, :].expand(grid, grid), IGNORE)
        anchor = (on_photo & holds[:, None] & holds[None, :]).long()
        none = torch.full_like(kind, IGNORE)
        still = torch.where(on_photo, 0, IGNORE)
        labels = {"kind": kind, "color": none, "row": rows, "column": columns, "anchor": anchor, "moving": still}
        return torch.stack([labels[name] for name in LABELS], dim=1).flatten(2)
